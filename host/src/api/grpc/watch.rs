//! Watches that end when their client stops reading them. HTTP/2 lets a client hold back one stream while its connection
//! is well, so no timer of the connection sees it.

use std::time::Duration;

use futures_util::{FutureExt as _, Stream, StreamExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// The initial metadata that carries the cursor at which a watch begins.
pub(super) const CURSOR_KEY: &str = "tocsin-after";

/// Messages that wait for a client to read them, some 10 KB; all others wait in the store.
const MAX_WAITING: usize = 16;

/// How long none of the waiting messages may be taken.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// The messages, up to the point where the client has taken none for [`STALL_TIMEOUT`]; then a status that says so.
pub(super) fn unless_stalled<T: Send + 'static>(
    messages: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> impl Stream<Item = Result<T, Status>> + Send {
    let (sender, receiver) = mpsc::channel(MAX_WAITING);
    let (stalled, has_stalled) = oneshot::channel();
    tokio::spawn(async move {
        let mut messages = std::pin::pin!(messages);
        loop {
            let message = tokio::select! {
                message = messages.next() => message,
                () = sender.closed() => return,
            };
            let Some(message) = message else { return };
            if let Err(mpsc::error::SendTimeoutError::Timeout(_)) = sender.send_timeout(message, STALL_TIMEOUT).await {
                // Fails if the client left just now.
                let _ = stalled.send(Err(Status::aborted(
                    "the watch was not read in time: watch again with `after` = the id of the last firing seen",
                )));
                return;
            }
        }
    });
    let end = has_stalled.into_stream().filter_map(async |status| status.ok());
    ReceiverStream::new(receiver).chain(end)
}

#[cfg(test)]
mod tests {
    use futures_util::{TryStreamExt as _, stream};
    use tokio::time::sleep;
    use tonic::Code;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_is_not_read_ends_with_a_reason() {
        let (gone, is_gone) = oneshot::channel::<()>();
        let messages = stream::iter(0..).map(move |number| {
            let _held = &gone;
            Ok(number)
        });
        let mut watch = std::pin::pin!(unless_stalled(messages));
        let mut read = Vec::new();
        for _ in 0..3 {
            sleep(STALL_TIMEOUT / 2).await;
            read.push(watch.next().await.unwrap().unwrap());
        }
        is_gone.await.expect_err("the watch drops its source although its client reads no further");
        let end = loop {
            match watch.next().await.unwrap() {
                Ok(number) => read.push(number),
                Err(status) => break status,
            }
        };
        assert_eq!(end.code(), Code::Aborted);
        assert_eq!(read, (0..3 + MAX_WAITING).collect::<Vec<_>>(), "what waited is not lost");
        assert!(watch.next().await.is_none());
    }

    #[tokio::test]
    async fn a_watch_ends_with_its_messages() {
        let messages = [Ok(1), Ok(2)];
        let read: Vec<_> = unless_stalled(stream::iter(messages)).try_collect().await.unwrap();
        assert_eq!(read, [1, 2]);
    }

    #[tokio::test]
    async fn a_client_that_leaves_takes_its_watch_along() {
        let (gone, is_gone) = oneshot::channel::<()>();
        let messages = stream::pending::<Result<(), Status>>().inspect(move |_| {
            let _held = &gone;
        });
        drop(unless_stalled(messages));
        is_gone.await.expect_err("the watch has ended");
    }
}
