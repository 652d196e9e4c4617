//! A stack for one run of the tests.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

/// A fresh stack in a folder for temporary files. Another process holds it, out of reach of an interrupt at the terminal,
/// and takes it down when this one ends, however it does.
pub(crate) struct HeldStack {
    holder: Child,
    folder: PathBuf,
    /// The variables that the server reads.
    environment: Vec<(String, String)>,
}

impl HeldStack {
    /// Brings one up, with so many brokers.
    pub(crate) fn up(brokers: u8) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("tocsin-test-{}", std::process::id()));
        let mut hold = Command::new(std::env::current_exe().context("cannot find this program")?);
        hold.args(["stack", "hold", "--brokers", &brokers.to_string(), "--dir"]).arg(&folder).process_group(0);
        let mut holder = hold.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start a stack")?;
        let lines = BufReader::new(holder.stdout.take().expect("it is piped")).lines();
        let mut environment = Vec::new();
        for line in lines {
            let line = line.context("cannot read what the stack tells")?;
            let Some((name, value)) = line.split_once('=') else {
                // An empty line: that is all.
                return Ok(Self { holder, folder, environment });
            };
            environment.push((name.to_owned(), value.to_owned()));
        }
        holder.wait().context("cannot wait for the stack")?;
        bail!("tests need Kafka, Redis and PostgreSQL, and there is no stack of them: see above")
    }

    /// Where it is, for `cargo xtask stack --dir`.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The variables by which tests find it: not the server's, so that none mistakes a stack of the user's for its own.
    pub(crate) fn environment(&self) -> impl Iterator<Item = (String, &str)> {
        self.environment.iter().map(|(name, value)| (format!("TOCSIN_TEST_{name}"), value.as_str()))
    }

    /// Takes it down, with its data.
    pub(crate) fn down(mut self) -> Result<()> {
        // Waiting closes the pipe, for whose end the holder waits.
        let status = self.holder.wait().context("cannot wait for the stack")?;
        ensure!(status.success(), "the stack was not taken down: see above");
        Ok(())
    }
}
