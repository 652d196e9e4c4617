//! Why a store did not do what it was asked, and whether to ask again.

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is away, slow or busy with others; the same call may succeed later.
    #[error("the store failed: {0}")]
    Database(#[source] sqlx::Error),
    /// The database refuses the statement, or answers what no statement asked for: the same call will fail again.
    #[error("the store refuses: {0}; its schema or its data are not what this version writes")]
    Refused(#[source] sqlx::Error),
    /// The database is not there to be opened, and may be later; the text says what to do.
    #[error("{0}")]
    Away(String),
    /// The database could not be opened; the text says what to do.
    #[error("{0}")]
    Open(String),
    /// The database could not be brought to this version's schema.
    #[error("the store's schema cannot be migrated: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// Another process has claimed the partition; nothing was written.
    #[error("partition {0} was claimed by another evaluator: this one must stop working on it")]
    Fenced(u32),
    /// A checkpoint would take a partition back: whoever made it has not seen all that the stored one holds. Nothing was
    /// written.
    #[error(
        "the checkpoint of partition {partition} at offset {next_offset} and revision {revision} is behind the stored one \
         at offset {stored_offset} and revision {stored_revision}: an offset and a revision never go back, so nothing of \
         it is written; restart the evaluator, which then goes on from the stored one"
    )]
    CheckpointBehind {
        /// The partition.
        partition: u32,
        /// The next offset to be evaluated, as the refused checkpoint has it.
        next_offset: u64,
        /// The revision of the refused checkpoint.
        revision: u64,
        /// The next offset of the stored one.
        stored_offset: u64,
        /// The revision of the stored one.
        stored_revision: u64,
    },
    /// The offsets in the store are those of another log.
    #[error(
        "the log of ticks is {found}, and all that is stored refers to {expected}: it was made anew, or another one is \
         configured. Configure the right one; or, to go on with this one, run `tocsin log accept` (docs/operations.md, \
         Another log)"
    )]
    OtherLog {
        /// The log that checkpoints, firings and alerts refer to.
        expected: String,
        /// The one that is there.
        found: String,
    },
    /// A row does not hold what this program writes.
    #[error("the store holds a damaged {what}: {detail}")]
    Damaged {
        /// What kind of value.
        what: &'static str,
        /// How it is damaged.
        detail: String,
    },
}

/// Classes of SQLSTATE (PostgreSQL's manual, appendix A) of what passes, or what an operator mends without Tocsin: lost
/// connections, serialization failures and deadlocks, a full disk or too many clients, locks, a shutdown, failing IO,
/// a server that has become a standby, and passwords or databases that are being exchanged.
const TRANSIENT_CLASSES: [&str; 9] = ["08", "25", "28", "3D", "40", "53", "55", "57", "58"];

impl StoreError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Away(_) | Self::Database(_))
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let is_transient = match &error {
            sqlx::Error::Database(error) => {
                let code = error.code().unwrap_or_default();
                // SQLite's codes are numbers of other lengths: what it refuses has always been tried again.
                code.len() != 5 || TRANSIENT_CLASSES.iter().any(|class| code.starts_with(class))
            }
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::Decode(_)
            | sqlx::Error::Encode(_)
            | sqlx::Error::RowNotFound
            | sqlx::Error::TypeNotFound { .. } => false,
            _ => true,
        };
        if is_transient { Self::Database(error) } else { Self::Refused(error) }
    }
}
