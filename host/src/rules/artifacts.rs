//! Compiled modules on disk, so that a restart compiles nothing.
//!
//! An artifact is machine code that will run in this process: whoever can write to the folder could make the server run
//! anything. So each file carries a MAC under a key of this data folder, and what fails it is not used. Folder, files and
//! key are its owner's alone. Whoever can read the key can forge artifacts, and could as well have replaced the program.
//!
//! Losing a file, or all, or the key, costs the time to compile again. So does every new version of the program: an
//! artifact carries the fingerprint of what it was made by.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ring::hmac;
use ring::rand::SystemRandom;
use tocsin_engine::domain::Digest;
use tracing::{debug, warn};

use crate::rules::compiler::MAX_ARTIFACT_BYTES;

/// The folder of artifacts in the data folder.
const FOLDER: &str = "compiled";

/// The file of the key in the data folder.
const KEY_FILE: &str = "compiled.key";

/// Bytes of the key, of a MAC, and of a fingerprint.
const HASH_BYTES: usize = 32;

/// What a file begins with: its format.
const MAGIC: &[u8; 8] = b"tocsin-1";

/// What comes before the machine code, in bytes: format, fingerprint, MAC.
const HEAD_BYTES: usize = MAGIC.len() + 2 * HASH_BYTES;

/// The most that all artifacts take, in bytes: some thousand rules. The least recently used go first.
pub const MAX_CACHE_BYTES: u64 = 256 * 1024 * 1024;

/// The artifacts of one data folder. It is used by one process at a time: the database of the folder sees to that.
#[derive(Debug)]
pub struct ArtifactCache {
    folder: PathBuf,
    key: hmac::Key,
    max_bytes: u64,
}

/// What a file is worth.
enum Content {
    Good(Vec<u8>),
    /// Another version of the program made it.
    Outdated,
    /// It is not what this server wrote.
    Forged,
}

impl ArtifactCache {
    /// Opens the cache of a data folder, and makes what is missing.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        Self::with_bound(data_dir, MAX_CACHE_BYTES)
    }

    fn with_bound(data_dir: &Path, max_bytes: u64) -> io::Result<Self> {
        let folder = data_dir.join(FOLDER);
        fs::create_dir_all(&folder)?;
        private::close(&folder, 0o700)?;
        let (key, is_new) = key(data_dir)?;
        let cache = Self { folder, key: hmac::Key::new(hmac::HMAC_SHA256, &key), max_bytes };
        cache.sweep(is_new);
        Ok(cache)
    }

    /// The artifact of a module, if it is there and is what this server once wrote for this fingerprint.
    pub fn get(&self, module: Digest, fingerprint: Digest) -> Option<Vec<u8>> {
        let path = self.path(module);
        let content = match self.read(&path, module, fingerprint) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                warn!(path = %path.display(), %error, "a compiled rule cannot be read; it is compiled again");
                return None;
            }
        };
        match content {
            Content::Good(artifact) => {
                touch(&path);
                Some(artifact)
            }
            Content::Outdated => {
                debug!(path = %path.display(), "a compiled rule is of another version of the program");
                None
            }
            Content::Forged => {
                warn!(
                    path = %path.display(),
                    "a compiled rule is not what this server wrote, and is not used; it is compiled again. \
                     Find out who writes to this folder"
                );
                None
            }
        }
    }

    /// Keeps an artifact. A failure is logged, and costs no more than time.
    pub fn put(&self, module: Digest, fingerprint: Digest, artifact: &[u8]) {
        let path = self.path(module);
        let mac = self.mac(module, fingerprint, artifact);
        let bytes = [MAGIC.as_slice(), &fingerprint.0, mac.as_ref(), artifact].concat();
        if let Err(error) = private::write(&path, &bytes) {
            warn!(path = %path.display(), %error, "a compiled rule cannot be kept");
        }
        self.evict();
    }

    fn path(&self, module: Digest) -> PathBuf {
        // Without the colon, which not every file system takes.
        self.folder.join(module.to_string().replace(':', "-"))
    }

    fn mac(&self, module: Digest, fingerprint: Digest, artifact: &[u8]) -> hmac::Tag {
        hmac::sign(&self.key, &signed(module, fingerprint, artifact))
    }

    fn read(&self, path: &Path, module: Digest, fingerprint: Digest) -> io::Result<Content> {
        let mut bytes = Vec::new();
        let most = (HEAD_BYTES + MAX_ARTIFACT_BYTES) as u64;
        File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
        let parts = bytes.strip_prefix(MAGIC).and_then(|rest| {
            let (made_by, rest) = rest.split_first_chunk::<HASH_BYTES>()?;
            let (mac, artifact) = rest.split_first_chunk::<HASH_BYTES>()?;
            Some((Digest(*made_by), mac, artifact))
        });
        let Some((made_by, mac, artifact)) = parts else { return Ok(Content::Forged) };
        if hmac::verify(&self.key, &signed(module, made_by, artifact), mac).is_err() {
            return Ok(Content::Forged);
        }
        if made_by != fingerprint {
            return Ok(Content::Outdated);
        }
        Ok(Content::Good(artifact.to_vec()))
    }

    /// Removes what a crash left half-written, and everything where the key is new: no file can be verified under it.
    fn sweep(&self, key_is_new: bool) {
        for (path, ..) in self.files() {
            if key_is_new || path.extension().is_some_and(|extension| extension == private::HALF_WRITTEN) {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Removes the least recently used files until the rest fits the bound.
    fn evict(&self) {
        let mut files = self.files();
        files.sort_by_key(|(_, used_at, _)| *used_at);
        let mut total: u64 = files.iter().map(|(.., bytes)| bytes).sum();
        for (path, _, bytes) in files {
            if total <= self.max_bytes {
                return;
            }
            match fs::remove_file(&path) {
                Ok(()) => total -= bytes,
                Err(error) => warn!(path = %path.display(), %error, "an old compiled rule cannot be removed"),
            }
        }
    }

    /// All files: path, when last used, bytes.
    fn files(&self) -> Vec<(PathBuf, SystemTime, u64)> {
        let entry = |entry: io::Result<fs::DirEntry>| {
            let (entry, metadata) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?))).ok()?;
            metadata.is_file().then(|| (entry, metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), metadata.len()))
        };
        fs::read_dir(&self.folder).into_iter().flatten().filter_map(entry).collect()
    }
}

