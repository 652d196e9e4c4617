//! The stack that is tortured, as the environment describes it.

use std::process::Command;

use anyhow::{Context as _, ensure};

/// Where the backends are.
pub(crate) struct Stack {
    pub(crate) brokers: String,
    pub(crate) redis: String,
    pub(crate) database_url: String,
    /// How its parts are killed and started, if it is there for this run alone: the program of `cargo xtask`, and the
    /// stack's folder.
    own: Option<(String, String)>,
}

impl Stack {
    pub(crate) fn find() -> anyhow::Result<Self> {
        let variable = |name: &str| {
            std::env::var(name).with_context(|| format!("{name} is not set: run `cargo xtask test`, which sets it"))
        };
        let own = std::env::var("TOCSIN_TORTURE_XTASK").and_then(|xtask| {
            let folder = std::env::var("TOCSIN_TORTURE_STACK")?;
            Ok((xtask, folder))
        });
        Ok(Self {
            brokers: variable("TOCSIN_TEST_KAFKA_BROKERS")?,
            redis: variable("TOCSIN_TEST_REDIS_ADDR")?,
            database_url: variable("TOCSIN_TEST_DATABASE_URL")?,
            own: own.ok(),
        })
    }

    /// How many brokers there are, if they and the other parts may be killed.
    pub(crate) fn own_brokers(&self) -> Option<usize> {
        self.own.as_ref().map(|_| self.brokers.split(',').count())
    }

    /// `kill`, `pause` or `start` of a part. A part that is started answers when this returns.
    pub(crate) fn change(&self, action: &str, part: &str) -> anyhow::Result<()> {
        let (xtask, folder) = self.own.as_ref().context("the stack is not this process's")?;
        let status = Command::new(xtask).args(["stack", "--dir", folder, action, part]).status();
        ensure!(status.context("cannot start xtask")?.success(), "the stack did not {action} {part}");
        Ok(())
    }
}
