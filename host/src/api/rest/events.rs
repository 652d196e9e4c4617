//! Firings as server-sent events. Those that are there at once are sent in one piece, and the text of each is written once
//! for all streams: a thousand of them cost a thousand writes, and little else.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::{Stream, StreamExt as _, stream};
use serde::Serialize;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::problem::Problem;
use crate::api::guarded::Guarded;
use crate::connections::StreamPlace;
use crate::control::{ControlError, Recorded};
use crate::wire::firing_json;

/// How often a comment is sent on a quiet stream, so that proxies do not take it for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The comment.
const COMMENT: &str = ":\n\n";

/// Events that are sent in one piece at most, some 13 KB.
const MAX_EVENTS_AT_ONCE: usize = 32;

/// The data of a stream's first event.
#[derive(Serialize)]
struct CursorBody<'a> {
    /// What to give as `after` for the firings of this stream.
    after: &'a str,
}

/// The response whose body is the stream: the cursor, firings, and comments while there are none, until `stop`. It holds its
/// place for as long.
pub(super) fn response(
    cursor: String,
    firings: impl Stream<Item = Result<Arc<Recorded>, ControlError>> + Send + 'static,
    place: StreamPlace,
    stop: CancellationToken,
) -> Response {
    let first = event("cursor", Some(&cursor), &json(&CursorBody { after: &cursor }));
    let pieces = firings.ready_chunks(MAX_EVENTS_AT_ONCE).map(|firings| firings.into_iter().map(text).collect());
    let pieces = stream::iter([first]).chain(commented(pieces));
    let pieces = pieces.take_until(stop.cancelled_owned()).map(|piece: String| Ok::<_, Infallible>(Bytes::from(piece)));
    let mut response = Body::new(Guarded::new(Body::from_stream(pieces), place)).into_response();
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    response.headers_mut().extend(headers.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}

/// The pieces, and a comment wherever there is none for [`KEEP_ALIVE`].
fn commented(pieces: impl Stream<Item = String> + Send + 'static) -> impl Stream<Item = String> + Send {
    stream::unfold(Box::pin(pieces), async |mut pieces| {
        let piece = timeout(KEEP_ALIVE, pieces.next()).await.unwrap_or_else(|_| Some(COMMENT.into()))?;
        Some((piece, pieces))
    })
}

fn text(firing: Result<Arc<Recorded>, ControlError>) -> String {
    match firing {
        Ok(recorded) => recorded
            .text(|firing| event("firing", Some(&firing.id.to_string()), &firing_json(firing.clone())))
            .to_owned(),
        Err(error) => event("problem", None, &json(&Problem::from(error).body())),
    }
}

/// An event. JSON is one line, as `data` must be.
fn event(name: &str, id: Option<&str>, json: &str) -> String {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    format!("event: {name}\ndata: {json}\n{id}\n")
}

fn json(body: &impl Serialize) -> String {
    serde_json::to_string(body).expect("texts and numbers are JSON")
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::time::{Instant, sleep};

    use super::*;

    #[test]
    fn an_event_is_as_the_standard_has_it() {
        assert_eq!(event("firing", Some("7"), "{}"), "event: firing\ndata: {}\nid: 7\n\n");
        assert_eq!(event("problem", None, "{}"), "event: problem\ndata: {}\n\n");
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_stream_has_comments_and_ends_with_its_pieces() {
        let pieces = stream::once(async {
            sleep(KEEP_ALIVE * 5 / 2).await;
            "piece".to_owned()
        });
        let begun = Instant::now();
        let all: Vec<String> = commented(pieces).collect().await;
        assert_eq!(all, [COMMENT, COMMENT, "piece"]);
        assert_eq!(begun.elapsed(), KEEP_ALIVE * 5 / 2);
    }

    #[tokio::test]
    async fn what_is_there_at_once_is_one_piece_and_an_error_is_the_last_event() {
        let (place, stop) = (crate::connections::Streams::new(1).open_one().unwrap(), CancellationToken::new());
        let error = || Err(ControlError::Unavailable("the store is away".into()));
        let response = response("start".into(), stream::iter([error(), error()]), place, stop);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        let mut pieces = response.into_body().into_data_stream();
        let mut next = || {
            let piece = pieces.next().now_or_never().expect("it is there")?;
            Some(String::from_utf8(piece.unwrap().to_vec()).unwrap())
        };
        assert_eq!(next().unwrap(), "event: cursor\ndata: {\"after\":\"start\"}\nid: start\n\n");
        assert_eq!(next().unwrap().matches("event: problem").count(), 2);
        assert_eq!(next(), None);
    }
}
