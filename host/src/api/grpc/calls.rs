//! What holds for every call before its service has it: places, and times.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{HeaderMap, Request, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::Service as _;

use super::body_deadline::BodyDeadline;
use crate::api::guarded::Guarded;
use crate::connections::{StreamPlace, Streams};

/// Calls under way at a time, of all connections, beside streams: a call takes milliseconds, or as long as its client takes
/// to send it, and may be a megabyte large.
const MAX_CALLS: usize = 256;

/// Beside them, modules that are received at a time, each of several megabytes.
const MAX_UPLOADS: usize = 16;

/// How long a call waits for its turn before it is refused. What its client sends meanwhile is not taken.
const TURN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a request may take to arrive; a module of a megabyte does over any network.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The header with which a client says how long it waits (gRPC over HTTP/2, "Requests").
const TIMEOUT_HEADER: &str = "grpc-timeout";

/// The call that takes a module.
const UPLOAD: &str = "/tocsin.v1.RuleService/UploadRule";

/// Calls that last for as long as their client likes.
const STREAMS: [&str; 4] = [
    "/tocsin.v1.AlertService/WatchFirings",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// The services, and how many calls they have at a time. Cloning is cheap.
#[derive(Clone)]
pub(super) struct Calls {
    routes: Routes,
    streams: Streams,
    room: Arc<Semaphore>,
    room_for_uploads: Arc<Semaphore>,
}

/// What a call holds until its answer has been sent.
enum Held {
    Stream { _place: StreamPlace },
    Call { _permit: OwnedSemaphorePermit },
    Nothing,
}

/// An answer that holds the place of its call.
pub(super) type ResponseBody = Guarded<Body, HeldPlace>;

/// See [`Held`].
pub(super) struct HeldPlace(#[expect(dead_code, reason = "held for its drop")] Held);

impl Calls {
    pub(super) fn new(routes: Routes, streams: Streams) -> Self {
        let [room, room_for_uploads] = [MAX_CALLS, MAX_UPLOADS].map(|max| Arc::new(Semaphore::new(max)));
        Self { routes: routes.prepare(), streams, room, room_for_uploads }
    }

    /// Answers a call, or refuses it.
    pub(super) async fn answer(mut self, request: Request<Incoming>) -> Response<ResponseBody> {
        let path = request.uri().path();
        let is_stream = STREAMS.contains(&path);
        let held = match self.place(path).await {
            Ok(held) => held,
            Err(refusal) => return refused(refusal),
        };
        let waits = client_timeout(request.headers());
        let request = request.map(|body| match is_stream {
            true => Body::new(body),
            false => Body::new(BodyDeadline::new(body, BODY_TIMEOUT)),
        });
        let answering = self.routes.call(request);
        let answer = match waits {
            Some(waits) => timeout(waits, answering).await,
            None => Ok(answering.await),
        };
        match answer {
            Ok(Ok(response)) => response.map(|body| Guarded::new(body, HeldPlace(held))),
            Err(_) => refused(Status::deadline_exceeded("the call took longer than its grpc-timeout")),
        }
    }

    async fn place(&self, path: &str) -> Result<Held, Status> {
        if STREAMS.contains(&path) {
            let place = self.streams.open_one();
            return place
                .map(|place| Held::Stream { _place: place })
                .ok_or_else(|| Status::resource_exhausted(self.streams.refusal()));
        }
        let (room, max, what) = match path {
            UPLOAD => (&self.room_for_uploads, MAX_UPLOADS, "modules are received"),
            _ => (&self.room, MAX_CALLS, "calls are under way"),
        };
        match timeout(TURN_TIMEOUT, room.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Held::Call { _permit: permit }),
            _ => Err(Status::resource_exhausted(format!("{max} {what} at once, as many as may be: try again"))),
        }
    }
}

fn refused(status: Status) -> Response<ResponseBody> {
    status.into_http::<Body>().map(|body| Guarded::new(body, HeldPlace(Held::Nothing)))
}

/// How long a client says that it waits: up to eight digits and a unit. What is something else is passed over.
fn client_timeout(headers: &HeaderMap) -> Option<Duration> {
    const MAX_DIGITS: usize = 8;
    let text = headers.get(TIMEOUT_HEADER)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > MAX_DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3_600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Option<Duration>) {
        let headers = [(TIMEOUT_HEADER.parse().unwrap(), text.parse().unwrap())].into_iter().collect();
        assert_eq!(client_timeout(&headers), expect, "{text:?}");
    }

    #[test]
    fn the_time_that_a_client_waits_is_read() {
        check("3H", Some(Duration::from_secs(10_800)));
        check("2M", Some(Duration::from_secs(120)));
        check("42S", Some(Duration::from_secs(42)));
        check("13m", Some(Duration::from_millis(13)));
        check("2u", Some(Duration::from_micros(2)));
        check("82n", Some(Duration::from_nanos(82)));
        check("99999999H", Some(Duration::from_secs(99_999_999 * 3_600)));
        for bad in ["", "S", "1", "-1S", "+1S", "1s", "123456789S", "1 S", "1.5S"] {
            check(bad, None);
        }
        assert_eq!(client_timeout(&HeaderMap::new()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_of_each_kind_are_so_many_and_those_of_another_go_on() {
        let calls = Calls::new(Routes::default(), Streams::new(1));
        for (path, max) in [(UPLOAD, MAX_UPLOADS), ("/tocsin.v1.AlertService/GetAlert", MAX_CALLS), (STREAMS[0], 1)] {
            let mut held = Vec::new();
            for _ in 0..max {
                held.push(calls.place(path).await.unwrap_or_else(|refused| panic!("{path}: {refused}")));
            }
            let refused = calls.place(path).await.err().unwrap_or_else(|| panic!("{path}: one more than {max}"));
            assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{path}");
            held.pop();
            held.push(calls.place(path).await.unwrap_or_else(|refused| panic!("{path}: {refused}")));
        }
    }
}
