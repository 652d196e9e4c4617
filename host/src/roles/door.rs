//! Where a process is reached. Its state is told from the first moment to the last: before the API is there, in place of
//! one, and again while the process finishes its work.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::rest;
use crate::config::{Role, Settings};
use crate::connections::Connections;
use crate::health::Health;

pub(super) struct Door {
    /// The same socket can be listened to several times, by one after the other.
    rest: std::net::TcpListener,
    grpc: Option<std::net::TcpListener>,
    /// The API is served now.
    begun: CancellationToken,
    closed: CancellationToken,
    status: JoinHandle<anyhow::Result<()>>,
}

impl Door {
    /// Listens, and begins to tell of the process.
    pub(super) async fn open(
        settings: &Settings,
        health: Health,
        connections: &Connections,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let has_api = settings.roles.has(Role::Api);
        let rest = listen(settings, settings.port, "PORT").await?;
        let grpc = if has_api { Some(listen(settings, settings.grpc_port, "GRPC_PORT").await?) } else { None };
        let closed = CancellationToken::new();
        let (begun, stop) = (closed.child_token(), stop.clone());
        let (first, second) = (again(&rest)?, again(&rest)?);
        let (api_begins, closes, connections) = (begun.clone(), closed.clone(), connections.clone());
        let status = tokio::spawn(async move {
            if !has_api {
                rest::serve_status(first, health, &connections, has_api, closes).await;
                return Ok(());
            }
            rest::serve_status(first, health.clone(), &connections, has_api, api_begins).await;
            closes.run_until_cancelled(stop.cancelled()).await;
            rest::serve_status(second, health, &connections, has_api, closes).await;
            Ok(())
        });
        Ok(Self { rest, grpc, begun, closed, status })
    }

    /// For the API, which is served from now on: REST and gRPC.
    pub(super) fn for_api(&self) -> anyhow::Result<(TcpListener, TcpListener)> {
        let grpc = self.grpc.as_ref().context("a process without the role api serves no gRPC")?;
        let listeners = (again(&self.rest)?, again(grpc)?);
        self.begun.cancel();
        Ok(listeners)
    }

    /// Where REST is served, and gRPC if it is.
    pub(super) fn addresses(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        (self.rest.local_addr().ok(), self.grpc.as_ref().and_then(|grpc| grpc.local_addr().ok()))
    }

    /// Tells nothing more.
    pub(super) async fn close(self) {
        self.closed.cancel();
        // A panic there has been told.
        let _ = self.status.await;
    }
}

async fn listen(settings: &Settings, port: u16, variable: &str) -> anyhow::Result<std::net::TcpListener> {
    let address = SocketAddr::new(settings.bind, port);
    let advice = || format!("{variable}: cannot listen on {address}; is another server running? choose another port");
    TcpListener::bind(address).await.and_then(TcpListener::into_std).with_context(advice)
}

fn again(listener: &std::net::TcpListener) -> anyhow::Result<TcpListener> {
    listener.try_clone().and_then(TcpListener::from_std).context("listening again")
}
