//! Answers that are known by the digest of their bytes: a client that has them already gets 304 in place of the bytes.

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use headers::{ETag, HeaderMapExt as _, IfNoneMatch};
use tocsin_engine::domain::Digest;

use super::problem::Problem;

/// Answers with `body` and the digest as its ETag; with 304 in its place if `If-None-Match` names that tag.
pub(super) async fn answer<B: IntoResponse>(
    headers: &HeaderMap,
    digest: Digest,
    body: impl Future<Output = Result<B, Problem>>,
) -> Result<Response, Problem> {
    let text = format!("\"{digest}\"");
    let etag: ETag = text.parse().expect("a digest in quotes is an entity tag");
    let known = headers.typed_get::<IfNoneMatch>().is_some_and(|known| !known.precondition_passes(&etag));
    let answer = if known { StatusCode::NOT_MODIFIED.into_response() } else { body.await?.into_response() };
    Ok(([(header::ETAG, text)], answer).into_response())
}
