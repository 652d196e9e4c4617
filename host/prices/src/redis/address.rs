//! Where Redis is: `REDIS_ADDR`.

use std::fmt;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _};

/// What may be given, for messages.
const FORMS: &str = "give HOST:PORT or redis://USER:PASSWORD@HOST:PORT/DATABASE";

/// The address of a Redis, and the user to log in as.
#[derive(Clone)]
pub struct RedisAddress(ConnectionInfo);

impl RedisAddress {
    /// Reads `HOST:PORT`, as in GoStocks, or a `redis://` URL. The error says what is wrong, and no value that may be secret.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let info = match text.split_once("://") {
            Some(("redis", _)) => text.into_connection_info(),
            Some(("rediss", _)) => return Err(format!("TLS is not built in; {FORMS}")),
            Some(_) => return Err(format!("is no URL of a Redis; {FORMS}")),
            None if has_port(text) => format!("redis://{text}").into_connection_info(),
            None => return Err(format!("is no HOST:PORT; {FORMS}")),
        };
        let info = info.map_err(|error| format!("{}; {FORMS}", error.detail().unwrap_or("is not understood")))?;
        if info.redis_settings().db() < 0 {
            return Err(format!("a database's number is at least 0; {FORMS}"));
        }
        Ok(Self(info))
    }

    pub(super) fn connection_info(&self) -> ConnectionInfo {
        self.0.clone()
    }

    /// The same server, elsewhere.
    #[cfg(test)]
    pub(super) fn at(&self, host: &str, port: u16) -> Self {
        Self(self.0.clone().set_addr(ConnectionAddr::Tcp(host.into(), port)))
    }
}

/// Whether a text without a scheme ends with a port, and holds nothing that only a URL has.
fn has_port(text: &str) -> bool {
    let port = text.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    matches!(port, Some(Ok(1..))) && !text.contains(['@', '/', '?', '#'])
}

/// Without user and password.
impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.addr() {
            ConnectionAddr::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}")?,
            address => write!(f, "{address}")?,
        }
        match self.0.redis_settings().db() {
            0 => Ok(()),
            database => write!(f, ", database {database}"),
        }
    }
}

impl fmt::Debug for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisAddress({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_or_a_url_is_read_and_no_password_is_shown() {
        for (text, shown) in [
            ("127.0.0.1:6379", "127.0.0.1:6379"),
            (" cache.example:1 ", "cache.example:1"),
            ("[::1]:6379", "[::1]:6379"),
            ("redis://cache", "cache:6379"),
            ("redis://:secret@cache:7000/3", "cache:7000, database 3"),
            ("redis://user:secret@cache/0", "cache:6379"),
        ] {
            let address = RedisAddress::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(address.to_string(), shown, "{text}");
            assert!(!format!("{address:?}").contains("secret"));
        }
        for (text, expect) in [
            ("", "is no HOST:PORT"),
            ("localhost", "is no HOST:PORT"),
            ("localhost:0", "is no HOST:PORT"),
            ("localhost:99999", "is no HOST:PORT"),
            ("secret@localhost:6379", "is no HOST:PORT"),
            ("rediss://cache:6379", "TLS is not built in"),
            ("http://:secret@cache:6379", "is no URL of a Redis"),
            ("redis://:secret@cache:6379/one", "HOST:PORT"),
            ("redis://:secret@cache:6379/-1", "at least 0"),
            ("redis://:secret@:6379", "HOST:PORT"),
        ] {
            let error = RedisAddress::parse(text).expect_err(text);
            assert!(error.contains(expect) && !error.contains("secret"), "{text}: {error}");
        }
    }
}
