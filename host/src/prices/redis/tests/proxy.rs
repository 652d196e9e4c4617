//! A network between the product and Redis, which a test can spoil.

use std::time::Duration;

use redis::ConnectionAddr;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::prices::RedisAddress;

/// How the network is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Mode {
    Pass,
    /// Whatever is sent takes so long.
    Delay(Duration),
    /// Connections are made, and nothing passes.
    Stall,
    /// Connections are made, and end at once; so do those that there are.
    Cut,
    /// Nobody listens.
    Refuse,
}

/// A proxy before a Redis, until it is dropped.
pub(super) struct Proxy {
    port: u16,
    mode: watch::Sender<Mode>,
    _running: AbortOnDropHandle<()>,
}

impl Proxy {
    pub(super) async fn start(redis: &RedisAddress) -> Self {
        let ConnectionAddr::Tcp(host, port) = redis.connection_info().addr().clone() else { panic!("{redis}") };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own_port = listener.local_addr().unwrap().port();
        let (mode, modes) = watch::channel(Mode::Pass);
        let running = tokio::spawn(listen(listener, modes, format!("{host}:{port}")));
        Self { port: own_port, mode, _running: AbortOnDropHandle::new(running) }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn listen(listener: TcpListener, mut mode: watch::Receiver<Mode>, redis: String) {
    let address = listener.local_addr().unwrap();
    let mut listener = Some(listener);
    loop {
        if *mode.borrow_and_update() == Mode::Refuse {
            listener = None;
            if mode.changed().await.is_err() {
                return;
            }
            continue;
        }
        if listener.is_none() {
            listener = Some(TcpListener::bind(address).await.unwrap());
        }
        tokio::select! {
            changed = mode.changed() => if changed.is_err() { return },
            accepted = listener.as_ref().unwrap().accept() => {
                let (mode, redis) = (mode.clone(), redis.clone());
                tokio::spawn(async move { serve(accepted.unwrap().0, mode, &redis).await });
            }
        }
    }
}

async fn serve(client: TcpStream, mut mode: watch::Receiver<Mode>, redis: &str) {
    let mut server = TcpStream::connect(redis).await.unwrap();
    let mut client = client;
    let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
    let (forth, back) = (mode.clone(), mode.clone());
    tokio::select! {
        () = pass(from_client, to_server, forth) => {}
        () = pass(from_server, to_client, back) => {}
        _ = mode.wait_for(|mode| matches!(mode, Mode::Cut | Mode::Refuse)) => {}
    }
}

/// Passes on what comes, as the network is just then, until one side ends.
async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut mode: watch::Receiver<Mode>) {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let Ok(count @ 1..) = from.read(&mut bytes).await else { return };
        let now = *mode.borrow();
        if let Mode::Delay(delay) = now {
            tokio::time::sleep(delay).await;
        }
        if mode.wait_for(|mode| *mode != Mode::Stall).await.is_err() || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
