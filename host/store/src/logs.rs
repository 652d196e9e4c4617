//! The log that a store's offsets refer to.

/// A log of ticks, as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TickLog {
    /// What no other log has, such as the topic's id.
    pub identity: String,
    /// How many logs the store referred to before it.
    pub generation: u32,
    /// When the store began to refer to it, Unix milliseconds by the database's clock.
    pub accepted_at_ms: i64,
}

/// Where evaluation of a partition goes on in a log that is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogStart {
    /// The partition.
    pub partition: u32,
    /// The next offset to be evaluated, where the store referred to another log before.
    pub offset: u64,
    /// Where the partition ends.
    pub end: u64,
    /// Whether the store referred to offsets behind that end before it was read: those records are lost. Of a partition that
    /// is evaluated, the store refers to later offsets soon after the end is read.
    pub has_lost_records: bool,
}

/// What became of a log that was to be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcceptedLog {
    /// The store refers to it now.
    Accepted {
        /// It.
        log: TickLog,
        /// Live bindings whose partition the log does not have: they wait for the first tick of their symbol.
        moved_bindings: u64,
    },
    /// The store refers to this log already, and to nothing behind its ends.
    Known,
    /// A promotion is under way, whose bindings are at offsets of the log before.
    PromotionUnderWay,
}
