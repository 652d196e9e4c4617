//! When playback may move.
//!
//! Closed until enough symbols are subscribed and subscribing has settled, and again whenever no client is subscribed: a
//! client subscribes symbol by symbol, and must not miss the last one's trades while it is at the first. Closed also
//! when the server drops a client, until as many subscriptions have been made as were dropped.

use std::time::Duration;

use tokio::time::Instant;

/// Subscribing has settled when none has come for this long: some round trips of a loopback or a local network.
pub(super) const SETTLE: Duration = Duration::from_millis(300);

/// A dropped client that has not come back by then is not waited for while others are: its backoff may be half a minute.
pub(super) const RETURN_WAIT: Duration = Duration::from_secs(60);

/// Whether playback may move, and what it waits for.
#[derive(Debug)]
pub(super) struct Gate {
    start_after: usize,
    state: State,
    last_subscription: Option<Instant>,
}

#[derive(Debug)]
enum State {
    Open,
    /// Waits for `start_after` symbols.
    Start,
    /// Waits for the subscriptions of dropped clients.
    Return {
        owed: usize,
        since: Instant,
    },
}

/// What [`Gate::check`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Passage {
    /// Playback may move.
    Open,
    /// It may not; check again when something changes.
    Closed,
    /// It may not; check again when something changes, or at this time.
    ClosedUntil(Instant),
}

impl Gate {
    pub(super) fn new(start_after: usize) -> Self {
        Self { start_after: start_after.max(1), state: State::Start, last_subscription: None }
    }

    /// A client has subscribed to a symbol.
    pub(super) fn subscribed(&mut self, now: Instant) {
        self.last_subscription = Some(now);
        if let State::Return { owed, .. } = &mut self.state {
            *owed = owed.saturating_sub(1);
        }
    }

    /// The server has dropped a client that had so many subscriptions.
    pub(super) fn dropped(&mut self, subscriptions: usize, now: Instant) {
        let owed_before = if let State::Return { owed, .. } = self.state { owed } else { 0 };
        self.state = State::Return { owed: owed_before + subscriptions, since: now };
        self.last_subscription = None;
    }

    /// Returns whether playback may move, given how many distinct symbols are subscribed.
    pub(super) fn check(&mut self, symbols: usize, now: Instant) -> Passage {
        if symbols == 0 {
            if matches!(self.state, State::Open) {
                self.state = State::Start;
            }
            return Passage::Closed;
        }
        let settled = self.last_subscription.map(|last| last + SETTLE);
        let opens_at = match self.state {
            State::Open | State::Return { owed: 0, .. } => Some(now),
            State::Start if symbols >= self.start_after => settled,
            State::Start => None,
            // A client that came back with fewer symbols than before has finished when it settles.
            State::Return { since, .. } => Some(settled.unwrap_or(since + RETURN_WAIT)),
        };
        match opens_at {
            Some(at) if at <= now => {
                self.state = State::Open;
                Passage::Open
            }
            Some(at) => Passage::ClosedUntil(at),
            None => Passage::Closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn playback_begins_when_enough_symbols_have_settled() {
        let (mut gate, now) = (Gate::new(2), Instant::now());
        assert_eq!(gate.check(0, now), Passage::Closed);
        gate.subscribed(now);
        assert_eq!(gate.check(1, now + SETTLE * 2), Passage::Closed);
        gate.subscribed(now + SETTLE * 2);
        assert_eq!(gate.check(2, now + SETTLE * 2), Passage::ClosedUntil(now + SETTLE * 3));
        gate.subscribed(now + SETTLE * 2 + MS);
        assert_eq!(gate.check(3, now + SETTLE * 3), Passage::ClosedUntil(now + SETTLE * 3 + MS));
        assert_eq!(gate.check(3, now + SETTLE * 3 + MS), Passage::Open);
        gate.subscribed(now + SETTLE * 4);
        assert_eq!(gate.check(4, now + SETTLE * 4), Passage::Open, "once open, a new subscription does not close it");
    }

    #[test]
    fn playback_begins_anew_when_no_client_is_left() {
        let (mut gate, now) = (Gate::new(1), Instant::now());
        gate.subscribed(now);
        assert_eq!(gate.check(1, now + SETTLE), Passage::Open);
        assert_eq!(gate.check(0, now + SETTLE), Passage::Closed);
        gate.subscribed(now + SETTLE * 9);
        assert_eq!(gate.check(1, now + SETTLE * 9), Passage::ClosedUntil(now + SETTLE * 10));
    }

    #[test]
    fn a_dropped_client_is_waited_for() {
        let (mut gate, now) = (Gate::new(1), Instant::now());
        gate.subscribed(now);
        assert_eq!(gate.check(2, now + SETTLE), Passage::Open);
        let dropped = now + SETTLE * 2;
        gate.dropped(2, dropped);
        assert_eq!(gate.check(0, dropped), Passage::Closed);
        gate.subscribed(dropped + MS);
        assert_eq!(gate.check(1, dropped + MS), Passage::ClosedUntil(dropped + MS + SETTLE));
        gate.subscribed(dropped + MS * 2);
        assert_eq!(gate.check(2, dropped + MS * 2), Passage::Open, "as many as were dropped: at once");
    }

    #[test]
    fn others_wait_for_a_dropped_client_but_not_forever() {
        let (mut gate, now) = (Gate::new(1), Instant::now());
        gate.subscribed(now);
        assert_eq!(gate.check(1, now + SETTLE), Passage::Open);
        gate.dropped(1, now + SETTLE);
        assert_eq!(gate.check(1, now + SETTLE * 2), Passage::ClosedUntil(now + SETTLE + RETURN_WAIT));
        assert_eq!(gate.check(1, now + SETTLE + RETURN_WAIT), Passage::Open);
    }

    #[test]
    fn a_client_that_comes_back_with_fewer_symbols_settles() {
        let (mut gate, now) = (Gate::new(1), Instant::now());
        gate.dropped(3, now);
        gate.subscribed(now + MS);
        assert_eq!(gate.check(1, now + MS), Passage::ClosedUntil(now + MS + SETTLE));
        assert_eq!(gate.check(1, now + MS + SETTLE), Passage::Open);
    }
}
