//! The newest numbers that this process knows of: its watches show them.

use tokio::sync::watch;

/// The newest revision and firing, watched by whoever waits for more.
pub(super) struct Newest {
    pub(super) revision: watch::Sender<u64>,
    pub(super) firing: watch::Sender<u64>,
}

/// What a transaction has made, to be announced once it is committed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Announcement {
    pub(super) revision: Option<i64>,
    pub(super) firing: Option<i64>,
}

impl Announcement {
    pub(super) fn revision(revision: i64) -> Self {
        Self { revision: Some(revision), firing: None }
    }
}

impl Newest {
    pub(super) fn new(revision: i64, firing: i64) -> Self {
        Self { revision: watch::Sender::new(revision as u64), firing: watch::Sender::new(firing as u64) }
    }

    pub(super) fn announce(&self, announcement: Announcement) {
        raise(&self.revision, announcement.revision);
        raise(&self.firing, announcement.firing);
    }
}

/// Two commits may be announced in either order: the newest wins.
fn raise(watched: &watch::Sender<u64>, number: Option<i64>) {
    let Some(number) = number.map(|number| number as u64) else { return };
    watched.send_if_modified(|newest| {
        let newer = number > *newest;
        *newest = number.max(*newest);
        newer
    });
}
