//! The api role: REST, WebSockets and gRPC over the use cases.

use std::sync::Arc;

use anyhow::Context;
use tocsin_engine::domain::Tenant;

use super::backends::Backends;
use super::door::Door;
use super::stages::Stages;
use crate::api::{self, Api};
use crate::bus::system_clock;
use crate::config::Settings;
use crate::connections::Connections;
use crate::control::Control;
use crate::health::Health;

pub(super) async fn start(
    settings: &Settings,
    backends: &Backends<'_>,
    health: &Health,
    connections: &Connections,
    door: &Door,
    stages: &mut Stages,
) -> anyhow::Result<()> {
    let (bus, store) = (backends.bus().await?, backends.store().await?);
    let library = backends.library().await?;
    let control = Control::new(store.clone(), bus.clone(), library, system_clock(), settings.caps);
    control.install_builtins(&Tenant::standard()).await.context("installing the built-in rules")?;
    let (of_promotions, stop) = (control.clone(), stages.front.stop.clone());
    stages.front.spawn(async move {
        of_promotions.roll_back_abandoned_promotions(stop).await;
        Ok(())
    });
    let api = Api {
        control,
        prices: backends.prices().await?,
        bus,
        health: health.clone(),
        connections: connections.clone(),
        tickers: settings.tickers.clone().into(),
        warned: Arc::default(),
        tenant: Tenant::standard(),
    };
    let watched = store.watched_symbols().await.context("reading which symbols are watched")?;
    api.warn_of_unserved(watched.iter());
    let (rest, grpc) = door.for_api()?;
    let (rest_api, rest_stop) = (api.clone(), stages.front.stop.clone());
    stages.front.spawn(async move { api::rest::serve(rest, rest_api, rest_stop).await.context("serving REST") });
    let stop = stages.front.stop.clone();
    stages.front.spawn(async move {
        api::grpc::serve(grpc, api, stop).await;
        Ok(())
    });
    Ok(())
}
