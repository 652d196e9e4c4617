//! A stack for one run of the tests.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

/// A fresh stack in a temporary folder. A child process in its own process group holds it, so that an interrupt at the
/// terminal does not reach it, and removes the stack when this process ends, however it ends.
#[derive(Debug)]
pub struct HeldStack {
    holder: Child,
    folder: PathBuf,
    /// The environment variables that the server reads.
    environment: Vec<(String, String)>,
}

impl HeldStack {
    /// Starts a stack with the given number of brokers. `program` is a command line that passes the arguments after it
    /// to [`run`](crate::run).
    ///
    /// # Errors
    /// Where a service cannot be installed or started; the child process has printed why.
    pub fn up(mut program: Command, brokers: u8) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("tocsin-test-{}", std::process::id()));
        program.args(["hold", "--brokers", &brokers.to_string(), "--dir"]).arg(&folder).process_group(0);
        let mut holder =
            program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start a stack")?;
        let lines = BufReader::new(holder.stdout.take().expect("it is piped")).lines();
        let mut environment = Vec::new();
        for line in lines {
            let line = line.context("cannot read the output of the stack")?;
            let Some((name, value)) = line.split_once('=') else {
                // An empty line ends the list.
                return Ok(Self { holder, folder, environment });
            };
            environment.push((name.to_owned(), value.to_owned()));
        }
        holder.wait().context("cannot wait for the stack")?;
        bail!("tests need Kafka, Redis and PostgreSQL, and the stack of them did not start: see above")
    }

    /// Returns the folder of the stack, for `cargo xtask stack --dir`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the environment variables by which tests find the stack. They are not the server's variables, so that no
    /// test uses a stack that a developer's own environment names.
    pub fn environment(&self) -> impl Iterator<Item = (String, &str)> {
        self.environment.iter().map(|(name, value)| (format!("TOCSIN_TEST_{name}"), value.as_str()))
    }

    /// Stops the stack and removes its data.
    ///
    /// # Errors
    /// Where a service could not be stopped or its data not be removed; the child process has printed why.
    pub fn down(mut self) -> Result<()> {
        // `wait` closes the pipe to the child's standard input, at whose end the child removes the stack.
        let status = self.holder.wait().context("cannot wait for the stack")?;
        ensure!(status.success(), "the stack was not taken down: see above");
        Ok(())
    }
}
