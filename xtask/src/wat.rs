//! `cargo xtask wat`: assembles WebAssembly text to a module. `(@custom "tocsin.manifest" "…")` in the text is the manifest.
//! Without arguments it assembles the engine's built-in rules, in place.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The folder of the built-in rules, in the repository.
const BUILTIN: &str = "engine/src/builtin";

/// The arguments of `cargo xtask wat`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The WebAssembly text
    #[arg(value_name = "IN", requires = "module")]
    text: Option<PathBuf>,
    /// The module to write
    #[arg(value_name = "OUT")]
    module: Option<PathBuf>,
}

/// Assembles one file, or all built-in rules.
pub(crate) fn run(args: &Args) -> Result<()> {
    if let (Some(text), Some(module)) = (&args.text, &args.module) {
        return assemble(text, module);
    }
    let folder = crate::workspace().join(BUILTIN);
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let text = entry?.path();
        if text.extension().is_some_and(|extension| extension == "wat") {
            assemble(&text, &text.with_extension("wasm"))?;
        }
    }
    Ok(())
}

fn assemble(text: &Path, module: &Path) -> Result<()> {
    let bytes = ::wat::parse_file(text)?;
    std::fs::write(module, &bytes).with_context(|| format!("cannot write {}", module.display()))?;
    println!("{:>8} bytes  {}", bytes.len(), module.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_assembled_with_its_manifest() {
        let folder = std::env::temp_dir().join(format!("xtask-wat-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (text, module) = (folder.join("in.wat"), folder.join("out.wasm"));
        std::fs::write(&text, r#"(module (@custom "tocsin.manifest" "{}"))"#).unwrap();
        assemble(&text, &module).unwrap();
        assert_eq!(std::fs::read(&module).unwrap(), b"\0asm\x01\0\0\0\0\x12\x0ftocsin.manifest{}");
        std::fs::write(&text, "(module (func").unwrap();
        assert!(assemble(&text, &module).unwrap_err().to_string().contains("in.wat"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
