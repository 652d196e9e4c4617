//! Installs Debian packages, where there is `apt-get`.

use std::process::{Command, Stdio};

/// Tries to install packages. Failures are not reported: the caller looks for the program it needs afterwards, and its
/// error says what to install.
pub fn install(packages: &[&str]) {
    if packages.is_empty() {
        return;
    }
    // Concurrent runs wait for dpkg's lock instead of failing.
    let wait = ["-o", "DPkg::Lock::Timeout=300"];
    let install = [&["install", "--yes", "--quiet"], packages].concat();
    for arguments in [&["update", "--quiet"][..], &install] {
        let mut apt_get = Command::new("apt-get");
        apt_get.args(wait).args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        // Standard output is reserved for the command's own result.
        let _ = apt_get.stdin(Stdio::null()).stdout(std::io::stderr()).status();
    }
}
