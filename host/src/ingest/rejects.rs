//! When rejected frames and trades are logged: a feed that sends nothing else must not fill it.

use std::time::Duration;

use tokio::time::Instant;

/// At most one warning in so long: the interval of the summary line, which has the count as well.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// How much of a rejected frame is quoted, in characters: a trade has about 100.
const MAX_QUOTE_CHARS: usize = 160;

/// Counts what was rejected since the last warning.
#[derive(Debug, Default)]
pub(super) struct RejectLog {
    warned: Option<Instant>,
    unreported: u64,
}

impl RejectLog {
    /// Takes note of rejections. If it is time for a warning: how many there were since the last one.
    pub(super) fn is_due(&mut self, rejected: u64, now: Instant) -> Option<u64> {
        self.unreported += rejected;
        if self.warned.is_some_and(|warned| now.duration_since(warned) < WARN_EVERY) {
            return None;
        }
        self.warned = Some(now);
        Some(std::mem::take(&mut self.unreported))
    }
}

/// The beginning of a text.
pub(super) fn shortened(text: &str) -> &str {
    text.char_indices().nth(MAX_QUOTE_CHARS).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_tells_of_all_since_the_last_one() {
        let (mut log, begin) = (RejectLog::default(), Instant::now());
        for (after_ms, rejected, due) in [
            (0, 2, Some(2)),
            (1, 1, None),
            (9_999, 3, None),
            (10_000, 1, Some(5)),
            (19_999, 1, None),
            (40_000, 1, Some(2)),
        ] {
            assert_eq!(log.is_due(rejected, begin + Duration::from_millis(after_ms)), due, "after {after_ms} ms");
        }
    }

    #[test]
    fn a_quote_is_cut_between_characters() {
        assert_eq!(shortened("short"), "short");
        assert_eq!(shortened(&"ü".repeat(1_000)), "ü".repeat(MAX_QUOTE_CHARS));
    }
}
