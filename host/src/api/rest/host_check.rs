//! Serves only who asks for this machine by a loopback name. A page of a stranger whose name was made to resolve to
//! 127.0.0.1 (DNS rebinding) still sends its own name as Host.

use axum::extract::Request;
use axum::http::{HeaderMap, Uri, header, uri::Authority};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::{Kind, Problem};

/// The names of this machine.
const LOOPBACK_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// Refuses requests for another host than this machine.
pub(super) async fn check(request: Request, next: Next) -> Response {
    if is_loopback(request.uri(), request.headers()) {
        return next.run(request).await;
    }
    let message = "the Host header must name localhost, 127.0.0.1 or [::1]: without authentication only this machine \
                   is served";
    Problem::invalid_as(Kind::Forbidden, "Host", message).into_response()
}

fn is_loopback(uri: &Uri, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Ok(authority) = Authority::try_from(host.as_bytes()) else { return false };
    names_loopback(&authority) && uri.authority().is_none_or(names_loopback)
}

fn names_loopback(authority: &Authority) -> bool {
    // A user part ("evil@localhost") has no place in a Host header.
    !authority.as_str().contains('@') && LOOPBACK_NAMES.iter().any(|name| authority.host().eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[track_caller]
    fn check(uri: &str, hosts: &[&str], expect: bool) {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, HeaderValue::from_str(host).unwrap());
        }
        assert_eq!(is_loopback(&uri.parse().unwrap(), &headers), expect, "{uri} {hosts:?}");
    }

    #[test]
    fn only_this_machine_is_served() {
        for host in ["localhost", "LocalHost:8080", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:8080"] {
            check("/health", &[host], true);
        }
        let strangers = ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8080", "evil@localhost"];
        for host in
            strangers.into_iter().chain(["localhost@evil.example", "0.0.0.0", "192.168.0.1", "[::2]", "", "a b"])
        {
            check("/health", &[host], false);
        }
        check("/health", &[], false);
        check("/health", &["localhost", "localhost"], false);
        check("http://evil.example/health", &["localhost"], false);
        check("http://localhost:8080/health", &["localhost:8080"], true);
    }
}
