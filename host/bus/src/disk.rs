//! Room on the disk under the data folder: some is kept free, since databases that meet a full disk can write no more, not
//! even what would make room.

use std::path::{Path, PathBuf};

use futures_util::future::BoxFuture;
use tocsin_health::{Health, Probe, Problems};

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

/// Checks that a folder's file system has so many bytes free for this user. A file system that does not say passes: the
/// next write reports more.
pub fn check(folder: &Path, min_free_bytes: u64) -> Result<(), DiskFull> {
    let Some(free_bytes) = free_bytes(folder).filter(|free_bytes| *free_bytes < min_free_bytes) else { return Ok(()) };
    Err(DiskFull { folder: folder.to_owned(), free_mib: free_bytes >> 20, kept_mib: min_free_bytes.div_ceil(1 << 20) })
}

struct DiskProbe {
    folder: PathBuf,
    min_free_bytes: u64,
}

/// Registers the probe `disk` of a folder's file system.
pub fn register(health: &Health, folder: &Path, min_free_bytes: u64) {
    health.register("disk", DiskProbe { folder: folder.to_owned(), min_free_bytes });
}

impl Probe for DiskProbe {
    fn check(&self) -> BoxFuture<'_, Problems> {
        let full = check(&self.folder, self.min_free_bytes).err();
        let blocking = full.map(|full| full.to_string()).into_iter().collect();
        Box::pin(std::future::ready(Problems { blocking, tolerable: Vec::new() }))
    }
}

#[cfg(unix)]
fn free_bytes(folder: &Path) -> Option<u64> {
    let stats = rustix::fs::statvfs(folder).ok()?;
    Some(stats.f_bavail.saturating_mul(stats.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes(_: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_with_too_little_room_is_reported_with_both_figures() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(check(folder.path(), 1), Ok(()));
        assert_eq!(check(&folder.path().join("missing"), u64::MAX), Ok(()));
        let message = check(folder.path(), u64::MAX).unwrap_err().to_string();
        assert!(message.contains("17592186044416 MiB are kept free"), "{message}");
    }
}
