//! A network between an evaluator and PostgreSQL, on which notifications can be held back: a connection that listens for
//! them gets nothing for a while, though the evaluator may send on it, and all other connections pass.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// What a client sends on a connection that notifications arrive on.
const LISTENS: &[u8] = b"LISTEN";

const BUFFER_BYTES: usize = 16 * 1024;

const POLL: Duration = Duration::from_millis(10);

/// A proxy, which ends with this process.
pub(crate) struct Proxy {
    /// The database, as a process behind the proxy has it.
    pub(crate) url: String,
    held_until: Arc<Mutex<Instant>>,
}

impl Proxy {
    /// Listens for connections to the server of a database.
    pub(crate) fn start(database_url: &str) -> anyhow::Result<Self> {
        let (scheme, rest) = database_url.split_once("://").context("a database's URL has a scheme")?;
        let (authority, database) = rest.split_once('/').context("a database's URL ends with its name")?;
        let (user, server) = authority.rsplit_once('@').context("a database's URL has a user")?;
        let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen before PostgreSQL")?;
        let url = format!("{scheme}://{user}@{}/{database}", listener.local_addr()?);
        let (server, held_until) = (server.to_owned(), Arc::new(Mutex::new(Instant::now())));
        let held = held_until.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // PostgreSQL may be away: then the connection ends.
                let Ok(server) = TcpStream::connect(&server) else { continue };
                // It may have ended already.
                let _ = serve(&client, &server, &held);
            }
        });
        Ok(Self { url, held_until })
    }

    /// Holds notifications back for a while.
    pub(crate) fn hold(&self, duration: Duration) {
        *self.held_until.lock().expect("threads of a proxy do not panic") = Instant::now() + duration;
    }
}

/// Passes on both directions of a connection, on a thread each.
fn serve(client: &TcpStream, server: &TcpStream, held_until: &Arc<Mutex<Instant>>) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let listens = Arc::new(AtomicBool::new(false));
    let (from, to, sends) = (client.try_clone()?, server.try_clone()?, listens.clone());
    std::thread::spawn(move || {
        pass(&from, &to, |bytes| {
            let begins = bytes.windows(LISTENS.len()).any(|part| part == LISTENS);
            sends.fetch_or(begins, Relaxed);
        })
    });
    let (from, to, held_until) = (server.try_clone()?, client.try_clone()?, held_until.clone());
    std::thread::spawn(move || {
        pass(&from, &to, |_| {
            let is_held = || *held_until.lock().expect("threads of a proxy do not panic") > Instant::now();
            while listens.load(Relaxed) && is_held() {
                std::thread::sleep(POLL);
            }
        })
    });
    Ok(())
}

/// Passes on what comes, until one side ends. `before` sees it first.
fn pass(mut from: &TcpStream, mut to: &TcpStream, before: impl Fn(&[u8])) {
    let mut bytes = vec![0; BUFFER_BYTES];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        before(&bytes[..count]);
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    // Either may be gone.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
