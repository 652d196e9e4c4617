//! The api role: REST, WebSockets and gRPC over the use cases.

use std::sync::Arc;

use anyhow::Context;
use tocsin_bus::system_clock;
use tocsin_engine::domain::Tenant;
use tocsin_store::StoreError;

use super::Process;
use super::retry::until_there;
use crate::api::{self, Api};
use crate::control::{Control, ControlError};

pub(super) async fn start(process: &mut Process<'_>) -> anyhow::Result<()> {
    let Process { settings, backends, status, listeners, tasks, .. } = process;
    let (bus, store) = (backends.bus().await?, backends.store().await?);
    let library = backends.library().await?;
    let control = Control::new(store.clone(), bus.clone(), library, system_clock(), settings.caps);
    // Another process may hold the lock that all changes take until it is thrown out, and one after it.
    let install = async || control.install_builtins(&Tenant::standard()).await;
    let is_transient = |error: &ControlError| matches!(error, ControlError::Unavailable(_) | ControlError::Busy(_));
    until_there(&status.health.component("api"), "the store to take the built-in rules", is_transient, install)
        .await
        .context("installing the built-in rules")?;
    let (promotions, stop) = (control.clone(), tasks.intake.stop.clone());
    tasks.intake.spawn(async move {
        promotions.roll_back_abandoned_promotions(stop).await;
        Ok(())
    });
    let api = Api {
        control,
        prices: backends.prices().await?,
        bus,
        status: status.clone(),
        tickers: settings.tickers.clone().into(),
        warned: Arc::default(),
        tenant: Tenant::standard(),
    };
    let read = async || store.watched_symbols().await;
    let watched = until_there(&status.health.component("api"), "the store", StoreError::is_transient, read).await;
    api.warn_of_unserved(watched.context("reading which symbols are watched")?.iter());
    let (rest, grpc) = listeners.for_api()?;
    let (rest_api, rest_stop) = (api.clone(), tasks.intake.stop.clone());
    tasks.intake.spawn(async move { api::rest::serve(rest, rest_api, rest_stop).await.context("serving REST") });
    let stop = tasks.intake.stop.clone();
    tasks.intake.spawn(async move {
        api::grpc::serve(grpc, api, stop).await;
        Ok(())
    });
    Ok(())
}
