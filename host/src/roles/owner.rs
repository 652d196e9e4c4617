//! What this process is called where several hold locks and leases.

use std::process;

/// A name that no other process has, and from which people see which one it is: machine, process id, and a number, since
/// ids are used again.
pub(super) fn name() -> String {
    let machine = rustix::system::uname();
    format!("{}/{}/{:08x}", machine.nodename().to_string_lossy(), process::id(), rand::random::<u32>())
}
