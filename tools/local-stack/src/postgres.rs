//! PostgreSQL, as a private cluster with one superuser and one database, both named `tocsin`, listening on loopback only.

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::apt;
use crate::process::{self, Process};
use crate::service::Service;
use crate::state::State;

/// Debian installs the programs below this folder, in one folder per version.
const DEBIAN_FOLDER: &str = "/usr/lib/postgresql";

/// The name of the superuser and of the database.
const NAME: &str = "tocsin";

/// Contains the server's process id and whether it is ready.
const LOCK_FILE: &str = "postmaster.pid";

/// Concurrent connections: tests run in parallel, each with a pool.
const MAX_CONNECTIONS: u32 = 200;

/// The user to run as if this process is root, since PostgreSQL refuses root: created by Debian's package.
const UNPRIVILEGED_USER: &str = "postgres";

/// Installs it where it is missing.
pub(crate) fn install() -> Result<()> {
    if programs().is_none() {
        apt::install(&["postgresql"]);
    }
    ensure!(programs().is_some(), "there is no PostgreSQL (initdb, postgres); on Debian: apt-get install postgresql");
    Ok(())
}

/// Creates the cluster and its database unless they exist, and returns the command that starts the server.
pub(crate) fn prepare(state: &State, folder: &Path) -> Result<Command> {
    let own = own_folder(state, folder);
    std::fs::create_dir_all(&own).with_context(|| format!("cannot make the folder {}", own.display()))?;
    let user = User::find()?;
    user.own(&own)?;
    let programs = programs().context("PostgreSQL is not installed")?;
    let data = own.join("data");
    if !data.is_dir() {
        create_cluster(&programs, &own, &user)?;
    }
    clean_up_after_crash(&data)?;
    let mut start = user.command(&programs.join("postgres"));
    start.arg("-D").arg(data).args(["-p", &state.postgres_port.to_string()]);
    // No Unix socket: the length of its path is limited, and the folders of tests have long paths.
    start.args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]);
    start.arg("-c").arg(format!("max_connections={MAX_CONNECTIONS}"));
    Ok(start)
}

/// Removes what a crashed server left in its data folder: backend processes that have not noticed the crash yet, and the
/// lock file. It names a process that is dead but visible as a zombie until its parent waits for it, and PostgreSQL
/// would take that for a running server.
fn clean_up_after_crash(data: &Path) -> Result<()> {
    process::working_in(data, "postgres").into_iter().try_for_each(Process::kill)?;
    let lock = data.join(LOCK_FILE);
    if lock.is_file() {
        std::fs::remove_file(&lock).with_context(|| format!("cannot remove {}", lock.display()))?;
    }
    Ok(())
}

/// Returns whether the server is ready and is this process, as its lock file records:
/// <https://www.postgresql.org/docs/15/storage-file-layout.html>.
pub(crate) fn is_ready(process: Process, state: &State, folder: &Path) -> bool {
    let text = std::fs::read_to_string(own_folder(state, folder).join("data").join(LOCK_FILE)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.first() == Some(&process.pid.to_string().as_str()) && lines.get(7) == Some(&"ready")
}

/// Removes the cluster.
pub(crate) fn wipe(state: &State, folder: &Path) -> Result<()> {
    let own = own_folder(state, folder);
    if own.is_dir() {
        std::fs::remove_dir_all(&own).with_context(|| format!("cannot remove {}", own.display()))?;
    }
    Ok(())
}

/// Returns the folder of the server: one in the stack's folder, or, if root runs it as a user who may not enter there,
/// one in the folder for temporary files.
fn own_folder(state: &State, folder: &Path) -> PathBuf {
    let is_open = |folder: &Path| folder.metadata().is_ok_and(|metadata| metadata.mode() & 0o001 != 0);
    if !rustix::process::geteuid().is_root() || folder.ancestors().all(is_open) {
        folder.join(Service::Postgres.to_string())
    } else {
        std::env::temp_dir().join(format!("tocsin-postgres-{}", state.id))
    }
}

/// Creates a cluster with the database in it. The folder `data` exists only once it is complete.
fn create_cluster(programs: &Path, own: &Path, user: &User) -> Result<()> {
    let new = own.join("data.part");
    if new.is_dir() {
        std::fs::remove_dir_all(&new).with_context(|| format!("cannot remove {}", new.display()))?;
    }
    let mut initdb = user.command(&programs.join("initdb"));
    initdb.args(["-U", NAME, "--auth=trust", "--locale=C", "--encoding=UTF8", "-D"]).arg(&new);
    process::run(&mut initdb, &own.join("initdb.log"))?;
    let mut single = user.command(&programs.join("postgres"));
    single.args(["--single", "-D"]).arg(&new).arg("postgres");
    // It logs as a server does; the exit status shows whether it failed.
    single.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut single = single.spawn().context("cannot start postgres")?;
    let mut input = single.stdin.take().expect("it is piped");
    writeln!(input, "CREATE DATABASE {NAME};").context("cannot write to postgres")?;
    drop(input);
    ensure!(
        single.wait().context("cannot wait for postgres")?.success(),
        "postgres failed to create the database {NAME}"
    );
    std::fs::rename(&new, own.join("data")).context("cannot rename the folder of the new cluster")
}

/// Returns the folder of the programs: the newest of Debian's, or one on the PATH.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir(DEBIAN_FOLDER).into_iter().flatten().flatten();
    let mut debian: Vec<(u32, PathBuf)> = versions
        .filter_map(|version| Some((version.file_name().to_str()?.parse().ok()?, version.path().join("bin"))))
        .collect();
    debian.sort_by(|one, other| other.cmp(one));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = debian.into_iter().map(|(_, folder)| folder).chain(std::env::split_paths(&path));
    folders.into_iter().find(|folder| ["initdb", "postgres"].iter().all(|program| folder.join(program).is_file()))
}

/// The user that runs the server.
enum User {
    /// The user of this process
    Same,
    Other {
        uid: u32,
        gid: u32,
    },
}

impl User {
    fn find() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Same);
        }
        let id = |which: &str| -> Result<u32> {
            let output = Command::new("id").args([which, UNPRIVILEGED_USER]).output().context("cannot run id")?;
            let text = String::from_utf8_lossy(&output.stdout);
            text.trim().parse().with_context(|| {
                format!("PostgreSQL does not run as root, and there is no user {UNPRIVILEGED_USER}: create it")
            })
        };
        Ok(Self::Other { uid: id("-u")?, gid: id("-g")? })
    }

    fn own(&self, folder: &Path) -> Result<()> {
        match *self {
            Self::Same => Ok(()),
            Self::Other { uid, gid } => chown(folder, Some(uid), Some(gid))
                .with_context(|| format!("cannot change the owner of {}", folder.display())),
        }
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        // The user may not be allowed to enter the current folder.
        command.current_dir("/");
        if let Self::Other { uid, gid } = *self {
            command.uid(uid).gid(gid);
        }
        command
    }
}
