//! The sockets of this process. `/health` and `/ready` are served on the REST port from the first moment to the last: before
//! the API starts, in place of an API, and again while the process finishes its work.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::{ProcessStatus, rest};
use crate::config::{Role, Settings};

pub(super) struct Listeners {
    /// The same socket is served by several servers, one after the other.
    rest: std::net::TcpListener,
    grpc: Option<std::net::TcpListener>,
    /// Cancelled when the API takes the sockets over.
    api_started: CancellationToken,
    closed: CancellationToken,
    status_server: JoinHandle<anyhow::Result<()>>,
}

impl Listeners {
    /// Opens the sockets, and begins to serve `/health` and `/ready`.
    pub(super) async fn open(
        settings: &Settings,
        status: ProcessStatus,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let has_api = settings.roles.has(Role::Api);
        let rest = listen(settings, settings.port, "PORT").await?;
        let grpc = if has_api { Some(listen(settings, settings.grpc_port, "GRPC_PORT").await?) } else { None };
        let closed = CancellationToken::new();
        let api_started = closed.child_token();
        let (before_api, after_api) = (reopen(&rest)?, reopen(&rest)?);
        let (api_starts, closes, stop) = (api_started.clone(), closed.clone(), stop.clone());
        let status_server = tokio::spawn(async move {
            if !has_api {
                rest::serve_status(before_api, status, has_api, closes).await;
                return Ok(());
            }
            rest::serve_status(before_api, status.clone(), has_api, api_starts).await;
            closes.run_until_cancelled(stop.cancelled()).await;
            rest::serve_status(after_api, status, has_api, closes).await;
            Ok(())
        });
        Ok(Self { rest, grpc, api_started, closed, status_server })
    }

    /// Returns the sockets for the API's servers, REST and gRPC, which take over now.
    pub(super) fn for_api(&self) -> anyhow::Result<(TcpListener, TcpListener)> {
        let grpc = self.grpc.as_ref().context("a process without the role api serves no gRPC")?;
        let listeners = (reopen(&self.rest)?, reopen(grpc)?);
        self.api_started.cancel();
        Ok(listeners)
    }

    /// Returns the addresses of REST, and of gRPC if it is served.
    pub(super) fn addresses(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        (self.rest.local_addr().ok(), self.grpc.as_ref().and_then(|grpc| grpc.local_addr().ok()))
    }

    /// Stops serving `/health` and `/ready`, and closes the sockets.
    pub(super) async fn close(self) {
        self.closed.cancel();
        // A panic there has been logged.
        let _ = self.status_server.await;
    }
}

async fn listen(settings: &Settings, port: u16, variable: &str) -> anyhow::Result<std::net::TcpListener> {
    let address = SocketAddr::new(settings.bind, port);
    let advice = || format!("{variable}: cannot listen on {address}; is another server running? choose another port");
    TcpListener::bind(address).await.and_then(TcpListener::into_std).with_context(advice)
}

fn reopen(listener: &std::net::TcpListener) -> anyhow::Result<TcpListener> {
    listener.try_clone().and_then(TcpListener::from_std).context("duplicating a listening socket")
}
