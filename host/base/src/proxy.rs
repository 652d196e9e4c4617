//! A network between the product and a server, which a test can spoil.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test that calls it")]

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// How the network is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// As it should be.
    Pass,
    /// Whatever is sent takes so long.
    Delay(Duration),
    /// Connections are made, and nothing passes.
    Stall,
    /// Connections on which a client sends these bytes are stalled from then on; all others pass.
    StallAfter(&'static str),
    /// Connections are made, and end at once; so do those that there are.
    Cut,
    /// Connections are refused.
    Refuse,
}

/// A proxy before a server, until it is dropped.
pub struct Proxy {
    port: u16,
    mode: watch::Sender<Mode>,
    _running: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Listens on a port of its own for connections to `HOST:PORT`.
    pub async fn start(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own_port = listener.local_addr().unwrap().port();
        let (mode, modes) = watch::channel(Mode::Pass);
        let running = tokio::spawn(listen(listener, modes, server));
        Self { port: own_port, mode, _running: AbortOnDropHandle::new(running) }
    }

    /// Returns the port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sets how the network is from now on.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn listen(listener: TcpListener, mut mode: watch::Receiver<Mode>, server: String) {
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
                let (mode, server) = (mode.clone(), server.clone());
                tokio::spawn(async move { serve(accepted.unwrap().0, mode, &server).await });
            }
        }
    }
}

async fn serve(mut client: TcpStream, mut mode: watch::Receiver<Mode>, server: &str) {
    let mut server = TcpStream::connect(server).await.unwrap();
    let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
    let sent_that = AtomicBool::new(false);
    let forth = Direction { mode: mode.clone(), sent_that: &sent_that, from_client: true };
    let back = Direction { mode: mode.clone(), sent_that: &sent_that, from_client: false };
    tokio::select! {
        () = forth.pass(from_client, to_server) => {}
        () = back.pass(from_server, to_client) => {}
        _ = mode.wait_for(|mode| matches!(mode, Mode::Cut | Mode::Refuse)) => {}
    }
}

/// One direction of a connection.
struct Direction<'a> {
    mode: watch::Receiver<Mode>,
    /// The client has sent what [`Mode::StallAfter`] names.
    sent_that: &'a AtomicBool,
    from_client: bool,
}

impl Direction<'_> {
    /// Passes on what comes, as the network is just then, until one side ends.
    async fn pass(mut self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
        let mut bytes = vec![0; 64 * 1024];
        loop {
            let Ok(count @ 1..) = from.read(&mut bytes).await else { return };
            let now = *self.mode.borrow();
            match now {
                Mode::Delay(delay) => tokio::time::sleep(delay).await,
                Mode::StallAfter(text) if self.from_client => {
                    let sends_that = bytes[..count].windows(text.len()).any(|part| part == text.as_bytes());
                    self.sent_that.fetch_or(sends_that, Relaxed);
                }
                _ => {}
            }
            let sent_that = self.sent_that;
            let passes = |mode: &Mode| match mode {
                Mode::Stall => false,
                Mode::StallAfter(_) => !sent_that.load(Relaxed),
                _ => true,
            };
            if self.mode.wait_for(passes).await.is_err() || to.write_all(&bytes[..count]).await.is_err() {
                return;
            }
        }
    }
}
