//! Whoever owns users, rules and alerts.

use std::fmt;
use std::sync::Arc;

/// A tenant. Until authentication is turned on there is one, [`Tenant::standard`], yet every table and key holds it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant(Arc<str>);

impl Tenant {
    /// The tenant of a server without authentication: `default`.
    pub fn standard() -> Self {
        Self("default".into())
    }

    /// A tenant read back from where its name was stored.
    pub fn from_stored(name: &str) -> Self {
        Self(name.into())
    }

    /// The tenant's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
