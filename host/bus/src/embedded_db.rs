//! The embedded database under the data folder, opened once and shared by the embedded bus and the embedded prices.
//!
//! It is a fjall database in `DATA_DIR/log`. One process may have it open: `DATA_DIR/log.lock` says so.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::lock_holder;

/// Block cache, bytes. Small: readers stream through the log and mostly read what memtables still hold.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;

/// Journals on disk, bytes: past it, keyspaces that hold the oldest journal back are flushed. The least that fjall takes.
const MAX_JOURNAL_BYTES: u64 = 64 * 1024 * 1024;

/// Flush and compaction threads: one flushes while the other compacts.
const WORKER_THREADS: usize = 2;

/// Memtable of a keyspace of small records (offsets, prices), bytes.
const SMALL_MEMTABLE_BYTES: u64 = 4 * 1024 * 1024;

/// The file whose lock says that a process has the folder.
const LOCK: &str = "log.lock";

/// The database's own lock.
const DATABASE_LOCK: &str = "log/lock";

/// Tables that are kept open: `connections::open_files` sets so many files aside, and fjall's own 900 would not leave any for
/// connections under the usual limit of 1,024. A log at its default retention has some 20 tables.
const MAX_OPEN_TABLES: usize = 128;

/// The file that fjall writes last when it creates a database.
const VERSION_FILE: &str = "version";

/// What can go wrong with the embedded database.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EmbeddedDbError {
    /// Another process has it open.
    #[error(
        "the data folder {} is in use by {holder}, which has locked {lock}: stop that one, or give this one another folder \
         with --data-dir",
        folder.display()
    )]
    InUse {
        /// The data folder.
        folder: PathBuf,
        /// The file that is locked, in the folder.
        lock: &'static str,
        /// Who has locked it, as far as the system says.
        holder: String,
    },
    /// The folder `log` is something else.
    #[error(
        "{} holds no Tocsin log: move it away, or give another data folder with --data-dir",
        .0.display()
    )]
    NotALog(PathBuf),
    /// What is stored contradicts itself.
    #[error("the embedded database is damaged: {0}; restore the data folder from a backup, or start with an empty one")]
    Damaged(String),
    /// The file system refused something.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried, for a sentence.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        source: Arc<io::Error>,
    },
    /// The database failed.
    #[error("the embedded database cannot {doing}: {source}; check the disk under the data folder, then start again")]
    Failed {
        /// What was tried, for a sentence.
        doing: &'static str,
        /// The driver's reason.
        source: Arc<fjall::Error>,
    },
}

impl EmbeddedDbError {
    /// Makes an error of the driver's, said as "cannot `doing`".
    pub fn failed(doing: &'static str) -> impl FnOnce(fjall::Error) -> Self {
        move |source| Self::Failed { doing, source: Arc::new(source) }
    }
}

/// The embedded database. Cloning is cheap; the data folder is free again when the last clone and the last bus, reader
/// and prices made from it are gone.
#[derive(Clone)]
pub struct EmbeddedDb(Arc<Opened>);

struct Opened {
    data_dir: PathBuf,
    database: Database,
    // Released after the database, since fields drop in order.
    _lock: File,
}

impl EmbeddedDb {
    /// Opens the database under `data_dir`, or creates both.
    pub fn open(data_dir: &Path) -> Result<Self, EmbeddedDbError> {
        fs::create_dir_all(data_dir).map_err(io_error("create", data_dir))?;
        let lock = take_lock(data_dir)?;
        let path = data_dir.join("log");
        if !path.exists() {
            create(data_dir, &path)?;
        }
        if !path.join(VERSION_FILE).exists() {
            return Err(EmbeddedDbError::NotALog(path));
        }
        let database = open_database(&path).map_err(|error| in_use(error, data_dir))?;
        Ok(Self(Arc::new(Opened { data_dir: data_dir.to_owned(), database, _lock: lock })))
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.0.data_dir
    }

    /// Returns the driver's database: the embedded prices keep keyspaces of their own in it.
    pub fn database(&self) -> &Database {
        &self.0.database
    }

