//! REST: the routes of GoStocks and of the trading app as their clients know them, and `/api/v1`.
//!
//! One file a resource; `extract` reads requests, `problem` is the one table of errors, `openapi` describes it all.

mod alerts;
mod candles;
mod connections;
mod etag;
mod events;
mod extract;
mod faults;
mod firings;
mod gostocks;
mod host_check;
mod json_reader;
mod logs;
mod openapi;
mod problem;
mod promotion;
mod rules;
mod status;
#[cfg(test)]
mod tests;
mod trades;

use axum::Router;
use axum::extract::FromRef;
use axum::http::{Method, header};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{Any, CorsLayer};
use utoipa_axum::router::OpenApiRouter;

use self::connections::Routers;
use self::problem::{Kind, Problem};
use self::trades::TradeFeed;
use super::{Api, ProcessStatus};

/// The largest JSON body, bytes. An alert with the most symbols and params that there can be is below 16 KiB.
const MAX_JSON_BYTES: usize = 64 * 1024;

/// What handlers share. Cloning is cheap.
#[derive(Clone)]
struct Served {
    api: Api,
    trades: TradeFeed,
    /// Ends streams and sockets.
    stop: CancellationToken,
    /// Counts connections and sockets, so that the server ends after them.
    tasks: TaskTracker,
}

impl Served {
    fn new(api: Api, stop: CancellationToken) -> Self {
        let trades = TradeFeed::new(api.bus.clone(), api.tickers.clone(), stop.clone());
        Self { api, trades, stop, tasks: TaskTracker::new() }
    }
}

/// Serves until `stop` is cancelled; then streams and sockets are closed, and requests under way have
/// 5 s to finish.
pub async fn serve(listener: TcpListener, api: Api, stop: CancellationToken) -> std::io::Result<()> {
    let served = Served::new(api.clone(), stop.clone());
    let tasks = served.tasks.clone();
    let routers = Routers { within: router(served), beyond: overloaded(api.status.clone()) };
    connections::serve(listener, routers, &api.status.connections, tasks, stop).await;
    Ok(())
}

/// Serves `/health` and `/ready` until `stop` is cancelled: what a process answers that has no API, or has one that it does
/// not serve at this moment.
pub async fn serve_status(listener: TcpListener, status: ProcessStatus, has_api: bool, stop: CancellationToken) {
    let (kind, absent) = if has_api {
        (Kind::Unavailable, "this process is starting or stopping: GET /ready says when it is ready; try again")
    } else {
        (
            Kind::NotFound,
            "this process answers GET /health and GET /ready only: none of its roles, which /health lists, has an API",
        )
    };
    let beyond = overloaded(status.clone());
    let routers = Routers { within: status_router(status.clone(), kind, absent.into()), beyond };
    connections::serve(listener, routers, &status.connections, TaskTracker::new(), stop).await;
}

/// What is answered on connections beyond the budget.
fn overloaded(status: ProcessStatus) -> Router {
    let max = status.connections.counts().max;
    status_router(
        status,
        Kind::Busy,
        format!(
            "all {max} connections that this server allows are in use: try again; --max-connections and the limit of open \
             files (ulimit -n) allow more"
        ),
    )
}

/// `/health` and `/ready`, and one answer to everything else.
fn status_router(status: ProcessStatus, kind: Kind, otherwise: String) -> Router {
    let (router, _) = OpenApiRouter::new().merge(status::routes()).split_for_parts();
    router
        .fallback(async move || Problem::new(kind, otherwise))
        .layer(CatchPanicLayer::custom(problem::from_panic))
        .layer(axum::middleware::from_fn(host_check::check))
        .with_state(status)
}

impl FromRef<Served> for ProcessStatus {
    fn from_ref(served: &Served) -> Self {
        served.api.status.clone()
    }
}

fn router(served: Served) -> Router {
    let (router, mut openapi) = openapi::described()
        .merge(status::routes())
        .merge(gostocks::routes())
        .merge(trades::routes())
        .merge(rules::routes())
        .merge(promotion::routes())
        .merge(alerts::routes())
        .merge(firings::routes())
        .merge(faults::routes())
        .merge(candles::routes())
        .merge(logs::routes())
        .split_for_parts();
    openapi::describe_problems(&mut openapi);
    router
        .merge(openapi::route(&openapi))
        .fallback(async || Problem::new(Kind::NotFound, "there is no such route; GET /api/v1/openapi.json lists them"))
        .method_not_allowed_fallback(async |method: Method| {
            Problem::new(
                Kind::MethodNotAllowed,
                format!("{method} is not possible here; the Allow header says what is"),
            )
        })
        .layer(extract::body_limit(MAX_JSON_BYTES))
        .layer(CatchPanicLayer::custom(problem::from_panic))
        .layer(cors())
        .layer(axum::middleware::from_fn(host_check::check))
        .with_state(served)
}

/// Allows calls from any page, which the trading app's clients make. Only this machine is served for that reason: see
/// `host_check`.
fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
            Method::HEAD,
            Method::OPTIONS,
        ])
        .allow_headers(Any)
        .expose_headers([header::LOCATION, header::ETAG, header::RETRY_AFTER])
}
