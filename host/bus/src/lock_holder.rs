//! Finds the process that holds a file's lock, for error messages.

use std::fmt;
use std::fs::File;

/// A process that holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LockHolder {
    process: u32,
    /// The name of its program, and its user.
    about: Option<(String, u32)>,
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.process)?;
        match &self.about {
            Some((program, user)) => write!(f, " ({program}, of user {user})"),
            None => Ok(()),
        }
    }
}

/// Finds the process that holds a lock on a file. None where the system does not say, and where the holder is not to be
/// seen, as in another container.
#[cfg(target_os = "linux")]
pub(crate) fn holder(file: &File) -> Option<LockHolder> {
    use std::os::unix::fs::MetadataExt as _;

    let inode = file.metadata().ok()?.ino();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let process = locks.lines().find_map(|line| process_of(line, inode))?;
    let folder = std::path::PathBuf::from(format!("/proc/{process}"));
    let program = std::fs::read_to_string(folder.join("comm")).ok().map(|name| name.trim().to_owned());
    let user = folder.metadata().ok().map(|metadata| metadata.uid());
    Some(LockHolder { process, about: program.zip(user) })
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn holder(_file: &File) -> Option<LockHolder> {
    None
}

/// The process in a line of `/proc/locks`, if the line is about a lock that is held on this inode:
/// `1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF`. Processes that wait have an arrow behind the number. The device is not
/// compared: file systems that lie upon others show another one here than to `stat`.
fn process_of(line: &str, inode: u64) -> Option<u32> {
    let mut words = line.split_whitespace().skip(1);
    words.next().filter(|kind| *kind == "FLOCK")?;
    let process = words.nth(2)?.parse().ok().filter(|process| *process > 0)?;
    let locked = words.next()?.rsplit(':').next()?;
    (locked.parse() == Ok(inode)).then_some(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_about_one_inode() {
        for (line, expect) in [
            ("1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF", Some(1234)),
            ("12: FLOCK  ADVISORY  READ 7 00:2e:5678 0 EOF", Some(7)),
            ("1: FLOCK  ADVISORY  WRITE 1234 08:01:56789 0 EOF", None),
            ("1: -> FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF", None),
            ("1: POSIX  ADVISORY  WRITE 1234 08:01:5678 0 EOF", None),
            ("1: FLOCK  ADVISORY  WRITE -1 08:01:5678 0 EOF", None),
            ("", None),
        ] {
            assert_eq!(process_of(line, 5678), expect, "{line}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_found_as_a_holder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let locked = File::create(&path).unwrap();
        assert_eq!(holder(&locked), None);
        locked.lock().unwrap();
        let text = holder(&File::open(&path).unwrap()).unwrap().to_string();
        assert!(text.starts_with(&format!("process {} (", std::process::id())), "{text}");
    }
}
