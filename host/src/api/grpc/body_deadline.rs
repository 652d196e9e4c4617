//! A request's body that must have come within a time: a client that sends it byte by byte, or stops half-way, would
//! otherwise hold its call for ever.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::Status;

pub(super) struct BodyDeadline<B> {
    body: B,
    deadline: Pin<Box<Sleep>>,
    within: Duration,
}

impl<B> BodyDeadline<B> {
    pub(super) fn new(body: B, within: Duration) -> Self {
        Self { body, deadline: Box::pin(sleep(within)), within }
    }
}

impl<B> Body for BodyDeadline<B>
where
    B: Body + Unpin,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    type Data = B::Data;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, Status>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| Status::from_error(Box::new(error)))));
        }
        if self.deadline.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        let late = format!("the request did not arrive within {} s", self.within.as_secs());
        Poll::Ready(Some(Err(Status::deadline_exceeded(late))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    /// A body that never comes.
    struct Silent;

    impl Body for Silent {
        type Data = hyper::body::Bytes;
        type Error = Status;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<hyper::body::Bytes>, Status>>> {
            Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_waited_for_only_so_long() {
        let mut body = BodyDeadline::new(Silent, Duration::from_secs(30));
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        let status = frame.expect("an error").expect_err("no frame");
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(status.message().contains("30 s"));
    }
}
