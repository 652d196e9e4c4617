//! Tenants, the owners of users, rules and alerts.

use std::fmt;
use std::sync::Arc;

/// A tenant. Without authentication there is a single one, [`Tenant::standard`], but every table and key contains it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant(Arc<str>);

impl Tenant {
    /// Returns the tenant of a server without authentication, named `default`.
    pub fn standard() -> Self {
        Self("default".into())
    }

    /// Restores a tenant from its stored name.
    pub fn from_stored(name: &str) -> Self {
        Self(name.into())
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
