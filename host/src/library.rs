//! The compiled rules of a process: each module is compiled once, on a thread that may block, and kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tocsin_engine::domain::Digest;
use tocsin_engine::{Engine, LoadError, Rule};
use tokio::sync::OnceCell;

use crate::store::{Store, StoreError};

/// Compiled rules by digest. Cloning is cheap.
#[derive(Clone)]
pub struct Library(Arc<Inner>);

struct Inner {
    engine: Engine,
    store: Store,
    rules: Mutex<HashMap<Digest, Arc<OnceCell<Rule>>>>,
}

/// Why a rule is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// The module is no rule.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No module has this digest.
    #[error("no module with the digest {0} is stored")]
    Unknown(Digest),
    /// The compiling thread died.
    #[error("compiling the rule failed: {0}")]
    Compile(String),
}

impl Library {
    /// A library of the modules in a store.
    pub fn new(engine: Engine, store: Store) -> Self {
        Self(Arc::new(Inner { engine, store, rules: Mutex::default() }))
    }

    /// Compiles the module of an upload, or gives the rule that it was compiled to before.
    pub async fn load(&self, module: Vec<u8>) -> Result<Rule, LibraryError> {
        let cell = self.cell(Digest::of(&module));
        cell.get_or_try_init(|| self.compile(module)).await.cloned()
    }

    /// The rule with a digest, from the store if need be.
    pub async fn get(&self, digest: Digest) -> Result<Rule, LibraryError> {
        let load = async || match self.0.store.module_by_digest(digest).await? {
            Some(module) => self.compile(module).await,
            None => Err(LibraryError::Unknown(digest)),
        };
        self.cell(digest).get_or_try_init(load).await.cloned()
    }

    /// Modules that fail to load leave an empty cell behind; it is dropped with the last attempt.
    fn cell(&self, digest: Digest) -> Arc<OnceCell<Rule>> {
        let mut rules = self.0.rules.lock().expect("no holder of this lock panics");
        rules.retain(|known, cell| *known == digest || cell.initialized() || Arc::strong_count(cell) > 1);
        rules.entry(digest).or_default().clone()
    }

    async fn compile(&self, module: Vec<u8>) -> Result<Rule, LibraryError> {
        let engine = self.0.engine.clone();
        let compiled = tokio::task::spawn_blocking(move || engine.load(&module)).await;
        Ok(compiled.map_err(|error| LibraryError::Compile(error.to_string()))??)
    }
}
