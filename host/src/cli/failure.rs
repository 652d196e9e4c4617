//! Why a command failed.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::table::plain;

/// Why a command failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// A refusal as a problem document (RFC 9457), the server's or of the same shape.
    Problem(Value),
    /// Anything else; the text says what to do.
    Local(String),
    /// The reader of the output has closed it, as `head` does when it has enough.
    ReaderGone,
}

impl Failure {
    /// Adds what to do on the command line to the server's refusal with a status.
    pub(super) fn advise(mut self, status: StatusCode, advice: &str) -> Self {
        if let Self::Problem(problem) = &mut self
            && problem["status"] == status.as_u16()
            && let Some(detail) = problem["detail"].as_str()
        {
            let advised = format!("{detail}; {advice}");
            problem["detail"] = advised.as_str().into();
            problem["error"] = advised.into();
        }
        self
    }

    /// For a program.
    pub(super) fn problem(&self) -> Value {
        match self {
            Self::Problem(problem) => problem.clone(),
            Self::Local(text) => json!({ "title": "the command failed", "detail": text, "error": text }),
            Self::ReaderGone => Value::Null,
        }
    }

    /// For people: a line, and one more for each violation.
    pub(super) fn text(&self) -> String {
        let problem = match self {
            Self::Problem(problem) => problem,
            Self::Local(text) => return format!("error: {text}"),
            Self::ReaderGone => return String::new(),
        };
        let member = |name: &str| problem[name].as_str().filter(|text| !text.is_empty());
        let violations = problem["violations"].as_array().map(Vec::as_slice).unwrap_or_default();
        // With violations, the detail is often a summary of them.
        let summary = if violations.is_empty() { member("detail").or(member("title")) } else { member("title") };
        let mut text = format!("error: {}", plain(summary.or(member("error")).unwrap_or("the server gives no reason")));
        for violation in violations {
            let part = |name: &str| violation[name].as_str().map(plain);
            text.push_str("\n  ");
            if let Some(field) = part("field") {
                text.push_str(&format!("{field}: "));
            } else if let Some(code) = part("code") {
                text.push_str(&format!("[{code}] "));
            }
            text.push_str(&part("message").unwrap_or_default());
        }
        text
    }
}
