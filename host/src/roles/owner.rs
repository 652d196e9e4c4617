//! The name of this process as a holder of locks and leases.

use std::process;

/// Returns a name that no other process has and that people can trace: machine, process id, and a random number, since ids
/// are reused.
pub(super) fn name() -> String {
    let machine = rustix::system::uname();
    format!("{}/{}/{:08x}", machine.nodename().to_string_lossy(), process::id(), rand::random::<u32>())
}