    /// Opens or creates a keyspace of small records that are looked up by key.
    pub fn small_keyspace(&self, name: &str) -> Result<Keyspace, EmbeddedDbError> {
        self.database()
            .keyspace(name, || KeyspaceCreateOptions::default().max_memtable_size(SMALL_MEMTABLE_BYTES))
            .map_err(EmbeddedDbError::failed("open a keyspace"))
    }

    /// Waits until all that was written is on the disk, and not only in the operating system's hands.
    pub fn sync(&self) -> Result<(), EmbeddedDbError> {
        self.database().persist(PersistMode::SyncAll).map_err(EmbeddedDbError::failed("sync its journal"))
    }

    /// What the database takes on disk, bytes, journals included (they are allocated ahead, sparsely).
    pub fn disk_bytes(&self) -> Result<u64, EmbeddedDbError> {
        self.database().disk_space().map_err(EmbeddedDbError::failed("measure itself"))
    }
}

/// Creates the database beside its place and moves it there, so that a process killed meanwhile leaves nothing that
/// looks like a database and is none.
fn create(data_dir: &Path, path: &Path) -> Result<(), EmbeddedDbError> {
    let unfinished = data_dir.join("log.unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(io_error("remove", &unfinished))?;
    }
    drop(open_database(&unfinished).map_err(|error| in_use(error, data_dir))?);
    fs::rename(&unfinished, path).map_err(io_error("create", path))?;
    File::open(data_dir).and_then(|folder| folder.sync_all()).map_err(io_error("sync", data_dir))
}

fn open_database(path: &Path) -> Result<Database, fjall::Error> {
    Database::builder(path)
        .cache_size(CACHE_BYTES)
        .max_journaling_size(MAX_JOURNAL_BYTES)
        .worker_threads(WORKER_THREADS)
        .max_cached_files(Some(MAX_OPEN_TABLES))
        .open()
}

fn in_use(error: fjall::Error, data_dir: &Path) -> EmbeddedDbError {
    match error {
        fjall::Error::Locked => locked(data_dir, DATABASE_LOCK),
        error => EmbeddedDbError::failed("open")(error),
    }
}

/// The error of a lock that another process holds.
fn locked(data_dir: &Path, lock: &'static str) -> EmbeddedDbError {
    let holder = File::open(data_dir.join(lock)).ok().and_then(|file| lock_holder::holder(&file));
    let holder = holder.map_or_else(|| "another process".into(), |holder| holder.to_string());
    EmbeddedDbError::InUse { folder: data_dir.to_owned(), lock, holder }
}

/// Takes the lock that keeps other processes out. The operating system frees it when this process ends, however it ends.
fn take_lock(data_dir: &Path) -> Result<File, EmbeddedDbError> {
    let path = data_dir.join(LOCK);
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(io_error("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(locked(data_dir, LOCK)),
        Err(TryLockError::Error(source)) => Err(io_error("lock", &path)(source)),
    }
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EmbeddedDbError {
    move |source| EmbeddedDbError::Io { doing, path: path.to_owned(), source: Arc::new(source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_user_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = EmbeddedDb::open(dir.path()).unwrap();
        let error = EmbeddedDb::open(dir.path()).err().unwrap();
        assert!(matches!(error, EmbeddedDbError::InUse { .. }), "{error}");
        drop(first);
        EmbeddedDb::open(dir.path()).unwrap();
    }

    #[test]
    fn a_creation_that_was_cut_short_is_begun_again() {
        let dir = tempfile::tempdir().unwrap();
        let unfinished = dir.path().join("log.unfinished");
        fs::create_dir(&unfinished).unwrap();
        fs::write(unfinished.join("0.jnl"), b"half").unwrap();
        EmbeddedDb::open(dir.path()).unwrap();
        assert!(!unfinished.exists());
    }

    #[test]
    fn a_strange_folder_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("log")).unwrap();
        fs::write(dir.path().join("log/messages"), b"keep me").unwrap();
        let error = EmbeddedDb::open(dir.path()).err().unwrap();
        assert!(matches!(error, EmbeddedDbError::NotALog(_)), "{error}");
        assert_eq!(fs::read(dir.path().join("log/messages")).unwrap(), b"keep me");
    }
}
