//! The compiled rules of a process: each module is compiled once and kept, in memory and on disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tocsin_engine::domain::Digest;
use tocsin_engine::violation::Rejection;
use tocsin_engine::{Artifact, Engine, LoadError, Prepared, Rule, builtin};
use tocsin_store::{Store, StoreError};
use tokio::sync::OnceCell;
use tokio::task::{JoinError, spawn_blocking};

use crate::rules::artifacts::ArtifactCache;
use crate::rules::compiler::{CompileError, Compiler, Purpose, check_size};

/// Compiled rules by digest. Cloning is cheap: clones share the rules.
#[derive(Clone)]
pub struct RuleCache(Arc<Inner>);

struct Inner {
    engine: Engine,
    store: Store,
    compiler: Compiler,
    artifacts: Option<Arc<ArtifactCache>>,
    rules: Mutex<HashMap<Digest, Arc<OnceCell<Rule>>>>,
}

/// Why a rule is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum RuleCacheError {
    /// The module is no rule.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// There is no artifact of it.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// Its artifact could not be loaded.
    #[error("the compiled rule could not be loaded: {0}")]
    Load(#[from] LoadError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No module has this digest.
    #[error("no module with the digest {0} is stored")]
    Unknown(Digest),
    /// A thread died.
    #[error("preparing the rule failed: {0}")]
    Thread(#[from] JoinError),
}

impl RuleCache {
    /// A library of the modules in a store. Without a cache of artifacts, every start compiles again.
    pub fn new(engine: Engine, store: Store, compiler: Compiler, artifacts: Option<ArtifactCache>) -> Self {
        let artifacts = artifacts.map(Arc::new);
        Self(Arc::new(Inner { engine, store, compiler, artifacts, rules: Mutex::default() }))
    }

    /// Compiles the module of an upload and tries it out, or gives the rule that it was compiled to before.
    pub async fn load(&self, module: Vec<u8>) -> Result<Rule, RuleCacheError> {
        check_size(&module)?;
        let cell = self.cell(Digest::of(&module));
        cell.get_or_try_init(|| self.make(module, Purpose::Upload)).await.cloned()
    }

    /// The rule with a digest, from the store if need be.
    pub async fn get(&self, digest: Digest) -> Result<Rule, RuleCacheError> {
        let load = async || match self.0.store.module_by_digest(digest).await? {
            Some(module) => self.make(module, Purpose::Restore).await,
            None => Err(RuleCacheError::Unknown(digest)),
        };
        self.cell(digest).get_or_try_init(load).await.cloned()
    }

    /// Modules that fail to load leave an empty cell behind; it is dropped with the last attempt.
    fn cell(&self, digest: Digest) -> Arc<OnceCell<Rule>> {
        let mut rules = self.0.rules.lock().expect("no holder of this lock panics");
        rules.retain(|known, cell| *known == digest || cell.initialized() || Arc::strong_count(cell) > 1);
        rules.entry(digest).or_default().clone()
    }

    /// From bytes to a rule: validate, then take the artifact from disk or from the compiler.
    async fn make(&self, module: Vec<u8>, purpose: Purpose) -> Result<Rule, RuleCacheError> {
        let module: Arc<[u8]> = module.into();
        let (engine, artifacts, bytes) = (self.0.engine.clone(), self.0.artifacts.clone(), module.clone());
        let prepare = move || -> Result<(Prepared, Digest, Option<Vec<u8>>), Rejection> {
            let prepared = engine.prepare(&bytes)?;
            let fingerprint = engine.fingerprint(&prepared);
            let cached = artifacts.and_then(|cache| cache.get(prepared.reference().digest, fingerprint));
            Ok((prepared, fingerprint, cached))
        };
        let (prepared, fingerprint, cached) = spawn_blocking(prepare).await??;
        let (artifact, fresh) = match cached {
            Some(artifact) => (artifact, false),
            None => (self.compiler(&module).compile(&self.0.engine, module, fingerprint, purpose).await?, true),
        };
        let (engine, artifacts) = (self.0.engine.clone(), self.0.artifacts.clone());
        let finish = move || -> Result<Rule, LoadError> {
            if let (true, Some(cache)) = (fresh, artifacts) {
                cache.put(prepared.reference().digest, fingerprint, &artifact);
            }
            engine.load_compiled(prepared, &trusted(artifact))
        };
        Ok(spawn_blocking(finish).await??)
    }

    /// The built-in rules are part of this program: they need no guard, and the server starts without a child.
    fn compiler(&self, module: &[u8]) -> &Compiler {
        if builtin::ALL.contains(&module) { &Compiler::InProcess } else { &self.0.compiler }
    }
}

#[expect(unsafe_code, reason = "machine code from outside of this process; see the comment")]
fn trusted(artifact: Vec<u8>) -> Artifact {
    // SAFETY: these bytes come from our own compiler, through a pipe that none but it and this process hold, or from a
    // file whose MAC, under a key that only this user can read, says that they once did. Either way they were made for
    // the fingerprint of this module.
    unsafe { Artifact::from_trusted(artifact) }
}
