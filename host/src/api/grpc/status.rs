//! The one table of errors: what a use case refuses, as a gRPC status with `google.rpc` details.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::control::{BUSY_RETRY_AFTER_S, ControlError, FieldViolation};

/// When a client may try again after UNAVAILABLE: the store and the bus come back within a second or not at all.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The most bytes of all violations of a status. Status and details travel in HTTP/2 trailers, and clients in Java and
/// C refuse more than 8 KiB of those; details go as base64, which adds a third.
const MAX_DETAIL_BYTES: usize = 4 * 1024;

/// The longest text of one violation, and the longest message, in bytes.
const MAX_TEXT_BYTES: usize = 512;

/// The status of a failed use case.
pub(super) fn status(error: ControlError) -> Status {
    let message = clip(&error.to_string());
    match error {
        ControlError::Invalid(violations) => invalid(&message, violations),
        ControlError::Rejected(violations) => {
            invalid(&message, violations.iter().map(|v| FieldViolation::new("module", v.to_string())).collect())
        }
        ControlError::NotFound(_) => Status::new(Code::NotFound, message),
        ControlError::Conflict(_) => Status::new(Code::AlreadyExists, message),
        ControlError::Raced(_) => Status::new(Code::Aborted, message),
        ControlError::Precondition(_) => Status::new(Code::FailedPrecondition, message),
        ControlError::CapReached(_) => Status::new(Code::ResourceExhausted, message),
        ControlError::Unavailable(_) => {
            tracing::warn!(error = %message, "a gRPC call failed");
            Status::with_error_details(Code::Unavailable, message, ErrorDetails::with_retry_info(Some(RETRY_AFTER)))
        }
        ControlError::Busy(_) => {
            let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(BUSY_RETRY_AFTER_S)));
            Status::with_error_details(Code::ResourceExhausted, message, details)
        }
        ControlError::Internal(_) => {
            tracing::error!(error = %message, "a gRPC call failed");
            Status::new(Code::Internal, message)
        }
    }
}

/// The status of a failed list: the use cases say `limit` and `after`, the messages `page_size` and `page_token`.
pub(super) fn list_status(error: ControlError) -> Status {
    let ControlError::Invalid(mut violations) = error else { return status(error) };
    for violation in &mut violations {
        match violation.field.as_str() {
            "limit" => violation.field = "page_size".into(),
            "after" => violation.field = "page_token".into(),
            _ => {}
        }
    }
    status(ControlError::Invalid(violations))
}

fn invalid(message: &str, violations: Vec<FieldViolation>) -> Status {
    let (total, mut bytes) = (violations.len(), 0);
    let mut details = ErrorDetails::new();
    for (listed, violation) in violations.into_iter().enumerate() {
        let (field, text) = (clip(&violation.field), clip(&violation.message));
        bytes += field.len() + text.len();
        if bytes > MAX_DETAIL_BYTES {
            let rest = format!("and {} more: mend these first", total - listed);
            details.add_bad_request_violation(field, rest);
            break;
        }
        details.add_bad_request_violation(field, text);
    }
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// Shortens a text that may quote a stranger's.
fn clip(text: &str) -> String {
    if text.len() <= MAX_TEXT_BYTES {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(MAX_TEXT_BYTES)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_code() {
        let text = || "text".to_owned();
        for (error, code) in [
            (ControlError::invalid("user_id", "is wrong"), Code::InvalidArgument),
            (ControlError::Rejected(Vec::new()), Code::InvalidArgument),
            (ControlError::NotFound(text()), Code::NotFound),
            (ControlError::Conflict(text()), Code::AlreadyExists),
            (ControlError::Raced(text()), Code::Aborted),
            (ControlError::Precondition(text()), Code::FailedPrecondition),
            (ControlError::CapReached(text()), Code::ResourceExhausted),
            (ControlError::Unavailable(text()), Code::Unavailable),
            (ControlError::Busy(text()), Code::ResourceExhausted),
            (ControlError::Internal(text()), Code::Internal),
        ] {
            assert_eq!(status(error).code(), code);
        }
        let retry = status(ControlError::Unavailable(text())).get_details_retry_info().unwrap();
        assert_eq!(retry.retry_delay, Some(RETRY_AFTER));
        let retry = status(ControlError::Busy(text())).get_details_retry_info().unwrap();
        assert_eq!(retry.retry_delay, Some(Duration::from_secs(BUSY_RETRY_AFTER_S)));
    }

    #[test]
    fn a_list_speaks_of_pages() {
        let fields = |status: Status| -> Vec<String> {
            status.get_details_bad_request().unwrap().field_violations.into_iter().map(|v| v.field).collect()
        };
        let error = || {
            let fields = ["limit", "after", "user_id"];
            ControlError::Invalid(fields.map(|field| FieldViolation::new(field, "is wrong")).to_vec())
        };
        assert_eq!(fields(status(error())), ["limit", "after", "user_id"]);
        assert_eq!(fields(list_status(error())), ["page_size", "page_token", "user_id"]);
        assert!(list_status(error()).message().starts_with("page_size: is wrong; page_token: is wrong"));
    }

    #[test]
    fn a_status_fits_into_a_header() {
        let violation = FieldViolation::new(format!("params.{}", "é".repeat(10_000)), "is wrong".repeat(10_000));
        let status = status(ControlError::Invalid(vec![violation; 1_000]));
        assert!(status.message().len() < 1_024);
        assert!((1_024..6_144).contains(&status.details().len()), "{}", status.details().len());
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(
            violations.last().unwrap().description,
            format!("and {} more: mend these first", 1_001 - violations.len())
        );
    }
}
