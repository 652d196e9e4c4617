//! Opening a WebSocket: TCP, TLS where the URL says so, the upgrade, all within a time.
//!
//! No error here holds the URL, since the key is in it.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, error::UrlError};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config};

/// The largest frame, or message of several frames, that is read, in bytes. Recorded frames stay below 3 KiB; a larger
/// one than this ends the connection, as the WebSocket library knows no way to skip it.
pub(super) const MAX_FRAME_BYTES: usize = 1 << 20;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// HTTP 401 at the upgrade.
    #[error("the server refused the key (HTTP 401)")]
    Unauthorized,
    #[error("the server answered with HTTP {0} where a WebSocket was expected")]
    Status(StatusCode),
    #[error("the feed's URL is not one that a WebSocket can be opened at: use ws://host:port or wss://host")]
    Url,
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    Other(WsError),
}

/// What every connection of a feed is opened with.
pub(super) struct Dialer {
    connector: Connector,
    timeout: Duration,
}

impl Dialer {
    pub(super) fn new(timeout: Duration) -> Self {
        // The crypto provider is named, not left to rustls' default: that panics as soon as another crate in the build
        // turns on a second one.
        let roots: RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has cipher suites for the protocol versions that rustls was built with")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { connector: Connector::Rustls(Arc::new(config)), timeout }
    }

    pub(super) async fn connect(&self, url: &str) -> Result<WebSocketStream<MaybeTlsStream<TcpStream>>, ConnectError> {
        let connecting = connect_async_tls_with_config(url, Some(socket_config()), true, Some(self.connector.clone()));
        // Boxed: the handshake's future is large, and there is one a connection.
        match tokio::time::timeout(self.timeout, Box::pin(connecting)).await {
            Ok(Ok((socket, _response))) => Ok(socket),
            Ok(Err(error)) => Err(ConnectError::from_ws(error)),
            Err(_) => Err(ConnectError::Timeout(self.timeout)),
        }
    }
}

/// How frames are read.
pub(super) fn socket_config() -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(Some(MAX_FRAME_BYTES)).max_frame_size(Some(MAX_FRAME_BYTES))
}

impl ConnectError {
    fn from_ws(error: WsError) -> Self {
        match error {
            WsError::Http(response) if response.status() == StatusCode::UNAUTHORIZED => Self::Unauthorized,
            WsError::Http(response) => Self::Status(response.status()),
            WsError::Url(UrlError::UnableToConnect(_)) => Self::Url, // its text holds the URL
            WsError::Url(_) | WsError::HttpFormat(_) => Self::Url,
            other => Self::Other(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn wss_begins_with_a_tls_handshake() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("wss://{}/?token=sesame", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 3];
            stream.read_exact(&mut head).await.unwrap();
            head
        });
        let error = Dialer::new(Duration::from_secs(30)).connect(&url).await.unwrap_err();
        // A handshake record of TLS, version 1.0 or later: the provider is there.
        let head = server.await.unwrap();
        assert_eq!((head[0], head[1]), (0x16, 0x03));
        assert!(!format!("{error} {error:?}").contains("sesame"), "{error:?}");
    }

    #[test]
    fn the_library_cannot_log_the_request_that_holds_the_key() {
        assert!(log::STATIC_MAX_LEVEL < log::LevelFilter::Trace, "see `log` in the workspace's Cargo.toml");
    }

    #[tokio::test]
    async fn a_bad_url_is_told_without_the_url() {
        for url in ["", "sesame", "http://sesame", "ws://", "ws://\u{1}sesame"] {
            let error = Dialer::new(Duration::from_secs(30)).connect(url).await.unwrap_err();
            assert!(matches!(error, ConnectError::Url), "{url:?}: {error:?}");
        }
    }
}
