//! Reads requests, so that every fault in one is named by its member, parameter or header.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Bytes, HttpBody as _};
use axum::extract::path::ErrorKind;
use axum::extract::rejection::PathRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::Map;
use tocsin_engine::strict_json::repeated_members;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::json_reader::JsonReader;
use super::problem::{Kind, Problem};
use crate::control::{ControlError, FieldViolation};

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The field that a fault of the body as a whole is reported on.
const BODY: &str = "body";

/// Bytes of bodies that are being received at a time, by the routes of one limit: connections are many more.
const MAX_BODIES_BYTES: usize = 64 * 1024 * 1024;

/// How long a body waits for its turn to be received, before its request is refused.
const TURN_TIMEOUT: Duration = Duration::from_secs(5);

/// The limit of a route's bodies.
#[derive(Clone)]
pub(super) struct BodyLimit {
    /// The largest, for the refusal of a larger one.
    max_bytes: usize,
    /// As many as are received at a time.
    room: Arc<Semaphore>,
}

impl BodyLimit {
    fn new(max_bytes: usize, at_once: usize) -> Self {
        Self { max_bytes, room: Arc::new(Semaphore::new(at_once)) }
    }

    /// Waits for a body's turn to be received.
    async fn turn(&self) -> Result<SemaphorePermit<'_>, Problem> {
        match timeout(TURN_TIMEOUT, self.room.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(Problem::new(Kind::Busy, "as many bodies are being received as may be: try again")),
        }
    }
}

/// The layer that limits the bodies of routes. That of a route stands before that of the router around it.
pub(super) fn body_limit(max_bytes: usize) -> (DefaultBodyLimit, Extension<BodyLimit>) {
    (DefaultBodyLimit::max(max_bytes), Extension(BodyLimit::new(max_bytes, MAX_BODIES_BYTES / max_bytes)))
}

/// A request's body, of bounded size: see [`body_limit`].
pub(super) struct Body(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let limit = request.extensions().get::<BodyLimit>().cloned();
        let too_large = || {
            let message = limit.as_ref().map_or_else(
                || "is larger than this route takes".to_owned(),
                |limit| format!("is larger than the {} bytes that this route takes", limit.max_bytes),
            );
            Problem::invalid_as(Kind::TooLarge, BODY, message)
        };
        // A client that waits for `100 Continue` gets it when its body is first read: so not at all.
        if request.body().size_hint().lower() > limit.as_ref().map_or(u64::MAX, |limit| limit.max_bytes as u64) {
            return Err(too_large());
        }
        let _turn = match &limit {
            Some(limit) => Some(limit.turn().await?),
            None => None,
        };
        match timeout(BODY_TIMEOUT, Bytes::from_request(request, state)).await {
            Ok(Ok(bytes)) => Ok(Self(bytes)),
            Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(too_large()),
            Ok(Err(rejection)) => Err(Problem::invalid(BODY, rejection.body_text())),
            Err(_) => {
                let message = format!("did not arrive within {} s", BODY_TIMEOUT.as_secs());
                Err(Problem::invalid_as(Kind::Timeout, BODY, message))
            }
        }
    }
}

/// The parameters in a path, decoded.
pub(super) struct UrlPath<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for UrlPath<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(values) = Path::from_request_parts(parts, state).await.map_err(|rejection| match &rejection {
            PathRejection::FailedToDeserializePathParams(error) => match error.kind() {
                ErrorKind::InvalidUtf8InPathParam { key } => Problem::invalid(key, "is not UTF-8"),
                _ => Problem::invalid("path", rejection.body_text()),
            },
            _ => Problem::invalid("path", rejection.body_text()),
        })?;
        Ok(Self(values))
    }
}

/// A number of the path, from 1.
pub(super) fn id(field: &str, text: &str) -> Result<i64, Problem> {
    let id = text.parse().ok().filter(|id| *id > 0);
    id.ok_or_else(|| Problem::invalid(field, format!("{text:?} is not a number between 1 and {}", i64::MAX)))
}

/// The parameters of a query string. Each is taken by its name; what is wrong is kept until [`Self::finish`].
pub(super) struct Query {
    given: Vec<(String, String)>,
    violations: Vec<FieldViolation>,
}

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        let given = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        Ok(Self { given, violations: Vec::new() })
    }
}

