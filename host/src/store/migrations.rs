//! The schema's versions, in the binary. sqlx has a macro for it, whose crates build both drivers a second time.

use sqlx::SqlStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// A migrator of the named files in a folder of `migrations`, oldest first.
macro_rules! migrator {
    ($folder:literal: $($file:literal),+) => {
        $crate::store::migrations::of_files(&[
            $(($file, include_str!(concat!("../../../migrations/", $folder, "/", $file, ".sql")))),+
        ])
    };
}
pub(super) use migrator;

/// A migrator of files, each with its name and what is in it. A name begins with the version and an underscore.
pub(super) fn of_files(files: &[(&'static str, &'static str)]) -> Migrator {
    let migration = |(name, sql): &(&'static str, &'static str)| {
        let (version, description) = name.split_once('_').expect("a version, an underscore, a description");
        let version = version.parse().expect("a version is a number");
        Migration::new(version, description.into(), MigrationType::Simple, SqlStr::from_static(sql), false)
    };
    Migrator::with_migrations(files.iter().map(migration).collect())
}

/// Those of a migrator that are older than a version.
#[cfg(test)]
pub(super) fn before(all: &Migrator, version: i64) -> Migrator {
    Migrator::with_migrations(all.iter().filter(|migration| migration.version < version).cloned().collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn no_file_is_left_out() {
        for (member, source) in [("sqlite", include_str!("sqlite.rs")), ("postgres", include_str!("postgres.rs"))] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations").join(member);
            let files: BTreeSet<String> = std::fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
                .collect();
            let (_, listed) = source.split_once(&format!("migrator!(\"{member}\": ")).unwrap();
            let listed = listed.split(')').next().unwrap().replace('"', "");
            assert_eq!(listed.split(',').map(|name| name.trim().to_owned()).collect::<BTreeSet<_>>(), files);
        }
    }
}
