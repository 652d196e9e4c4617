//! One socket of the feed server: the upgrade with its token, subscriptions in, frames out, the goodbye.

use std::borrow::Cow;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use tocsin_engine::domain::Symbol;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at, timeout};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

use super::ReplayOptions;
use super::player::{ClientId, Command, FRAME_QUEUE};
use crate::ingest::TOO_MANY_SYMBOLS;

/// The largest message that a client may send, in bytes: a subscription has about 50.
const MAX_MESSAGE_BYTES: usize = 4 << 10;
/// How long the upgrade may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may take to answer a goodbye. It reads what is on its way first.
const CLOSE_WAIT: Duration = Duration::from_secs(30);
/// Finnhub pings about once a minute.
const PING_EVERY: Duration = Duration::from_secs(60);
/// Error frames that may wait for the socket.
const ANSWER_QUEUE: usize = 64;

type Socket = WebSocketStream<TcpStream>;

/// What every connection of a server has in common.
#[derive(Clone)]
pub(super) struct Connection {
    token: Option<Arc<str>>,
    max_symbols: usize,
    commands: mpsc::Sender<Command>,
}

#[derive(Deserialize)]
struct WireRequest<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    symbol: Option<Cow<'a, str>>,
}

impl Connection {
    pub(super) fn new(options: &ReplayOptions, commands: mpsc::Sender<Command>) -> Self {
        Self { token: options.token.as_deref().map(Arc::from), max_symbols: options.max_symbols, commands }
    }

    /// Serves one client until it leaves or the player closes its queue.
    pub(super) async fn serve(self, client: ClientId, stream: TcpStream, peer: SocketAddr) {
        let socket = match self.upgrade(stream).await {
            Ok(socket) => socket,
            Err(reason) => return tracing::warn!(client, %peer, "refused: {reason}"),
        };
        tracing::info!(client, %peer, "a client has connected");
        let (frames, outgoing) = mpsc::channel(FRAME_QUEUE);
        let (answers, answering) = mpsc::channel(ANSWER_QUEUE);
        if self.commands.send(Command::Join { client, frames }).await.is_err() {
            return; // the server has ended
        }
        let (writer, reader) = socket.split();
        // Reading and writing go on side by side: the player must be able to fill the queue of a client whose next
        // subscription waits for the player.
        let mut listening = pin!(self.listen(client, reader, answers));
        tokio::select! {
            () = &mut listening => {}
            written = write(writer, outgoing, answering) => {
                // The client is read from until it has closed, or what is on its way to it would be lost in a reset.
                if written.is_ok() && timeout(CLOSE_WAIT, listening).await.is_err() {
                    tracing::warn!(client, "the client has not answered the goodbye and is cut");
                }
            }
        }
        tracing::info!(client, "the client has left");
        // If this fails the server has ended, and knows no clients.
        let _ = self.commands.send(Command::Leave { client }).await;
    }

    async fn upgrade(&self, stream: TcpStream) -> Result<Socket, String> {
        // Frames are written whole: there is nothing to be gained by waiting for more.
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        #[expect(clippy::result_large_err, reason = "the WebSocket library wants it so")]
        let check = |request: &Request, response: Response| match &self.token {
            Some(token) if token_of(request).as_deref() != Some(token) => Err(unauthorized()),
            _ => Ok(response),
        };
        match timeout(HANDSHAKE, accept_hdr_async_with_config(stream, check, Some(config))).await {
            Ok(Ok(socket)) => Ok(socket),
            Ok(Err(WsError::Http(response))) if response.status() == StatusCode::UNAUTHORIZED => {
                Err("its ?token= is missing or not the one of --token (HTTP 401)".to_owned())
            }
            Ok(Err(WsError::Http(response))) => Err(format!("HTTP {}", response.status())),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no upgrade within {HANDSHAKE:?}")),
        }
    }

    /// Reads requests until the client leaves.
    async fn listen(&self, client: ClientId, mut reader: SplitStream<Socket>, answers: mpsc::Sender<String>) {
        let mut subscribed = HashSet::new();
        while let Some(Ok(message)) = reader.next().await {
            let Message::Text(text) = message else { continue };
            let delivered = match self.understand(client, &text, &mut subscribed) {
                Ok(Some(command)) => self.commands.send(command).await.is_ok(),
                Ok(None) => true,
                Err(msg) => {
                    let answer = serde_json::json!({ "type": "error", "msg": msg }).to_string();
                    // If the writer has ended, the close frame was sent, and the client reads no answers.
                    let _ = answers.send(answer).await;
                    true
                }
            };
            if !delivered {
                return; // the server has ended
            }
        }
    }

    /// Returns a request's command to the player; None if it changes nothing. An error is the message to answer with.
    fn understand(
        &self,
        client: ClientId,
        text: &str,
        subscribed: &mut HashSet<Symbol>,
    ) -> Result<Option<Command>, String> {
        let request: WireRequest = serde_json::from_str(text).map_err(|_| "Invalid message".to_owned())?;
        let symbol = request.symbol.as_deref().ok_or("Invalid message: no symbol")?;
        let symbol = Symbol::parse(symbol).map_err(|error| format!("Invalid symbol: it {error}"))?;
        match &*request.kind {
            "subscribe" if subscribed.contains(&symbol) => Ok(None),
            "subscribe" if subscribed.len() >= self.max_symbols => Err(TOO_MANY_SYMBOLS.to_owned()),
            "subscribe" => {
                subscribed.insert(symbol.clone());
                Ok(Some(Command::Subscribe { client, symbol }))
            }
            "unsubscribe" => Ok(subscribed.remove(&symbol).then_some(Command::Unsubscribe { client, symbol })),
            _ => Err("Invalid message: its type is neither subscribe nor unsubscribe".to_owned()),
        }
    }
}

/// Writes frames until the player closes the queue, then says goodbye.
async fn write(
    mut writer: SplitSink<Socket, Message>,
    mut outgoing: mpsc::Receiver<Message>,
    mut answering: mpsc::Receiver<String>,
) -> Result<(), WsError> {
    let mut heartbeat = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    loop {
        let message = tokio::select! {
            frame = outgoing.recv() => match frame {
                Some(frame) => frame,
                None => break,
            },
            Some(answer) = answering.recv() => Message::text(answer),
            _ = heartbeat.tick() => Message::text(r#"{"type":"ping"}"#),
        };
        writer.send(message).await?;
    }
    let goodbye = CloseFrame { code: CloseCode::Away, reason: "the feed server closes this connection".into() };
    writer.send(Message::Close(Some(goodbye))).await
}

/// The `token` in a request's query.
fn token_of(request: &Request) -> Option<String> {
    let query = request.uri().query()?;
    form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "token").map(|(_, token)| token.into_owned())
}

fn unauthorized() -> ErrorResponse {
    let mut response = ErrorResponse::new(Some("Invalid API key".to_owned()));
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response
}
