//! `tocsin rule pack`: attaches a manifest to a module. What is written has passed as `tocsin rule check` would pass it.

use std::fs;
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tocsin_engine::limits::MAX_MANIFEST_BYTES;
use tocsin_engine::pack;

use super::failure::Failure;
use super::rule::{read_at_most, read_module};
use super::rule_check::{self, Report, refused};

/// The default output's ending, in the place of `.wasm`.
const PACKED_EXTENSION: &str = "rule.wasm";

/// What `tocsin rule pack` takes.
#[derive(clap::Args, Clone, Debug)]
pub struct PackArgs {
    /// The module, a .wasm file
    pub module: PathBuf,
    /// The manifest, a JSON file (docs/abi.md, Manifest)
    #[arg(long, value_name = "FILE")]
    pub manifest: PathBuf,
    /// Where the rule goes [default: MODULE with the ending .rule.wasm]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Replace a manifest that the module has already, and the module itself if --out names it
    #[arg(long)]
    pub force: bool,
}

/// A rule that was written.
#[derive(Debug)]
pub(super) struct Packed {
    file: PathBuf,
    replaced: bool,
    report: Report,
}

/// Packs a module and writes the rule; nothing is written if anything is wrong.
pub(super) fn pack(args: &PackArgs) -> Result<Packed, Failure> {
    let module = read_module(&args.module)?;
    let manifest = read_at_most(&args.manifest, MAX_MANIFEST_BYTES)?;
    let file = args.out.clone().unwrap_or_else(|| args.module.with_extension(PACKED_EXTENSION));
    if !args.force && is_same_file(&file, &args.module) {
        let text = format!("--out names the module itself, {}: name another file, or add --force", file.display());
        return Err(Failure::Local(text));
    }
    // One that is too large is cut off here, and its size is a violation.
    let is_whole = manifest.len() <= MAX_MANIFEST_BYTES;
    if let Err(error) = serde_json::from_slice::<IgnoredAny>(&manifest)
        && is_whole
    {
        return Err(Failure::Local(format!("the manifest {} is not JSON: {error}", args.manifest.display())));
    }
    let packed = pack::pack(&module, &manifest).map_err(|rejection| refused(&rejection.violations))?;
    if packed.replaced && !args.force {
        let text = format!("{} has a manifest already: add --force to replace it", args.module.display());
        return Err(Failure::Local(text));
    }
    let report = rule_check::check(&packed.module)?;
    write_whole(&file, &packed.module)
        .map_err(|error| Failure::Local(format!("cannot write {}: {error}", file.display())))?;
    Ok(Packed { file, replaced: packed.replaced, report })
}

/// Whether both paths lead to one file. One that is not there is no other.
fn is_same_file(one: &Path, other: &Path) -> bool {
    let canonical = |path: &Path| fs::canonicalize(path).ok();
    canonical(one).is_some_and(|one| canonical(other) == Some(one))
}

/// Writes a file beside its place and moves it there: a module that is replaced is never half a module.
fn write_whole(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    let written = fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, file));
    if written.is_err() {
        // The first error is reported; that the remainder cannot be removed adds nothing to it.
        let _ = fs::remove_file(&partial);
    }
    written
}

impl Packed {
    pub(super) fn json(&self) -> Value {
        let mut json = self.report.json();
        json["file"] = json!(self.file.display().to_string());
        json["replaced_manifest"] = json!(self.replaced);
        json
    }

    pub(super) fn text(&self) -> String {
        let what = if self.replaced { "written, in place of the manifest that it had" } else { "written" };
        format!("{} {what}\n\n{}", self.file.display(), self.report.text())
    }
}