impl Query {
    /// The text of a parameter. Given twice, the last one counts, and it is a violation.
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        let mut values = self.given.extract_if(.., |(key, _)| key == name).map(|(_, value)| value);
        let first = values.next()?;
        let Some(last) = values.last() else { return Some(first) };
        self.violations.push(FieldViolation::new(name, "is given more than once"));
        Some(last)
    }

    /// A parameter that is not any text. `expected` completes "is not".
    pub(super) fn parsed<T: FromStr>(&mut self, name: &str, expected: &str) -> Option<T> {
        let text = self.text(name)?;
        let value = text.parse().ok();
        if value.is_none() {
            self.violations.push(FieldViolation::new(name, format!("{text:?} is not {expected}")));
        }
        value
    }

    /// `true` or `1`, `false` or `0`; false if absent.
    pub(super) fn flag(&mut self, name: &str) -> bool {
        match self.text(name).as_deref() {
            None | Some("false" | "0") => false,
            Some("true" | "1") => true,
            Some(other) => {
                self.violations.push(FieldViolation::new(name, format!("{other:?} is not true or false")));
                false
            }
        }
    }

    /// The size of a page.
    pub(super) fn limit(&mut self) -> Option<i64> {
        self.parsed("limit", "a whole number")
    }

    /// To be called when all parameters have been taken: whatever is left is unknown.
    pub(super) fn finish(mut self) -> Result<(), Problem> {
        let unknown = |(name, _): (String, String)| FieldViolation::new(name, "is not a parameter of this route");
        self.violations.extend(self.given.into_iter().map(unknown));
        if self.violations.is_empty() { Ok(()) } else { Err(ControlError::Invalid(self.violations).into()) }
    }
}

/// Reads the members of a JSON object, each given once.
pub(super) fn json(body: &[u8]) -> Result<JsonReader, Problem> {
    // Of anything else no member could be named.
    if body.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err(Problem::invalid(BODY, "is not a JSON object"));
    }
    let object = read_json(body)?;
    let repeated = repeated_members(body).unwrap_or_default().into_iter();
    let violations: Vec<_> = repeated.map(|path| FieldViolation::new(path, "is given more than once")).collect();
    if violations.is_empty() { Ok(JsonReader::new(object)) } else { Err(ControlError::Invalid(violations).into()) }
}

/// Reads the members of a JSON object as [`json`] does; a body that is left out has none.
pub(super) fn json_if_any(headers: &HeaderMap, body: &Body) -> Result<JsonReader, Problem> {
    if body.0.is_empty() {
        return Ok(JsonReader::new(Map::new()));
    }
    content_type(headers, &["application/json"])?;
    json(&body.0)
}

fn read_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        wrong_json(&path, error.inner())
    })?;
    reader.end().map_err(|error| wrong_json(".", &error))?;
    Ok(value)
}

/// Names the member that a JSON error is about. Where a name could not be read (`?`), that is the object around it. Its
/// place in the text helps with what is no JSON.
fn wrong_json(path: &str, reason: &serde_json::Error) -> Problem {
    let member = path.trim_end_matches('?').trim_matches('.');
    let text = reason.to_string();
    let text = match text.split_once(" at line ") {
        Some((message, _)) if reason.is_data() => message,
        _ => &text,
    };
    Problem::invalid(if member.is_empty() { BODY } else { member }, text)
}

/// Refuses a body whose Content-Type is none of `accepted`.
pub(super) fn content_type(headers: &HeaderMap, accepted: &[&str]) -> Result<(), Problem> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if accepted.iter().any(|accepted| essence.eq_ignore_ascii_case(accepted)) {
        return Ok(());
    }
    let message = format!("is {essence:?}: send {}", accepted.join(" or "));
    Err(Problem::invalid_as(Kind::UnsupportedMediaType, "Content-Type", message))
}

/// A header's text, if it is there.
pub(super) fn header_text(headers: &HeaderMap, name: &str) -> Result<Option<String>, Problem> {
    let text = |value: &axum::http::HeaderValue| {
        value.to_str().map(str::to_owned).map_err(|_| Problem::invalid(name, "is not visible ASCII text"))
    };
    headers.get(name).map(text).transpose()
}

/// A time as clients read it.
pub(super) fn rfc3339(time_ms: i64) -> Result<String, Problem> {
    let time = jiff::Timestamp::from_millisecond(time_ms).map_err(|error| super::problem::internal(&error))?;
    Ok(time.to_string())
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_arrive_is_waited_for_only_so_long() {
        let body = axum::body::Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let problem = Body::from_request(Request::new(body), &()).await.err().expect("there is no body");
        let answer = serde_json::to_value(problem.body()).unwrap();
        assert_eq!((answer["status"].as_u64(), answer["violations"][0]["field"].as_str()), (Some(408), Some(BODY)));
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_that_do_not_arrive_keep_others_out_for_only_so_long() {
        let limit = BodyLimit::new(10, 1);
        let request = |body| {
            let mut request = Request::new(body);
            request.extensions_mut().insert(limit.clone());
            request
        };
        let silent = axum::body::Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let first = tokio::spawn(Body::from_request(request(silent), &()));
        tokio::task::yield_now().await;
        let refused = Body::from_request(request("short".into()), &()).await.err().expect("there is no turn");
        assert_eq!(serde_json::to_value(refused.body()).unwrap()["status"], 503);
        assert!(first.await.unwrap().is_err());
        assert_eq!(Body::from_request(request("short".into()), &()).await.unwrap().0, "short");
    }
}
