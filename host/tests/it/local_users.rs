//! Other users of the same machine: what they can see of a server, and what files of theirs do to it and to the command
//! line. Giving files away and acting as another user takes root: where tests run as any other user, those parts are left
//! out.
#![cfg(unix)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::json;
use tocsin_engine::builtin;

use crate::server::{BINARY, Server, wait_for};

/// A user that owns nothing, in every Linux.
const STRANGER: u32 = 65_534;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A command that another user runs.
fn as_other_user(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    let user = STRANGER.to_string();
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups", program]);
    command
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A folder that every user may look into.
fn open_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    folder
}

/// Runs a command line that ends by itself, in a folder.
fn run(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(BINARY);
    command.args(arguments).current_dir(folder).env("PORT", "0").env("GRPC_PORT", "0");
    for setting in ["TOCSIN_SERVER", "TOCSIN_FEED", "TOCSIN_DATA_DIR", "FINNHUB_API_KEY"] {
        command.env_remove(setting);
    }
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

/// Asserts that a server does not start, and what it says.
#[track_caller]
fn check_no_start(data_dir: &Path, expect: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let (status, said) = run(folder.path(), &["serve", "--feed", "none", "--data-dir", data_dir.to_str().unwrap()]);
    assert_eq!(status, Some(1), "{said}");
    for words in expect {
        assert!(said.contains(words), "{words:?} is not in: {said}");
    }
}

#[test]
fn what_a_server_keeps_is_its_users_alone() {
    let folder = open_folder();
    let server = Server::start_bare(folder.path());
    let alert = json!({"user_id": 1, "symbol": "AAPL", "target_price": 1.0, "condition": "ABOVE"});
    assert_eq!(server.post("/alerts", &alert).0, 201);
    wait_for("a compiled rule", || fs::read_dir(folder.path().join("tocsin-data/compiled")).unwrap().next().is_some());
    let data = folder.path().join("tocsin-data");
    let mut found = vec![data.clone()];
    let mut at = 0;
    while at < found.len() {
        let path = found[at].clone();
        if path.is_dir() {
            found.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        at += 1;
    }
    for name in ["tocsin.sqlite", "log.lock", "log", "compiled.key"] {
        assert!(found.contains(&data.join(name)), "{name} is not among {found:?}");
    }
    for path in &found {
        // The log drops files of its own while this looks at them.
        let Ok(metadata) = fs::symlink_metadata(path) else { continue };
        let mode = metadata.permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{} is open to others: {mode:o}", path.display());
    }
    if is_root() {
        for path in [data.join("log.lock"), data.join("tocsin.sqlite"), data.join("compiled.key")] {
            let read = as_other_user("cat").arg(&path).output().unwrap();
            assert!(!read.status.success() && read.stdout.is_empty(), "{} was read", path.display());
        }
    }
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_data_folder_that_is_open_is_closed_and_named() {
    let folder = open_folder();
    for (name, expect) in [("tocsin.sqlite", 0o600), ("log.lock", 0o600), ("compiled", 0o700)] {
        let path = folder.path().join(name);
        if expect == 0o700 {
            fs::create_dir(&path).unwrap()
        } else {
            fs::write(&path, "").unwrap()
        }
        set_mode(&path, expect | 0o044);
    }
    let server = Server::start(folder.path(), &["--feed", "none"]);
    for name in ["", "tocsin.sqlite", "log.lock", "compiled"] {
        let path = folder.path().join(name);
        assert_eq!(mode(&path) & 0o077, 0, "{}", path.display());
        let path = path.to_str().unwrap().trim_end_matches('/');
        let named = |line: &&String| line.contains("was open to other users") && line.contains(path);
        assert!(server.said.iter().any(|line| named(&line)), "{path} is not named: {:#?}", server.said);
    }
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_data_folder_or_key_of_another_user_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("compiled.key");
    for (bytes, what) in [(&[0; 32][..], "all zeros"), (&[1; 16], "16 bytes")] {
        fs::write(&key, bytes).unwrap();
        set_mode(&key, 0o600);
        check_no_start(folder.path(), &["compiled.key is not used: ", what, &format!("`rm {}`", key.display())]);
        assert_eq!(fs::read(&key).unwrap(), bytes, "it is evidence");
    }
    if !is_root() {
        return;
    }
    fs::write(&key, [7; 32]).unwrap();
    chown(&key, Some(STRANGER), None).unwrap();
    check_no_start(
        folder.path(),
        &["compiled.key is not used: it belongs to user 65534, and the server runs as user 0"],
    );
    let folder = tempfile::tempdir().unwrap();
    chown(folder.path(), Some(STRANGER), None).unwrap();
    let chown_command = format!("`chown -R 0 {}`", folder.path().display());
    check_no_start(folder.path(), &["belongs to user 65534, and the server runs as user 0", &chown_command]);
    assert!(!folder.path().join("tocsin.sqlite").exists(), "nothing was begun");
}

#[test]
fn the_holder_of_a_folders_lock_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--feed", "none"]);
    check_no_start(folder.path(), &["in use by process ", "(tocsin, of user ", "has locked log.lock"]);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_reader_of_another_user_holds_no_lock_once_the_folder_is_closed() {
    if !is_root() {
        return;
    }
    // As earlier versions left it.
    let folder = open_folder();
    let lock = folder.path().join("log.lock");
    fs::write(&lock, "").unwrap();
    set_mode(&lock, 0o644);
    let mut holder = Killed(hold(&lock));
    wait_for("the lock", || !Command::new("flock").args(["-n"]).arg(&lock).arg("true").status().unwrap().success());
    let named = format!("in use by process {} (", holder.0.id());
    check_no_start(folder.path(), &[&named, ", of user 65534)", "log.lock"]);
    holder.0.kill().unwrap();
    holder.0.wait().unwrap();
    let again = hold(&lock).wait().unwrap();
    assert!(!again.success(), "the folder is closed now: no other user can open the lock again");
    assert_eq!(Server::start(folder.path(), &["--feed", "none"]).stop(), Some(0));
}

/// Another user's process that holds a lock on a file that it can read, if it can read it.
fn hold(lock: &Path) -> Child {
    // Without a fork, so that killing it gives the lock free.
    as_other_user("flock")
        .args(["--no-fork", "--shared"])
        .arg(lock)
        .args(["sleep", "600"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// A process that ends with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_compile_child_reads_no_settings_and_limits_itself_first() {
    let folder = tempfile::tempdir().unwrap();
    // Any other command ends with this file, and with this environment.
    fs::write(folder.path().join(".env"), "garbage line\n").unwrap();
    let mut child = Command::new(BINARY);
    child.args(["compile-module", "--cpu-s", "7", "--trial"]).current_dir(folder.path());
    child.env("TOCSIN_SERVER", "no URL").env("MALLOC_ARENA_MAX", "1");
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let proc = format!("/proc/{}", child.id());
    if cfg!(target_os = "linux") {
        let limited =
            |limits: String| limits.lines().any(|line| line.starts_with("Max cpu time") && line.contains(" 7 "));
        wait_for("the child's limits, before it has a module", || {
            fs::read_to_string(format!("{proc}/limits")).is_ok_and(limited)
        });
        wait_for("the child to leave the folder", || {
            fs::read_link(format!("{proc}/cwd")).is_ok_and(|cwd| cwd == Path::new("/"))
        });
    }
    child.stdin.take().unwrap().write_all(builtin::ABOVE).unwrap();
    let (mut answer, mut said) = (Vec::new(), String::new());
    child.stdout.take().unwrap().read_to_end(&mut answer).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    assert_eq!(answer.first(), Some(&b'A'), "an artifact: {said}");
}

/// The value that a command line would take for the server to talk to: the help shows it.
#[track_caller]
fn server_in_help(folder: &Path, arguments: &[&str]) -> String {
    let (status, said) = run(folder, &[&["rule", "list", "--help"], arguments].concat());
    assert_eq!(status, Some(0), "{said}");
    let (_, value) = said.split_once("[env: TOCSIN_SERVER=").expect("the help names the variable");
    value.split(']').next().unwrap().to_owned()
}

#[test]
fn settings_are_read_from_the_working_folder_and_from_no_other() {
    let parent = tempfile::tempdir().unwrap();
    let (below, beside) = (parent.path().join("below"), parent.path().join("beside.env"));
    fs::create_dir(&below).unwrap();
    fs::write(parent.path().join(".env"), "TOCSIN_SERVER=http://redirected.example\n").unwrap();
    fs::write(&beside, "TOCSIN_SERVER=http://named.example\n").unwrap();
    assert_eq!(server_in_help(&below, &[]), "", "of the folder above");
    assert_eq!(server_in_help(parent.path(), &[]), "http://redirected.example");
    for name in [beside.to_str().unwrap(), "../beside.env"] {
        assert_eq!(server_in_help(&below, &["--env-file", name]), "http://named.example");
        assert_eq!(server_in_help(&below, &[&format!("--env-file={name}")]), "http://named.example");
    }
    assert_eq!(server_in_help(parent.path(), &["--env-file", beside.to_str().unwrap()]), "http://named.example");
    // The server as well: with this file above it, it would not start.
    fs::write(parent.path().join(".env"), "TOCSIN_FEED=finnhub\nTOCSIN_BIND=0.0.0.0\n").unwrap();
    let server = Server::start(&below, &["--feed", "none"]);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_file_of_settings_that_others_may_change_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(".env");
    fs::write(&file, "TOCSIN_FEED=none\n").unwrap();
    let check = |arguments: &[&str], expect: &[&str]| {
        let (status, said) = run(folder.path(), arguments);
        assert_eq!(status, Some(1), "{said}");
        for words in [&[file.to_str().unwrap()], expect].concat() {
            assert!(said.contains(words), "{words:?} is not in: {said}");
        }
    };
    for open in [0o620, 0o602, 0o666] {
        set_mode(&file, open);
        let mode = format!("other users may write to it (mode {open:o})");
        check(&["serve"], &[&mode, "`chmod go-w "]);
        check(&["rule", "list"], &[&mode]);
        check(&["rule", "list", "--env-file", file.to_str().unwrap()], &[&mode]);
    }
    set_mode(&file, 0o644);
    let elsewhere = folder.path().join("missing.env");
    let (status, said) = run(folder.path(), &["rule", "list", "--env-file", elsewhere.to_str().unwrap()]);
    assert!(status == Some(1) && said.contains("missing.env: there is no such file"), "{said}");
    if !is_root() {
        return;
    }
    chown(&file, Some(STRANGER), None).unwrap();
    let owner = ["belongs to user 65534", "--env-file"];
    check(&["serve"], &owner);
    check(&["rule", "list"], &owner);
    assert!(!folder.path().join("tocsin-data").exists(), "nothing was begun");
    // A link of another user's to a file of one's own chooses for its reader.
    fs::rename(&file, folder.path().join("own")).unwrap();
    chown(folder.path().join("own"), Some(0), None).unwrap();
    std::os::unix::fs::symlink("own", &file).unwrap();
    assert_eq!(server_in_help(folder.path(), &[]), "", "a link of one's own is followed");
    std::os::unix::fs::lchown(&file, Some(STRANGER), None).unwrap();
    check(&["rule", "list"], &owner);
}

#[test]
fn settings_of_root_are_accepted_for_all_users() {
    if !is_root() {
        return;
    }
    let folder = open_folder();
    let file = folder.path().join(".env");
    fs::write(&file, "TOCSIN_SERVER=http://named.example\n").unwrap();
    set_mode(&file, 0o644);
    let binary = folder.path().join("tocsin");
    // The target folder may be closed to others.
    fs::copy(BINARY, &binary).unwrap();
    let mut help = as_other_user(binary.to_str().unwrap());
    let said =
        help.args(["rule", "list", "--help"]).current_dir(folder.path()).env_remove("TOCSIN_SERVER").output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("http://named.example"), "{said}");
}