/// What a MAC covers: all but the artifact is of fixed length, so no two contents run together.
fn signed(module: Digest, fingerprint: Digest, artifact: &[u8]) -> Vec<u8> {
    [MAGIC.as_slice(), &module.0, &fingerprint.0, artifact].concat()
}

/// The time of a file's last change is when it was last used.
fn touch(path: &Path) {
    let touched = File::options().write(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
    if let Err(error) = touched {
        debug!(path = %path.display(), %error, "a compiled rule's time of use cannot be kept");
    }
}

/// The key of a data folder; a new one where there is none, or where others could read the old one. One that this server
/// cannot have written is refused: whoever wrote it knows it. Also returns whether it is new.
fn key(data_dir: &Path) -> io::Result<([u8; HASH_BYTES], bool)> {
    let path = data_dir.join(KEY_FILE);
    match private::open(&path) {
        Ok(mut file) if private::is_closed(&file)? => {
            return read_key(&mut file).map(|key| (key, false)).map_err(|what| refused(&path, &what));
        }
        Ok(_) => warn!(path = %path.display(), "the key of compiled rules is open to others: it is replaced"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(refused(&path, &error.to_string())),
    }
    let random = ring::rand::generate::<[u8; HASH_BYTES]>(&SystemRandom::new());
    let key = random.map_err(|_| io::Error::other("the system gives no random numbers"))?.expose();
    private::write(&path, &key)?;
    Ok((key, true))
}

fn read_key(file: &mut File) -> Result<[u8; HASH_BYTES], String> {
    let mut bytes = Vec::new();
    // One byte over the length shows that it is over.
    file.take(HASH_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    let found = bytes.len();
    let key: [u8; HASH_BYTES] = bytes.try_into().map_err(|_| match found {
        0..HASH_BYTES => format!("it has {found} bytes, and a key has {HASH_BYTES}"),
        _ => format!("it has more than the {HASH_BYTES} bytes of a key"),
    })?;
    if key == [0; HASH_BYTES] { Err("it is all zeros, which no key is".into()) } else { Ok(key) }
}

fn refused(path: &Path, what: &str) -> io::Error {
    let path = path.display();
    io::Error::other(format!(
        "the key of compiled rules {path} is not used: {what}. Find out who wrote it, then remove it with `rm {path}`: a \
         new one is made, and all rules are compiled again"
    ))
}

mod private {
    //! Files and folders that are their owner's alone, where the system knows owners.

    use std::io::Write as _;

    use super::{File, OpenOptions, Path, fs, io};

    /// The extension of a file that is being written.
    pub(super) const HALF_WRITTEN: &str = "half";

    /// Writes a file whole or not at all.
    pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
        let half = path.with_extension(HALF_WRITTEN);
        // What a crash left there may belong to anybody.
        let _ = fs::remove_file(&half);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file: File = options.open(&half)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&half, path));
        if written.is_err() {
            let _ = fs::remove_file(&half);
        }
        written
    }

    #[cfg(unix)]
    pub(super) fn close(path: &Path, mode: u32) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    }

    /// Opens a regular file of this user's own, and no link to one.
    #[cfg(unix)]
    pub(super) fn open(path: &Path) -> io::Result<File> {
        use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};

        let opened = OpenOptions::new().read(true).custom_flags(OPEN_FLAGS.bits().cast_signed()).open(path);
        let file = opened.map_err(|error| match rustix::io::Errno::from_io_error(&error) {
            Some(rustix::io::Errno::LOOP) => io::Error::other("it is a link"),
            _ => error,
        })?;
        let (metadata, user) = (file.metadata()?, rustix::process::geteuid().as_raw());
        if !metadata.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        if metadata.uid() != user {
            let owner = metadata.uid();
            return Err(io::Error::other(format!("it belongs to user {owner}, and the server runs as user {user}")));
        }
        Ok(file)
    }

    /// Follow no link, and do not wait for a writer where the file is a pipe.
    #[cfg(unix)]
    const OPEN_FLAGS: rustix::fs::OFlags = rustix::fs::OFlags::NOFOLLOW.union(rustix::fs::OFlags::NONBLOCK);

    #[cfg(unix)]
    pub(super) fn is_closed(file: &File) -> io::Result<bool> {
        use std::os::unix::fs::PermissionsExt as _;
        Ok(file.metadata()?.permissions().mode() & 0o077 == 0)
    }

    #[cfg(not(unix))]
    pub(super) fn close(_path: &Path, _mode: u32) -> io::Result<()> {
        Ok(())
    }

    #[cfg(not(unix))]
    pub(super) fn open(path: &Path) -> io::Result<File> {
        File::open(path)
    }

    #[cfg(not(unix))]
    pub(super) fn is_closed(_file: &File) -> io::Result<bool> {
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: Digest = Digest([1; 32]);
    const MADE_BY: Digest = Digest([2; 32]);

    fn filled() -> (tempfile::TempDir, ArtifactCache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = ArtifactCache::open(folder.path()).unwrap();
        cache.put(MODULE, MADE_BY, b"machine code");
        (folder, cache)
    }

    #[test]
    fn what_was_put_is_there_after_a_restart() {
        let (folder, cache) = filled();
        assert_eq!(cache.get(MODULE, MADE_BY).as_deref(), Some(b"machine code".as_slice()));
        let again = ArtifactCache::open(folder.path()).unwrap();
        assert_eq!(again.get(MODULE, MADE_BY).as_deref(), Some(b"machine code".as_slice()));
        assert_eq!(again.get(Digest([9; 32]), MADE_BY), None, "another module");
        assert_eq!(again.get(MODULE, Digest([9; 32])), None, "another version of the program");
    }

    #[test]
    fn not_one_byte_may_change() {
        let (_folder, cache) = filled();
        let path = cache.path(MODULE);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert_eq!(cache.get(MODULE, MADE_BY), None, "byte {at}");
            assert!(matches!(cache.read(&path, MODULE, MADE_BY).unwrap(), Content::Forged), "byte {at}");
            fs::write(&path, &good[..at]).unwrap();
            assert_eq!(cache.get(MODULE, MADE_BY), None, "cut to {at} bytes");
        }
        fs::write(&path, [&good[..], b"x"].concat()).unwrap();
        assert_eq!(cache.get(MODULE, MADE_BY), None, "a byte more");
        fs::write(&path, &good).unwrap();
        assert!(cache.get(MODULE, MADE_BY).is_some());
        fs::rename(&path, cache.path(Digest([9; 32]))).unwrap();
        assert_eq!(cache.get(Digest([9; 32]), MADE_BY), None, "under the name of another module");
    }

    #[test]
    fn under_another_key_nothing_counts() {
        let (folder, _) = filled();
        fs::remove_file(folder.path().join(KEY_FILE)).unwrap();
        assert_eq!(ArtifactCache::open(folder.path()).unwrap().get(MODULE, MADE_BY), None);
    }

    #[cfg(unix)]
    #[test]
    fn everything_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let (folder, cache) = filled();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let key = folder.path().join(KEY_FILE);
        assert_eq!([mode(&cache.folder), mode(&cache.path(MODULE)), mode(&key)], [0o700, 0o600, 0o600]);
        // A key that others could read is worth nothing any more; a folder is closed again.
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        fs::set_permissions(&cache.folder, fs::Permissions::from_mode(0o755)).unwrap();
        let again = ArtifactCache::open(folder.path()).unwrap();
        assert_eq!([mode(&cache.folder), mode(&key)], [0o700, 0o600]);
        assert_eq!(again.get(MODULE, MADE_BY), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_this_server_did_not_write_is_refused_and_left_alone() {
        use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

        #[track_caller]
        fn check(what: &str, put: impl FnOnce(&Path)) {
            let (folder, _) = filled();
            let key = folder.path().join(KEY_FILE);
            put(&key);
            let before = fs::read(&key).unwrap();
            let error = ArtifactCache::open(folder.path()).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains(&format!("`rm {}`", key.display())), "{error}");
            assert_eq!(fs::read(&key).unwrap(), before, "it is evidence");
            fs::remove_file(&key).unwrap();
            ArtifactCache::open(folder.path()).unwrap();
        }
        check("all zeros", |key| fs::write(key, [0; HASH_BYTES]).unwrap());
        check("it has 0 bytes", |key| fs::write(key, b"").unwrap());
        check("it has 31 bytes", |key| fs::write(key, [1; HASH_BYTES - 1]).unwrap());
        check("more than the 32 bytes", |key| fs::write(key, [1; HASH_BYTES + 1]).unwrap());
        check("not used: it is a link", |key| {
            let elsewhere = key.with_extension("elsewhere");
            fs::rename(key, &elsewhere).unwrap();
            symlink(&elsewhere, key).unwrap();
        });
        if rustix::process::geteuid().is_root() {
            check("it belongs to user 65534", |key| chown(key, Some(65_534), None).unwrap());
            // Whether others may read it or not.
            check("it belongs to user 65534", |key| {
                fs::set_permissions(key, fs::Permissions::from_mode(0o644)).unwrap();
                chown(key, Some(65_534), None).unwrap();
            });
        }
    }

    #[test]
    fn the_least_recently_used_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let one_bytes = (HEAD_BYTES + 100) as u64;
        let cache = ArtifactCache::with_bound(folder.path(), 3 * one_bytes).unwrap();
        let used_at = |digest: Digest, second: u64| {
            let file = File::options().write(true).open(cache.path(digest)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(second)).unwrap();
        };
        for i in 1..=3 {
            cache.put(Digest([i; 32]), MADE_BY, &[0; 100]);
            used_at(Digest([i; 32]), u64::from(i));
        }
        assert!(cache.get(Digest([1; 32]), MADE_BY).is_some(), "used now");
        cache.put(Digest([4; 32]), MADE_BY, &[0; 100]);
        let left: Vec<bool> = (1..=4).map(|i| cache.get(Digest([i; 32]), MADE_BY).is_some()).collect();
        assert_eq!(left, [true, false, true, true]);
    }

    #[test]
    fn what_a_crash_left_is_swept_away() {
        let (folder, cache) = filled();
        let half = cache.path(MODULE).with_extension(private::HALF_WRITTEN);
        fs::write(&half, b"half").unwrap();
        let again = ArtifactCache::open(folder.path()).unwrap();
        assert!(!half.exists() && again.get(MODULE, MADE_BY).is_some());
    }
}
