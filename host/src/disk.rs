//! Room on the disk under the data folder: some is kept free, since databases that meet a full disk can write no more, not
//! even what would make room.

use std::path::{Path, PathBuf};

/// A file system with less room than is kept free.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the disk under {} has {free_mib} MiB free, and {kept_mib} MiB are kept free: make room and it goes on by itself, or \
     set another --min-free-mib", folder.display()
)]
pub struct DiskFull {
    folder: PathBuf,
    free_mib: u64,
    kept_mib: u64,
}

/// Checks that a folder's file system has so many bytes free for this user. One that cannot tell passes: whoever writes
/// there next hears more of it.
pub fn check(folder: &Path, min_free_bytes: u64) -> Result<(), DiskFull> {
    let Some(free_bytes) = free_bytes(folder).filter(|free_bytes| *free_bytes < min_free_bytes) else { return Ok(()) };
    Err(DiskFull { folder: folder.to_owned(), free_mib: free_bytes >> 20, kept_mib: min_free_bytes.div_ceil(1 << 20) })
}

#[cfg(unix)]
fn free_bytes(folder: &Path) -> Option<u64> {
    let told = rustix::fs::statvfs(folder).ok()?;
    Some(told.f_bavail.saturating_mul(told.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes(_: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_with_too_little_room_is_told_with_both_figures() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(check(folder.path(), 1), Ok(()));
        assert_eq!(check(&folder.path().join("missing"), u64::MAX), Ok(()));
        let told = check(folder.path(), u64::MAX).unwrap_err().to_string();
        assert!(told.contains("17592186044416 MiB are kept free"), "{told}");
    }
}
