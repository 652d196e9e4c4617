//! The data folder: the user's alone who runs the server.
//!
//! It holds every alert, the log and the key under which machine code is trusted. So it is created closed to other users,
//! one that is open to them is closed, and one that belongs to another user is refused: its owner could change all of
//! that at any time. What other systems than Unix know of owners is not looked at.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What Tocsin keeps in the folder; everything else there is left alone. The key of compiled rules is missing: it is
/// looked at where it is read.
const ENTRIES: [&str; 7] =
    ["log", "log.lock", "log.unfinished", "compiled", "tocsin.sqlite", "tocsin.sqlite-wal", "tocsin.sqlite-shm"];

/// Why a data folder is not used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The file system refused something.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried, for a sentence.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// It, or something of Tocsin's in it, is another user's.
    #[error(
        "{path} belongs to user {owner}, and the server runs as user {user}: start it as user {owner}, or look at what is \
         in there and make it yours with `chown -R {user} {path}`, or give another folder with --data-dir (one \
         inside of it will do)",
        path = path.display()
    )]
    Foreign {
        /// The file or folder.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The user of this process.
        user: u32,
    },
}

/// Creates the folder, for this user alone, or checks the one that is there and closes it to other users. Every start goes
/// through here before it opens anything in the folder.
pub fn prepare(folder: &Path) -> Result<(), DataDirError> {
    create(folder)?;
    unix::check(folder)
}

fn create(folder: &Path) -> Result<(), DataDirError> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, unix::FOLDER_MODE);
    builder.recursive(true).create(folder).map_err(io_error("create", folder))
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataDirError {
    move |source| DataDirError::Io { doing, path: path.to_owned(), source }
}

/// Makes what this process creates from now on its user's alone: the databases create files as the process says. To be
/// called before the first thread is started.
pub fn create_privately() {
    unix::narrow_umask();
}

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use rustix::fs::Mode;
    use rustix::process::{geteuid, umask};
    use tracing::warn;

    use super::{DataDirError, ENTRIES, Path, fs, io, io_error};

    /// The mode of the data folder: its owner's alone.
    pub(super) const FOLDER_MODE: u32 = 0o700;

    /// What group and others may do.
    const OTHERS: u32 = 0o077;

    pub(super) fn narrow_umask() {
        umask(Mode::RWXG | Mode::RWXO);
    }

    pub(super) fn check(folder: &Path) -> Result<(), DataDirError> {
        check_owner(folder)?;
        close(folder)?;
        for entry in ENTRIES.map(|name| folder.join(name)) {
            if entry.symlink_metadata().is_ok() {
                check_owner(&entry)?;
                close(&entry)?;
                check_owners_inside(&entry)?;
            }
        }
        Ok(())
    }

    /// Checks the owner of everything in a folder; its modes do not matter, since others cannot enter the folder.
    fn check_owners_inside(entry: &Path) -> Result<(), DataDirError> {
        let mut folders = vec![entry.to_owned()];
        while let Some(folder) = folders.pop().filter(|folder| folder.is_dir()) {
            for entry in fs::read_dir(&folder).map_err(io_error("look into", &folder))? {
                let entry = entry.map_err(io_error("look into", &folder))?;
                check_owner(&entry.path())?;
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(entry.path());
                }
            }
        }
        Ok(())
    }

    fn check_owner(path: &Path) -> Result<(), DataDirError> {
        let user = geteuid().as_raw();
        let owner = fs::metadata(path).map_err(io_error("look at", path))?.uid();
        // A link that another user made may lead to another folder of this user's. Root may do as it likes anyway.
        let linked_by = fs::symlink_metadata(path).map_err(io_error("look at", path))?.uid();
        let foreign = if owner != user { Some(owner) } else { Some(linked_by).filter(|uid| ![user, 0].contains(uid)) };
        foreign.map_or(Ok(()), |owner| Err(DataDirError::Foreign { path: path.to_owned(), owner, user }))
    }

    /// Takes away what other users may do. Where that cannot be done, as on a file system without owners, the server goes
    /// on: it may be all that there is.
    fn close(path: &Path) -> Result<(), DataDirError> {
        let mode = mode(path).map_err(io_error("look at", path))?;
        if mode & OTHERS == 0 {
            return Ok(());
        }
        let closed = mode & !OTHERS;
        let changed = fs::set_permissions(path, fs::Permissions::from_mode(closed));
        let is_closed = self::mode(path).is_ok_and(|mode| mode & OTHERS == 0);
        let path = path.display();
        if is_closed {
            warn!(%path, "was open to other users (mode {mode:o}): it is closed to them now (mode {closed:o})");
        } else {
            let error = changed.err().map_or_else(|| "the file system ignores modes".to_owned(), |e| e.to_string());
            warn!(
                %path, %error,
                "is open to other users (mode {mode:o}), who may read alerts or change them: \
                 close it with `chmod go-rwx {path}`, or give another folder with --data-dir"
            );
        }
        Ok(())
    }

    fn mode(path: &Path) -> io::Result<u32> {
        Ok(fs::metadata(path)?.permissions().mode() & 0o7777)
    }
}

#[cfg(not(unix))]
mod unix {
    pub(super) fn narrow_umask() {}

    pub(super) fn check(_folder: &super::Path) -> Result<(), super::DataDirError> {
        Ok(())
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn open_to_all(path: &Path) {
        let mode = if path.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_new_folder_is_its_users_alone() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("a/b");
        prepare(&folder).unwrap();
        assert_eq!([mode(&parent.path().join("a")), mode(&folder)], [0o700, 0o700]);
    }

    #[test]
    fn a_folder_that_is_open_is_closed_with_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("log")).unwrap();
        for file in ["tocsin.sqlite", "log.lock", "notes.txt"] {
            fs::write(path(file), "").unwrap();
        }
        for name in ["log", "tocsin.sqlite", "log.lock", "notes.txt"] {
            open_to_all(&path(name));
        }
        open_to_all(folder.path());
        prepare(folder.path()).unwrap();
        let modes = ["", "log", "tocsin.sqlite", "log.lock", "notes.txt"].map(|name| mode(&path(name)));
        assert_eq!(modes, [0o700, 0o700, 0o600, 0o600, 0o644], "what is not Tocsin's is left alone");
    }

    #[test]
    fn what_belongs_to_another_user_is_refused_by_name() {
        // Only root can give files away.
        if !rustix::process::geteuid().is_root() {
            return;
        }
        for name in ["", "log", "log/keyspaces/0", "tocsin.sqlite", "compiled"] {
            let folder = tempfile::tempdir().unwrap();
            let path = if name.is_empty() { folder.path().to_owned() } else { folder.path().join(name) };
            fs::create_dir_all(&path).unwrap();
            chown(&path, Some(65_534), None).unwrap();
            let error = prepare(folder.path()).unwrap_err().to_string();
            let begins = format!("{} belongs to user 65534, and the server runs as user 0: ", path.display());
            assert!(error.starts_with(&begins) && error.contains("chown -R 0"), "{error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let (link, elsewhere) = (folder.path().join("log"), tempfile::tempdir().unwrap());
        symlink(elsewhere.path(), &link).unwrap();
        prepare(folder.path()).unwrap();
        std::os::unix::fs::lchown(&link, Some(65_534), None).unwrap();
        assert!(matches!(prepare(folder.path()), Err(DataDirError::Foreign { .. })), "a link of another user's");
    }
}
