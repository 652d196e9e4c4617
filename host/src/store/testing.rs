//! Stores for tests: each member, fresh and empty, and gone once its test is over.

use tempfile::TempDir;

use super::Store;
use super::postgres::database::TestDatabase;

/// A member of [`Store`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Member {
    Sqlite,
    Postgres,
}

/// What a store lives in: it must live as long as the store.
pub(crate) enum Home {
    Folder(TempDir),
    Database(TestDatabase),
}

impl Home {
    pub(crate) async fn make(member: Member) -> Self {
        match member {
            Member::Sqlite => Self::Folder(tempfile::tempdir().unwrap()),
            Member::Postgres => Self::Database(TestDatabase::create().await),
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

/// Makes two tests of each function here: one for each member.
macro_rules! on_each_member {
    ($($test:ident),+ $(,)?) => {
        mod on_sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test($crate::store::testing::Member::Sqlite).await;
                }
            )+
        }
        mod on_postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test($crate::store::testing::Member::Postgres).await;
                }
            )+
        }
    };
}
pub(crate) use on_each_member;
