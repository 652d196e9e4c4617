//! What a feed says of itself: whether it is connected, what went wrong last, and its counters.
//!
//! One [`FeedStatus`] is shared by the feed, which writes, and by `/health`, the log and the metrics, which read
//! [`FeedStatus::snapshot`]. Times are the caller's: this file has no clock.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Where ticks come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedKind {
    /// Finnhub's WebSocket, or a server that speaks its protocol.
    Finnhub,
    /// Binance's public trade streams.
    Binance,
    /// Invented prices.
    Simulated,
}

/// Why a frame, or one trade of a frame, gave no tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectReason {
    /// A frame of binary, or of text that is not UTF-8.
    NotText,
    /// A frame over the size limit.
    TooLong,
    /// A frame that is not JSON.
    NotJson,
    /// A frame of a type that this feed's client does not read.
    UnknownType,
    /// A frame of a known type without the members that the type needs.
    BadFrame,
    /// A trade that lacks a member, or has one of the wrong type.
    BadTrade,
    /// A trade whose symbol is none.
    BadSymbol,
    /// A trade whose price is not a finite number.
    BadPrice,
    /// A trade whose volume is not a finite number of at least 0.
    BadVolume,
    /// A trade whose time is out of range.
    BadTime,
}

impl RejectReason {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 10] = [
        Self::NotText,
        Self::TooLong,
        Self::NotJson,
        Self::UnknownType,
        Self::BadFrame,
        Self::BadTrade,
        Self::BadSymbol,
        Self::BadPrice,
        Self::BadVolume,
        Self::BadTime,
    ];

    /// The reason's name in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::NotText => "not_text",
            Self::TooLong => "too_long",
            Self::NotJson => "not_json",
            Self::UnknownType => "unknown_type",
            Self::BadFrame => "bad_frame",
            Self::BadTrade => "bad_trade",
            Self::BadSymbol => "bad_symbol",
            Self::BadPrice => "bad_price",
            Self::BadVolume => "bad_volume",
            Self::BadTime => "bad_time",
        }
    }
}

/// A feed's state and counters. Cheap to write; shared by reference.
#[derive(Debug)]
pub struct FeedStatus {
    kind: FeedKind,
    connected: AtomicBool,
    frames: AtomicU64,
    ticks: AtomicU64,
    rejected: [AtomicU64; RejectReason::ALL.len()],
    reconnects: AtomicU64,
    /// 0 until a tick came: no feed of today has ticks of 1970.
    last_tick_at_ms: AtomicI64,
    /// When it was connected, or the last frame came, whichever was later; 0 before.
    last_heard_at_ms: AtomicI64,
    last_error: Mutex<Option<FeedProblem>>,
    refusal: Mutex<Option<String>>,
}

/// The last thing that went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedProblem {
    /// What went wrong and what to do about it. Never holds a key.
    pub text: String,
    /// When, Unix milliseconds.
    pub at_ms: i64,
}

/// A feed's state and counters at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedSnapshot {
    /// Where the ticks come from.
    pub kind: FeedKind,
    /// Whether ticks can come now.
    pub connected: bool,
    /// The last thing that went wrong, which may be over.
    pub last_error: Option<FeedProblem>,
    /// That some of the symbols asked for have no ticks, and why, for as long as that is so.
    pub refusal: Option<String>,
    /// Data frames received, good or bad.
    pub frames: u64,
    /// Ticks received.
    pub ticks: u64,
    /// Frames and trades that gave no tick, by reason, in the order of [`RejectReason::ALL`].
    pub rejected: [u64; RejectReason::ALL.len()],
    /// Connections made after the first.
    pub reconnects: u64,
    /// When the last tick was received (not its event time), Unix milliseconds.
    pub last_tick_at_ms: Option<i64>,
    /// When it was connected, or the last frame came, whichever was later, Unix milliseconds. A WebSocket's own pings and
    /// pongs are no frames: a server that is alive and says nothing is silent.
    pub last_heard_at_ms: Option<i64>,
}

impl FeedStatus {
    /// The status of a feed that has not begun.
    pub fn new(kind: FeedKind) -> Self {
        Self {
            kind,
            connected: AtomicBool::new(false),
            frames: AtomicU64::new(0),
            ticks: AtomicU64::new(0),
            rejected: Default::default(),
            reconnects: AtomicU64::new(0),
            last_tick_at_ms: AtomicI64::new(0),
            last_heard_at_ms: AtomicI64::new(0),
            last_error: Mutex::default(),
            refusal: Mutex::default(),
        }
    }

