//! Stores for tests: each backend, fresh and empty, and gone once its test is over.

#![allow(clippy::unwrap_used, missing_docs, reason = "what fails here fails the test that calls it")]

pub mod samples;

use tempfile::TempDir;
use tocsin_base::proxy::Proxy;

pub use super::postgres::database::TestDatabase;

use super::Store;
use super::sqlite::SqliteStore;

/// A backend of [`Store`].
#[derive(Clone, Copy, Debug)]
pub enum Backend {
    Sqlite,
    Postgres,
}

/// What a store lives in: it must live as long as the store.
pub struct TestStore(Place);

enum Place {
    Folder(TempDir),
    Database(TestDatabase),
}

impl TestStore {
    pub async fn make(backend: Backend) -> Self {
        match backend {
            Backend::Sqlite => Self(Place::Folder(tempfile::tempdir().unwrap())),
            Backend::Postgres => Self(Place::Database(TestDatabase::create().await)),
        }
    }

    /// Returns the database of a store on PostgreSQL.
    pub fn database(&self) -> &TestDatabase {
        match &self.0 {
            Place::Folder(_) => panic!("this is about PostgreSQL"),
            Place::Database(database) => database,
        }
    }

    /// Opens the store in it. PostgreSQL's may be opened again beside the first, as by another process.
    pub async fn open(&self) -> Store {
        match &self.0 {
            Place::Folder(folder) => Store::open_sqlite(folder.path()).await.unwrap(),
            Place::Database(database) => Store::open_postgres(database.url()).await.unwrap(),
        }
    }
}

/// A store to which no change of another one on the same data is announced, as where notifications are stuck. What it
/// changes itself makes it look at all that is new.
pub struct Unnotified {
    pub store: Store,
    _network: Option<Proxy>,
}

impl TestStore {
    /// Runs a statement in the data of an open store, as an operator may: one in each dialect.
    pub async fn execute(&self, sqlite: &'static str, postgres: &'static str) {
        match &self.0 {
            Place::Folder(folder) => SqliteStore::execute(folder.path(), sqlite).await,
            Place::Database(database) => database.execute(postgres).await,
        }
    }

    pub async fn open_unnotified(&self) -> Unnotified {
        match &self.0 {
            // A handle of its own announces nothing to others.
            Place::Folder(_) => Unnotified { store: self.open().await, _network: None },
            Place::Database(database) => {
                let (network, url) = database.without_notifications().await;
                Unnotified { store: Store::open_postgres(&url).await.unwrap(), _network: Some(network) }
            }
        }
    }
}

/// Makes two tests of each function here: one for each backend.
#[macro_export]
macro_rules! on_each_backend {
    ($($test:ident),+ $(,)?) => {
        mod on_sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test($crate::testing::Backend::Sqlite).await;
                }
            )+
        }
        mod on_postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test($crate::testing::Backend::Postgres).await;
                }
            )+
        }
    };
}
pub use on_each_backend;
