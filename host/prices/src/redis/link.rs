//! A connection to Redis for one purpose, made anew whenever it fails.
//!
//! A call that fails or takes too long gives its connection up: one that is stuck would hold up whatever comes after it.
//! What it had asked for may still be done, so only what does no harm when done twice is asked for.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, FromRedisValue, Pipeline, RedisError, ServerErrorKind};
use tokio::time::timeout;
use tracing::{info, warn};

use super::RedisAddress;
use crate::PricesError;

/// A connection for one purpose.
pub(super) struct Link {
    client: Client,
    server: String,
    /// How long a call may take, connecting included.
    call_timeout: Duration,
    /// What waits where it fails, for a sentence.
    consequence: &'static str,
    /// Sent once on each connection.
    greeting: Pipeline,
    connection: Mutex<Option<(u64, MultiplexedConnection)>>,
    /// Held while connecting: those who wait for it share what comes of it.
    connecting: tokio::sync::Mutex<()>,
    trouble: Mutex<Option<String>>,
}

impl Link {
    pub(super) fn new(
        address: &RedisAddress,
        call_timeout: Duration,
        consequence: &'static str,
        greeting: Pipeline,
    ) -> Result<Self, PricesError> {
        let server = address.to_string();
        let client = Client::open(address.connection_info())
            .map_err(|error| PricesError::Redis { server: server.clone(), reason: error.to_string() })?;
        let (connection, connecting, trouble) = Default::default();
        Ok(Self { client, server, call_timeout, consequence, greeting, connection, connecting, trouble })
    }

    /// Sends commands, and waits for their answers.
    pub(super) async fn call<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, PricesError> {
        let answer = timeout(self.call_timeout, self.attempts(commands)).await;
        let answer = match answer {
            Ok(answer) => answer.map_err(reason),
            Err(_) => {
                *lock(&self.connection) = None;
                Err(format!("no answer within {} ms", self.call_timeout.as_millis()))
            }
        };
        answer.map_err(|reason| self.failed(reason))
    }

    pub(super) fn failed(&self, reason: String) -> PricesError {
        PricesError::Redis { server: self.server.clone(), reason }
    }

    /// Remembers how a use of this link ended. Logs when trouble begins and ends, and nothing in between.
    pub(super) fn note<T>(&self, ended: &Result<T, PricesError>) {
        let mut trouble = lock(&self.trouble);
        let consequence = self.consequence;
        match (ended, trouble.is_some()) {
            (Err(error), false) => warn!(%error, "{consequence} for now"),
            (Ok(_), true) => info!(server = self.server, after = consequence, "Redis answers again"),
            _ => {}
        }
        *trouble = ended.as_ref().err().map(|error| format!("{consequence}: {error}"));
    }

    /// What is wrong now, for people.
    pub(super) fn trouble(&self) -> Option<String> {
        lock(&self.trouble).clone()
    }

    async fn attempts<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, RedisError> {
        let (number, was_open, mut connection) = self.connected().await?;
        let answer = commands.query_async(&mut connection).await;
        let Err(error) = answer else { return answer };
        self.forget(number);
        // One that stood unused may have been closed long ago, or its server have forgotten the greeting: that is no trouble.
        let is_outdated = error.is_connection_dropped() || error.kind() == ServerErrorKind::NoScript.into();
        if !(was_open && is_outdated) {
            return Err(error);
        }
        let (number, _, mut connection) = self.connected().await?;
        let answer = commands.query_async(&mut connection).await;
        if answer.is_err() {
            self.forget(number);
        }
        answer
    }

    /// The connection, its number, and whether it was open already.
    async fn connected(&self) -> Result<(u64, bool, MultiplexedConnection), RedisError> {
        let open = || lock(&self.connection).clone().map(|(number, connection)| (number, true, connection));
        if let Some(open) = open() {
            return Ok(open);
        }
        let _connecting = self.connecting.lock().await;
        if let Some(open) = open() {
            return Ok(open);
        }
        // The time of the whole call is limited: the library's own limits would only be others.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        if !self.greeting.is_empty() {
            self.greeting.exec_async(&mut connection).await?;
        }
        let number = rand::random();
        *lock(&self.connection) = Some((number, connection.clone()));
        Ok((number, false, connection))
    }

    /// Gives a connection up, if it is still the one.
    fn forget(&self, number: u64) {
        lock(&self.connection).take_if(|(current, _)| *current == number);
    }
}

/// What went wrong; where many commands failed, with the first of them.
fn reason(error: RedisError) -> String {
    let text = error.to_string();
    let failed = error.into_server_errors();
    failed.and_then(|failed| failed.first().map(|(_, error)| error.to_string())).unwrap_or(text)
}

/// Nothing that can panic runs under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