    /// Where the ticks come from.
    pub fn kind(&self) -> FeedKind {
        self.kind
    }

    /// The state and the counters as they are now.
    pub fn snapshot(&self) -> FeedSnapshot {
        FeedSnapshot {
            kind: self.kind,
            connected: self.connected.load(Relaxed),
            last_error: self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            refusal: self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            frames: self.frames.load(Relaxed),
            ticks: self.ticks.load(Relaxed),
            rejected: std::array::from_fn(|i| self.rejected[i].load(Relaxed)),
            reconnects: self.reconnects.load(Relaxed),
            last_tick_at_ms: Some(self.last_tick_at_ms.load(Relaxed)).filter(|ms| *ms > 0),
            last_heard_at_ms: Some(self.last_heard_at_ms.load(Relaxed)).filter(|ms| *ms > 0),
        }
    }

    pub(crate) fn set_connected(&self, now_ms: i64) {
        self.last_heard_at_ms.store(now_ms, Relaxed);
        self.connected.store(true, Relaxed);
    }

    pub(super) fn set_disconnected(&self) {
        self.connected.store(false, Relaxed);
    }

    pub(crate) fn count_frame(&self, now_ms: i64) {
        self.frames.fetch_add(1, Relaxed);
        self.last_heard_at_ms.store(now_ms, Relaxed);
    }

    pub(super) fn count_reconnect(&self) {
        self.reconnects.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_rejected(&self, reason: RejectReason) {
        self.rejected[reason as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn count_ticks(&self, count: usize, now_ms: i64) {
        self.ticks.fetch_add(count as u64, Relaxed);
        self.last_tick_at_ms.store(now_ms, Relaxed);
        self.last_heard_at_ms.store(now_ms, Relaxed);
    }

    /// Says that some symbols have no ticks, until that is taken back with None.
    pub(crate) fn set_refusal(&self, text: Option<String>) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    pub(super) fn set_error(&self, text: String, now_ms: i64) {
        let mut last_error = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        *last_error = Some(FeedProblem { text, at_ms: now_ms });
    }
}

impl FeedSnapshot {
    /// How many frames and trades were rejected for one reason.
    pub fn rejected_for(&self, reason: RejectReason) -> u64 {
        self.rejected[reason as usize]
    }

    /// Each reason for which frames and trades were rejected, with how many.
    pub fn rejections(&self) -> impl Iterator<Item = (RejectReason, u64)> {
        RejectReason::ALL.into_iter().zip(self.rejected).filter(|(_, count)| *count > 0)
    }

    /// How many frames and trades were rejected in all.
    pub fn rejected_total(&self) -> u64 {
        self.rejected.iter().sum()
    }
}

impl FeedKind {
    /// The kind's name in logs, health and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Finnhub => "finnhub",
            Self::Binance => "binance",
            Self::Simulated => "simulated",
        }
    }
}

impl fmt::Display for FeedKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_counter_and_a_name_of_its_own() {
        let status = FeedStatus::new(FeedKind::Finnhub);
        for (i, reason) in RejectReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, i);
            (0..=i).for_each(|_| status.count_rejected(reason));
        }
        let snapshot = status.snapshot();
        for (i, reason) in RejectReason::ALL.into_iter().enumerate() {
            assert_eq!(snapshot.rejected_for(reason), i as u64 + 1, "{}", reason.label());
        }
        assert_eq!(snapshot.rejected_total(), 55);
        let labels = RejectReason::ALL.map(RejectReason::label);
        assert_eq!(labels.iter().collect::<std::collections::HashSet<_>>().len(), labels.len());
    }

    #[test]
    fn a_snapshot_shows_what_was_written() {
        let status = FeedStatus::new(FeedKind::Simulated);
        assert_eq!(status.snapshot().last_tick_at_ms, None);
        status.set_connected(1_699_999_999_998);
        status.count_frame(1_699_999_999_999);
        assert_eq!(status.snapshot().last_heard_at_ms, Some(1_699_999_999_999));
        status.count_ticks(3, 1_700_000_000_000);
        status.set_error("it broke".into(), 1_700_000_000_001);
        let snapshot = status.snapshot();
        assert_eq!((snapshot.connected, snapshot.frames, snapshot.ticks), (true, 1, 3));
        assert_eq!(snapshot.last_tick_at_ms, Some(1_700_000_000_000));
        assert_eq!(snapshot.last_error.unwrap().text, "it broke");
        assert_eq!(snapshot.kind.to_string(), "simulated");
    }
}
