//! Embeds the schema: finds the files in `migrations/sqlite` and `migrations/postgres` of the repository, and writes a list of
//! each, by name, for `src/migrations.rs`.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let migrations = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("Cargo sets it")).join("../../migrations");
    let lists =
        [("SQLITE", "sqlite"), ("POSTGRES", "postgres")].map(|(name, folder)| list(name, &migrations.join(folder)));
    let to = PathBuf::from(env::var("OUT_DIR").expect("Cargo sets it")).join("migrations.rs");
    fs::write(to, lists.concat()).expect("Cargo's output folder is writable");
}

/// Returns a Rust constant with the name and the text of each SQL file in a folder.
fn list(name: &str, folder: &Path) -> String {
    println!("cargo::rerun-if-changed={}", folder.display());
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a folder is readable").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "sql"));
    files.sort();
    let listed = files.iter().map(|file| {
        let stem = file.file_stem().expect("a file has a name");
        format!("    ({stem:?}, include_str!({:?})),\n", fs::canonicalize(file).expect("a listed file exists"))
    });
    format!("pub(super) const {name}: &[File] = &[\n{}];\n", listed.collect::<String>())
}
