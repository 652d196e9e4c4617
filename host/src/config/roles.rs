//! What a process does: all of it, or some roles beside other processes that do the rest.

use clap::ValueEnum;

use super::ConfigError;

/// A part of the work that a process can do by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Role {
    /// Take ticks from the feed to the bus.
    Ingest,
    /// Keep the newest prices.
    Project,
    /// Evaluate ticks against alerts.
    Evaluate,
    /// Deliver firings to Kafka.
    Deliver,
    /// Serve REST, WebSockets and gRPC.
    Api,
}

/// The roles of a process; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roles(Vec<Role>);

/// Which shared backends are configured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shared {
    pub(super) bus: bool,
    pub(super) store: bool,
    pub(super) prices: bool,
}

impl Role {
    const ALL: [Self; 5] = [Self::Ingest, Self::Project, Self::Evaluate, Self::Deliver, Self::Api];

    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Project => "project",
            Self::Evaluate => "evaluate",
            Self::Deliver => "deliver",
            Self::Api => "api",
        }
    }
}

impl Roles {
    /// Those that were typed, or all.
    pub(super) fn of(typed: &[Role]) -> Self {
        Self(Role::ALL.into_iter().filter(|role| typed.is_empty() || typed.contains(role)).collect())
    }

    /// Whether the process has a role.
    pub fn has(&self, role: Role) -> bool {
        self.0.contains(&role)
    }

    /// Their names.
    pub fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|role| role.name()).collect()
    }

    /// Roles that other processes have are reached through backends that are shared with them.
    pub(super) fn check(&self, shared: Shared) -> Result<(), ConfigError> {
        if self.0.len() == Role::ALL.len() {
            return Ok(());
        }
        let (mut missing, knows_prices) = (Vec::new(), self.has(Role::Project) || self.has(Role::Api));
        for (has, needs, setting) in [
            (shared.bus, true, "KAFKA_BROKERS"),
            (shared.store, self.0 != [Role::Project], "DATABASE_URL"),
            (shared.prices, knows_prices, "REDIS_ADDR"),
        ] {
            if needs && !has {
                missing.push(setting);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(ConfigError(format!(
            "--role {}: processes that share the work share its backends: set {}, or leave --role out to run all in one",
            self.names().join(","),
            missing.join(" and ")
        )))
    }
}
