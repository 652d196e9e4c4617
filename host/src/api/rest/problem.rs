//! The one table of errors: what a client sees when something is refused or fails.
//!
//! Under `/api/v1` an error is `application/problem+json` (RFC 9457) with two members more: `error`, the text of `detail`
//! for clients of GoStocks, and `violations`.

use std::any::Any;
use std::borrow::Cow;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tocsin_engine::violation::Violation;

use crate::connections::STREAMS_RETRY_AFTER;
use crate::control::{BUSY_RETRY_AFTER_S, ControlError, FieldViolation};
use crate::wire::{ProblemBody, ViolationBody};

/// The most bytes of a field's name or a message. Both may quote a client, who should not have it all back.
const MAX_QUOTED_BYTES: usize = 512;

/// What kind of error it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Members, parameters or headers are wrong.
    Invalid,
    /// Asked for by a name that is not served.
    Forbidden,
    /// No such thing.
    NotFound,
    /// The thing is there, but not for this method.
    MethodNotAllowed,
    /// The body did not arrive in time.
    Timeout,
    /// It contradicts what is stored.
    Conflict,
    /// There would be more of something than may be.
    CapReached,
    /// The body is too large.
    TooLarge,
    /// The body is of a type that is not taken.
    UnsupportedMediaType,
    /// The module is no rule.
    Rejected,
    /// Broken on this side.
    Internal,
    /// A backend is away.
    Unavailable,
    /// Too many requests of this kind are under way.
    Busy,
    /// As many streams are open as may be.
    TooManyStreams,
}

impl Kind {
    /// The table: status, the last part of the type's URI, title.
    fn row(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Invalid => (StatusCode::BAD_REQUEST, "invalid-request", "The request is invalid"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "Not served to this host"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found", "Not found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed"),
            Self::Timeout => (StatusCode::REQUEST_TIMEOUT, "timeout", "The body did not arrive in time"),
            Self::Conflict => (StatusCode::CONFLICT, "conflict", "In conflict with what is stored"),
            Self::CapReached => (StatusCode::FORBIDDEN, "cap-reached", "There are as many as there may be"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The body is too large"),
            Self::UnsupportedMediaType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "The body is of an unsupported type")
            }
            Self::Rejected => (StatusCode::UNPROCESSABLE_ENTITY, "rejected-module", "The module is not a rule"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Unavailable for now"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy", "Too much is waiting already"),
            Self::TooManyStreams => {
                (StatusCode::TOO_MANY_REQUESTS, "too-many-streams", "As many streams are open as may be")
            }
        }
    }
}

impl Kind {
    /// When to try again, seconds, where that is known.
    fn retry_after_s(self) -> Option<u64> {
        match self {
            Self::Busy => Some(BUSY_RETRY_AFTER_S),
            Self::TooManyStreams => Some(STREAMS_RETRY_AFTER.as_secs()),
            _ => None,
        }
    }
}

/// An error on its way to a client.
#[derive(Debug)]
pub(super) struct Problem {
    kind: Kind,
    detail: String,
    violations: Vec<ViolationBody>,
}

impl Problem {
    /// A problem without violations.
    pub(super) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), violations: Vec::new() }
    }

    /// One wrong member, parameter or header.
    pub(super) fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self::invalid_as(Kind::Invalid, field, message)
    }

    /// One wrong member, parameter or header, which makes a problem of another kind than [`Kind::Invalid`].
    pub(super) fn invalid_as(kind: Kind, field: &str, message: impl Into<String>) -> Self {
        let violations = vec![FieldViolation::new(field, message)];
        Self { kind, ..ControlError::Invalid(violations).into() }
    }

    /// The name by which a client gave a wrong value differs from the one that the use case knows.
    pub(super) fn renaming(mut self, from: &str, to: &str) -> Self {
        for violation in &mut self.violations {
            if let ViolationBody::Field { field, message } = violation
                && field == from
            {
                *field = to.to_owned();
                self.detail = format!("{to}: {message}");
            }
        }
        self
    }

    /// The body that a client gets.
    pub(super) fn body(self) -> ProblemBody {
        let (status, name, title) = self.kind.row();
        ProblemBody {
            kind: format!("urn:tocsin:problem:{name}"),
            title: title.into(),
            status: status.as_u16(),
            error: self.detail.clone(),
            detail: self.detail,
            violations: self.violations,
        }
    }

    /// The answer of GoStocks' routes: the same body as plain JSON, which is what their clients look for.
    pub(super) fn into_plain_response(self) -> Response {
        (self.kind.row().0, Json(self.body())).into_response()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (kind, status) = (self.kind, self.kind.row().0);
        let mut response =
            (status, [(header::CONTENT_TYPE, "application/problem+json")], Json(self.body())).into_response();
        if let Some(seconds) = kind.retry_after_s() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        let kind = match &error {
            ControlError::Invalid(_) => Kind::Invalid,
            ControlError::Rejected(_) => Kind::Rejected,
            ControlError::NotFound(_) => Kind::NotFound,
            ControlError::Conflict(_) | ControlError::Raced(_) | ControlError::Precondition(_) => Kind::Conflict,
            ControlError::CapReached(_) => Kind::CapReached,
            ControlError::Unavailable(_) => Kind::Unavailable,
            ControlError::Busy(_) => Kind::Busy,
            ControlError::Internal(_) => Kind::Internal,
        };
        let detail = error.to_string();
        let violations = match error {
            ControlError::Invalid(fields) => fields.into_iter().map(ViolationBody::from_field).collect(),
            ControlError::Rejected(violations) => violations.into_iter().map(ViolationBody::from_module).collect(),
            ControlError::Internal(_) => return internal(&detail),
            _ => Vec::new(),
        };
        Self { kind, detail: shortened(&detail).into_owned(), violations }
    }
}

impl ViolationBody {
    fn from_field(violation: FieldViolation) -> Self {
        let FieldViolation { field, message } = violation;
        Self::Field { field: shortened(&field).into_owned(), message: shortened(&message).into_owned() }
    }

    fn from_module(violation: Violation) -> Self {
        Self::Module { code: violation.code.as_str().into(), message: violation.message }
    }
}

/// Something is broken on this side: the log says what, the client only that.
pub(super) fn internal(reason: &dyn std::fmt::Display) -> Problem {
    tracing::error!(%reason, "a request failed");
    Problem::new(Kind::Internal, "something is broken on the server's side; its log says what")
}

/// The last resort: a handler panicked.
#[expect(clippy::needless_pass_by_value, reason = "the layer hands it over so")]
pub(super) fn from_panic(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    internal(&text.unwrap_or("a panic without a message")).into_response()
}

fn shortened(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_QUOTED_BYTES {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{}…", &text[..text.floor_char_boundary(MAX_QUOTED_BYTES)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_turned_away_hears_when_to_come_back() {
        let response = Problem::from(ControlError::Busy("8 modules are waiting".into())).into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], BUSY_RETRY_AFTER_S.to_string());
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_problem_without_details() {
        let response = from_panic(Box::new("a secret"));
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert!(body.contains("urn:tocsin:problem:internal") && !body.contains("secret"), "{body}");
    }
}
