//! The trading app's routes: the allowed tickers, and a WebSocket of each one's trades.
//!
//! One thread reads the bus for all sockets of the process, from the latest offsets on.

mod tail;

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::json;
use tocsin_engine::domain::Symbol;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, interval_at, timeout};
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) use self::tail::TradeFeed;
use super::Served;
use super::extract::UrlPath;
use super::problem::{Kind, Problem};
use crate::connections::Activity;
use crate::wire::ProblemBody;

/// The largest message of a client, bytes. Nothing that it sends is looked at.
const MAX_CLIENT_MESSAGE_BYTES: usize = 1024;

/// How long a client may read nothing, once the system's buffers are full, before its socket is closed.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a client is asked (ping) whether it is still there: it has until the next time to answer. Browsers and libraries
/// do so by themselves.
const PING_EVERY: Duration = Duration::from_secs(30);

/// How long a client may take to answer a close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// RFC 6455 has no 1013 ("try again later"); IANA's registry of close codes has.
const TRY_AGAIN_LATER: u16 = close_code::AGAIN;

pub(super) fn routes() -> OpenApiRouter<Served> {
    OpenApiRouter::new().routes(routes!(tickers)).routes(routes!(trades))
}

/// The allowed tickers, lower case.
#[utoipa::path(get, path = "/api/v1/tickers", operation_id = "list_tickers", tag = "trades",
    responses((status = 200, body = Vec<String>, description = "The tickers")),
)]
async fn tickers(State(served): State<Served>) -> Json<Vec<String>> {
    Json(served.api.tickers.iter().map(|ticker| ticker.as_str().to_ascii_lowercase()).collect())
}

/// A WebSocket of a ticker's trades, from now on: text frames
/// `{"s":"BTCUSDT","p":"61800.3","q":"0.006","T":1723161256322}`. A socket that does not keep up is closed with 1013.
#[utoipa::path(get, path = "/ws/trades/{ticker}", operation_id = "stream_trades", tag = "trades",
    params(("ticker" = String, Path, description = "One of `/api/v1/tickers`, in any case")),
    responses(
        (status = 101, description = "The socket; closed with 1003 if the ticker is not allowed"),
        (status = 400, description = "`{\"error\":\"WebSocket upgrade required\"}`"),
        (status = 429, body = ProblemBody, content_type = "application/problem+json",
            description = "As many streams are open as may be; Retry-After says when to try again"),
    ),
)]
async fn trades(
    State(served): State<Served>,
    activity: Option<Extension<Activity>>,
    ticker: Result<UrlPath<String>, Problem>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let Ok(upgrade) = upgrade else {
        return (StatusCode::BAD_REQUEST, Json(json!({"error": "WebSocket upgrade required"}))).into_response();
    };
    let upgrade = upgrade.max_message_size(MAX_CLIENT_MESSAGE_BYTES).max_frame_size(MAX_CLIENT_MESSAGE_BYTES);
    let symbol = ticker.ok().and_then(|UrlPath(ticker)| Symbol::parse(&ticker).ok());
    let symbol = symbol.filter(|symbol| served.api.tickers.contains(symbol));
    let streams = served.api.status.connections.streams();
    let Some(place) = streams.open_one() else {
        return Problem::new(Kind::TooManyStreams, streams.refusal()).into_response();
    };
    // The connection is not idle for as long as the socket is open.
    let held = (served.tasks.token(), place, activity.map(|Extension(activity)| activity.begin()));
    let Some(symbol) = symbol else {
        return upgrade.on_upgrade(async move |socket| {
            let _held = held;
            close(socket, close_code::UNSUPPORTED, "Ticker is not allowed").await;
        });
    };
    // Subscribed before the client learns that it is connected: it misses nothing from then on.
    let trades = match served.trades.subscribe(&symbol).await {
        Ok(trades) => trades,
        Err(error) => return Problem::new(Kind::Unavailable, error.to_string()).into_response(),
    };
    upgrade.on_upgrade(async move |socket| {
        let _held = held;
        forward(socket, trades, served.stop).await;
    })
}

/// Sends trades until the client goes, lags, answers no more, or the server stops.
async fn forward(mut socket: WebSocket, mut trades: broadcast::Receiver<Utf8Bytes>, stop: CancellationToken) {
    let mut ping = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    let mut heard_of = true;
    loop {
        tokio::select! {
            () = stop.cancelled() => return close(socket, close_code::AWAY, "The server is stopping").await,
            trade = trades.recv() => match trade {
                Ok(trade) => {
                    let sent = tokio::select! {
                        sent = timeout(SEND_TIMEOUT, socket.send(Message::Text(trade))) => sent,
                        () = stop.cancelled() => return,
                    };
                    match sent {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) => return,
                        Err(_) => return close(socket, TRY_AGAIN_LATER, "Nothing was read: connect again").await,
                    }
                }
                Err(RecvError::Lagged(missed)) => {
                    let reason = format!("{missed} trades were missed: read faster, and connect again");
                    return close(socket, TRY_AGAIN_LATER, &reason).await;
                }
                Err(RecvError::Closed) => {
                    return close(socket, close_code::ERROR, "Trades cannot be read: connect again later").await;
                }
            },
            _ = ping.tick() => {
                if !std::mem::take(&mut heard_of) {
                    return close(socket, TRY_AGAIN_LATER, "Pings were not answered: connect again").await;
                }
                if !matches!(timeout(SEND_TIMEOUT, socket.send(Message::Ping(Bytes::new()))).await, Ok(Ok(()))) {
                    return;
                }
            }
            // Pings are answered, and a close is, while a message is being received.
            message = socket.recv() => match message {
                Some(Ok(_)) => heard_of = true,
                Some(Err(_)) | None => return,
            },
        }
    }
}

/// Closes a socket. A client that is gone, or reads nothing, holds it up for [`CLOSE_TIMEOUT`] at most.
async fn close(mut socket: WebSocket, code: u16, reason: &str) {
    let frame = CloseFrame { code, reason: reason.into() };
    let closing = async {
        if socket.send(Message::Close(Some(frame))).await.is_ok() {
            // The client's close frame, or the end: a connection that is dropped with unread bytes loses what was sent.
            while let Some(Ok(_)) = socket.recv().await {}
        }
    };
    let _ = timeout(CLOSE_TIMEOUT, closing).await;
}
