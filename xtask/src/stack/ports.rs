//! Ports for a stack, which nobody else on the machine uses.
//!
//! They are below the range from which the system gives ports to clients. A port of that range can be taken by any client
//! while its server is down, even by one that tries to reach that server and so connects to itself.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context as _, Result};

use super::random;

/// The first port that is tried: below are well-known ones.
const FIRST_PORT: u16 = 15_000;

/// Where the range of clients begins, if the system does not say otherwise.
const CLIENTS_FIRST_PORT: u16 = 32_768;

/// The fewest ports to choose from, for machines whose clients begin low.
const MIN_CHOICE: u16 = 1_000;

/// Chooses free ports, at random so that two stacks that come up at once hardly choose the same.
pub(super) fn choose(count: usize) -> Result<Vec<u16>> {
    let end = clients_first_port().clamp(FIRST_PORT + MIN_CHOICE, CLIENTS_FIRST_PORT);
    let choice = u64::from(end - FIRST_PORT);
    let start = random()? as u64 % choice;
    // The listeners live until all ports are chosen, so that none is chosen twice.
    let mut listeners = Vec::new();
    for step in 0..choice {
        let port = FIRST_PORT + ((start + step) % choice) as u16;
        listeners.extend(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(|listener| (port, listener)));
        if listeners.len() == count {
            return Ok(listeners.into_iter().map(|(port, _)| port).collect());
        }
    }
    anyhow::bail!("no {count} free ports between {FIRST_PORT} and {end}")
}

/// Whether nobody listens on any of these.
pub(super) fn are_free(ports: &[u16]) -> bool {
    ports.iter().all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
}

fn clients_first_port() -> u16 {
    let read = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").context("no such setting");
    let first = read.ok().and_then(|range| range.split_whitespace().next()?.parse().ok());
    first.unwrap_or(CLIENTS_FIRST_PORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_ports_differ_and_are_free_until_taken() {
        // A process that another test starts has our listeners, too, until it has become its program: then they are chosen
        // again.
        let chosen = (0..10).map(|_| choose(8).unwrap()).find(|ports| are_free(ports));
        let mut ports = chosen.expect("ports that stay free");
        assert!(ports.iter().all(|port| *port >= FIRST_PORT), "{ports:?}");
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, ports[3])).unwrap();
        assert!(!are_free(&ports));
        drop(taken);
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 8);
    }
}
