//! Debian's packages, where there is `apt-get`.

use std::process::{Command, Stdio};

/// Installs packages. It promises nothing: what needs one of them looks for it, and says what to install.
pub(crate) fn install(packages: &[&str]) {
    if packages.is_empty() {
        return;
    }
    // Two runs of these tasks wait for each other and do not fail.
    let wait = ["-o", "DPkg::Lock::Timeout=300"];
    let install = [&["install", "--yes", "--quiet"], packages].concat();
    for arguments in [&["update", "--quiet"][..], &install] {
        let mut apt_get = Command::new("apt-get");
        apt_get.args(wait).args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        // Standard output is for what a task answers.
        let _ = apt_get.stdin(Stdio::null()).stdout(std::io::stderr()).status();
    }
}
