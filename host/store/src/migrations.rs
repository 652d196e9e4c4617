//! The schema's versions: the files in `migrations` of the repository, which `build.rs` finds and embeds. sqlx has a macro for
//! this, whose crates compile both database drivers a second time.

use sqlx::SqlStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

include!(concat!(env!("OUT_DIR"), "/migrations.rs"));

/// The name of a file, which is a version, an underscore and a description; and its text.
type File = (&'static str, &'static str);

pub(super) fn migrator(files: &[File]) -> Migrator {
    let migration = |(name, sql): &File| {
        let (version, description) = name.split_once('_').expect("a version, an underscore, a description");
        let version = version.parse().expect("a version is a number");
        Migration::new(version, description.into(), MigrationType::Simple, SqlStr::from_static(sql), false)
    };
    Migrator::with_migrations(files.iter().map(migration).collect())
}
