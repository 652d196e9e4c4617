//! The evaluate role.

use anyhow::Context;
use tocsin_bus::system_clock;
use tocsin_health::Component;

use super::retry::until_there;
use super::{Process, summary};
use crate::config::Settings;
use crate::evaluator::{self, EvaluatorConfig, EvaluatorError, RunningEvaluator};

pub(super) async fn start(process: &mut Process<'_>) -> anyhow::Result<()> {
    let Process { settings, backends, status, figures, tasks, .. } = process;
    let (bus, store, library) = (backends.bus().await?, backends.store().await?, backends.library().await?);
    let (config, stop) = (config(settings), tasks.readers.stop.clone());
    let component = status.health.component("evaluate");
    let begin = async || {
        let (store, bus, library) = (store.clone(), bus.clone(), library.clone());
        evaluator::start(store, bus, library, config.clone(), system_clock(), stop.clone()).await
    };
    let evaluator = until_there(&component, "partitions and alerts", EvaluatorError::is_transient, begin)
        .await
        .context("starting evaluation")?;
    let stats = evaluator.stats();
    evaluator::health::register(&status.health, stats.clone(), store.clone(), system_clock());
    figures.add_evaluation(stats.clone());
    tasks.readers.spawn(watch(evaluator, component));
    tasks.readers.spawn(summary::run(stats, figures.clone(), bus, stop));
    Ok(())
}

/// Returns the evaluator's configuration. Firings are put into the outbox where there is a Kafka to deliver them to.
fn config(settings: &Settings) -> EvaluatorConfig {
    EvaluatorConfig { outbox: settings.kafka.is_some(), ..settings.evaluator.clone() }
}

async fn watch(evaluator: RunningEvaluator, component: Component) -> anyhow::Result<()> {
    let ended = evaluator.finished().await;
    component.fail("evaluation has stopped");
    ended.context("evaluating")
}
