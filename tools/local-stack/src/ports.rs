//! Free ports for a stack.
//!
//! They are below the range of ephemeral ports. A port of that range can be taken by any client while its server is down,
//! even by a client of that very server, which then connects to itself.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context as _, Result};

use crate::random;

/// The lowest port to choose: well-known ports are below.
const FIRST_PORT: u16 = 15_000;

/// The lowest ephemeral port, where the system does not report another.
const FIRST_EPHEMERAL_PORT: u16 = 32_768;

/// The fewest ports to choose from, for machines with a low ephemeral range.
const MIN_CHOICE: u16 = 1_000;

/// Chooses free ports, starting at random so that two stacks started at once rarely choose the same.
pub(crate) fn choose(count: usize) -> Result<Vec<u16>> {
    let end = first_ephemeral_port().clamp(FIRST_PORT + MIN_CHOICE, FIRST_EPHEMERAL_PORT);
    let choice = u64::from(end - FIRST_PORT);
    let start = random()? as u64 % choice;
    // The listeners stay open until all ports are chosen, so that no port is chosen twice.
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

/// Returns whether no program listens on any of the ports.
pub(crate) fn are_free(ports: &[u16]) -> bool {
    ports.iter().all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
}

fn first_ephemeral_port() -> u16 {
    let read = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").context("no such setting");
    let first = read.ok().and_then(|range| range.split_whitespace().next()?.parse().ok());
    first.unwrap_or(FIRST_EPHEMERAL_PORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_ports_differ_and_are_free_until_taken() {
        // A process that another test has just forked holds these listeners, too, until it executes its program. Then
        // other ports are chosen.
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
