//! Stores for tests: each backend, fresh and empty, and gone once its test is over.

use tempfile::TempDir;

use super::Store;
use super::postgres::database::TestDatabase;
use super::sqlite::SqliteStore;
use crate::proxy::Proxy;

/// A backend of [`Store`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Backend {
    Sqlite,
    Postgres,
}

/// What a store lives in: it must live as long as the store.
pub(crate) enum TestStore {
    Folder(TempDir),
    Database(TestDatabase),
}

impl TestStore {
    pub(crate) async fn make(backend: Backend) -> Self {
        match backend {
            Backend::Sqlite => Self::Folder(tempfile::tempdir().unwrap()),
            Backend::Postgres => Self::Database(TestDatabase::create().await),
        }
    }

    /// Opens the store in it. PostgreSQL's may be opened again beside the first, as by another process.
    pub(crate) async fn open(&self) -> Store {
        match self {
            Self::Folder(folder) => Store::open_sqlite(folder.path()).await.unwrap(),
            Self::Database(database) => Store::open_postgres(database.url()).await.unwrap(),
        }
    }
}

/// A store to which no change of another one on the same data is announced, as where notifications are stuck. What it
/// changes itself makes it look at all that is new.
pub(crate) struct Unnotified {
    pub(crate) store: Store,
    _network: Option<Proxy>,
}

impl TestStore {
    /// Runs a statement in the data of an open store, as an operator may: one in each dialect.
    pub(crate) async fn execute(&self, sqlite: &'static str, postgres: &'static str) {
        match self {
            Self::Folder(folder) => SqliteStore::execute(folder.path(), sqlite).await,
            Self::Database(database) => database.execute(postgres).await,
        }
    }

    pub(crate) async fn open_unnotified(&self) -> Unnotified {
        match self {
            // A handle of its own announces nothing to others.
            Self::Folder(_) => Unnotified { store: self.open().await, _network: None },
            Self::Database(database) => {
                let (network, url) = database.without_notifications().await;
                Unnotified { store: Store::open_postgres(&url).await.unwrap(), _network: Some(network) }
            }
        }
    }
}

/// Makes two tests of each function here: one for each backend.
macro_rules! on_each_backend {
    ($($test:ident),+ $(,)?) => {
        mod on_sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test($crate::store::testing::Backend::Sqlite).await;
                }
            )+
        }
        mod on_postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test($crate::store::testing::Backend::Postgres).await;
                }
            )+
        }
    };
}
pub(crate) use on_each_backend;
