//! The log of ticks: which one is there, which one all that is stored refers to, and going on with another.

use tocsin_store::{AcceptedLog, LogStart, TickLog};

use super::{Control, ControlError};

/// Which log is there, and which one the store refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogReport {
    /// The log that checkpoints, firings and alerts refer to; None until ticks were evaluated for the first time.
    pub expected: Option<TickLog>,
    /// The identity of the log that is there.
    pub found: String,
}

/// Where evaluation begins in a log that is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptFrom {
    /// At the earliest tick that it has: none is missed, and alerts may fire on ticks from before they were created.
    Earliest,
    /// At its end: ticks that it has already are not evaluated.
    End,
}

impl Control {
    /// Which log is there.
    pub async fn log(&self) -> Result<LogReport, ControlError> {
        Ok(LogReport { expected: self.0.store.tick_log().await?, found: self.0.bus.identity().await? })
    }

    /// Goes on with the log that is there, which `found` must name: alerts keep what they remember. Returns it, and how many
    /// live bindings wait for the first tick of their symbol, since their partition is not there any more.
    pub async fn accept_log(&self, found: &str, from: AcceptFrom) -> Result<(TickLog, u64), ControlError> {
        let identity = self.0.bus.identity().await?;
        if found != identity {
            let text = format!("the log is {identity}, and not {found}: look at it with `tocsin log show`");
            return Err(ControlError::Conflict(text));
        }
        // Before the ends: of a partition that is evaluated meanwhile, what is referred to may be behind the end that was read.
        let referenced = self.0.store.referenced().await?;
        let mut starts = Vec::new();
        for (partition, end) in (0..).zip(self.0.bus.ends().await?) {
            let offset = match from {
                AcceptFrom::Earliest => self.0.bus.earliest(partition).await?,
                AcceptFrom::End => end,
            };
            let has_lost_records = referenced.get(&partition).is_some_and(|referenced| *referenced > end);
            starts.push(LogStart { partition, offset, end, has_lost_records });
        }
        match self.0.store.accept_log(&identity, &starts).await? {
            AcceptedLog::Accepted { log, moved_bindings } => Ok((log, moved_bindings)),
            AcceptedLog::Known => Err(ControlError::Conflict(format!(
                "there is nothing to accept: all that is stored refers to {identity}, and to nothing behind its end"
            ))),
            AcceptedLog::PromotionUnderWay => Err(ControlError::Raced(
                "a promotion is under way, whose bindings are at offsets of the log before: wait for its end".into(),
            )),
        }
    }
}
