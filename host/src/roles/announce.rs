//! Describes a process: its roles and backends, and its addresses. Without secrets.

use tocsin_health::About;
use tracing::info;

use super::listeners::Listeners;
use crate::config::{Role, Settings, StoreChoice};
use crate::ingest::Feed;

const EMBEDDED: &str = "embedded, in the data folder";

/// Returns the roles and the backends.
pub(super) fn about(settings: &Settings) -> About {
    let roles = &settings.roles;
    let bus = settings.kafka.as_ref().map_or_else(|| EMBEDDED.to_owned(), |kafka| kafka.ticks.to_string());
    let store = match &settings.store {
        StoreChoice::Sqlite => "SQLite in the data folder".to_owned(),
        StoreChoice::Postgres(url) => format!("PostgreSQL, {url}"),
    };
    let has = |of: &[Role]| of.iter().any(|role| roles.has(*role));
    let mut backends = Vec::new();
    if has(&[Role::Ingest, Role::Project, Role::Evaluate, Role::Api]) {
        backends.push(("bus", bus));
    }
    if has(&[Role::Ingest, Role::Evaluate, Role::Deliver, Role::Api]) {
        backends.push(("store", store));
    }
    if has(&[Role::Project, Role::Api]) {
        let shared = settings.prices.as_ref().map(|address| format!("Redis, {address}"));
        backends.push(("prices", shared.unwrap_or_else(|| EMBEDDED.to_owned())));
    }
    if let (true, Some(kafka)) = (roles.has(Role::Deliver), &settings.kafka) {
        backends.push(("firings", kafka.firings.to_string()));
    }
    About { roles: roles.names(), backends }
}

/// Logs that all roles have started.
pub(super) fn ready(settings: &Settings, listeners: &Listeners) {
    let About { roles, backends } = about(settings);
    let of = |port: &str| backends.iter().find(|(name, _)| *name == port).map(|(_, backend)| backend.as_str());
    let (rest, grpc) = listeners.addresses();
    let url = |address: Option<std::net::SocketAddr>| address.map(|address| format!("http://{address}"));
    let tickers = settings.tickers.iter().map(|symbol| symbol.as_str()).collect::<Vec<_>>().join(", ");
    let feed = match &settings.feed {
        _ if !settings.roles.has(Role::Ingest) => "another process's",
        None => "no feed",
        Some(Feed::Finnhub { .. }) => "Finnhub",
        Some(Feed::Binance { .. }) => "Binance",
        Some(Feed::Simulated { .. }) => "SIMULATED prices (set FINNHUB_API_KEY for real ones)",
    };
    info!(
        roles = roles.join(","), rest = url(rest), grpc = url(grpc), %tickers, feed,
        bus = of("bus"), store = of("store"), prices = of("prices"), firings = of("firings"),
        data_dir = %settings.data_dir.display(), "tocsin is ready"
    );
}
