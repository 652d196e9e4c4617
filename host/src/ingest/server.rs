//! The URL of a feed's server, checked before anything is started: one that nothing can be opened at would be tried for
//! ever. It may hold a key, so no error quotes it.

use tokio_tungstenite::tungstenite::http::Uri;

/// Where a feed connects to.
#[derive(Clone, PartialEq, Eq)]
pub struct FeedServer {
    /// The URL as it was given.
    pub url: String,
    /// Its host, lower case.
    pub host: String,
}

/// Why no WebSocket can be opened at a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeedServerError {
    /// Its scheme is missing or another one.
    #[error("its scheme is not ws or wss: give a URL such as ws://127.0.0.1:9001 or wss://host")]
    Scheme,
    /// It cannot be read, or names no host.
    #[error("it is not a URL with a host: give one such as ws://127.0.0.1:9001 or wss://host")]
    Malformed,
}

impl FeedServer {
    /// Reads a URL.
    pub fn parse(url: &str) -> Result<Self, FeedServerError> {
        let uri: Uri = url.parse().map_err(|_| FeedServerError::Malformed)?;
        if !matches!(uri.scheme_str(), Some("ws" | "wss")) {
            return Err(FeedServerError::Scheme);
        }
        match uri.host().filter(|host| !host.is_empty()) {
            Some(host) => Ok(Self { url: url.to_owned(), host: host.to_ascii_lowercase() }),
            None => Err(FeedServerError::Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_websocket_can_be_opened_at_is_taken() {
        for (url, host) in [
            ("ws://127.0.0.1:9001", "127.0.0.1"),
            ("wss://WS.finnhub.io", "ws.finnhub.io"),
            ("ws://[::1]:1/path?x=y", "[::1]"),
            ("ws://me:sesame@feed", "feed"),
        ] {
            let server = FeedServer::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!((server.url.as_str(), server.host.as_str()), (url, host));
        }
        for (url, error) in [
            ("junk", FeedServerError::Scheme),
            ("127.0.0.1:9001", FeedServerError::Scheme),
            ("http://127.0.0.1:9001", FeedServerError::Scheme),
            ("https://sesame", FeedServerError::Scheme),
            ("", FeedServerError::Malformed),
            ("ws://", FeedServerError::Malformed),
            ("ws:///path", FeedServerError::Malformed),
            ("ws://a b", FeedServerError::Malformed),
        ] {
            assert_eq!(FeedServer::parse(url).err(), Some(error), "{url}");
        }
    }
}
