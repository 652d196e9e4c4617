//! The evaluate role.

use anyhow::Context;

use super::backends::Backends;
use super::retry::until_there;
use super::stages::Stages;
use super::summary;
use crate::bus::system_clock;
use crate::config::Settings;
use crate::evaluator::{self, EvaluatorConfig, EvaluatorError, RunningEvaluator};
use crate::health::Health;

pub(super) async fn start(
    settings: &Settings,
    backends: &Backends<'_>,
    health: &Health,
    stages: &mut Stages,
) -> anyhow::Result<()> {
    let (bus, store, library) = (backends.bus().await?, backends.store().await?, backends.library().await?);
    let (config, stop) = (config(settings), stages.readers.stop.clone());
    let begin = async || {
        let (store, bus, library) = (store.clone(), bus.clone(), library.clone());
        evaluator::start(store, bus, library, config.clone(), system_clock(), stop.clone()).await
    };
    let evaluator = until_there(&health.part("evaluate"), "partitions and alerts", EvaluatorError::is_transient, begin)
        .await
        .context("starting evaluation")?;
    let stats = evaluator.stats();
    health.watch_evaluation(stats.clone());
    stages.readers.spawn(watch(evaluator, health.clone()));
    stages.readers.spawn(summary::run(stats, health.clone(), bus, stop));
    Ok(())
}

/// How this process evaluates. Firings are put into the outbox where there is a Kafka to tell them on.
fn config(settings: &Settings) -> EvaluatorConfig {
    EvaluatorConfig { outbox: settings.kafka.is_some(), ..settings.evaluator.clone() }
}

async fn watch(evaluator: RunningEvaluator, health: Health) -> anyhow::Result<()> {
    let ended = evaluator.finished().await;
    health.evaluation_stopped();
    ended.context("evaluating")
}
