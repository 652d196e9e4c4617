//! The parent's side: starts a child for each module, one at a time, and makes an answer of however it ends.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tocsin_engine::violation::{Code, Violation};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

use super::answer::{self, HEAD_BYTES, Received};
use super::child::{COMMAND, EXIT_BROKEN};
use super::{CompileError, CompileLimits, MAX_ARTIFACT_BYTES, MAX_QUEUED_UPLOADS, Purpose};

/// Compiles in child processes.
pub struct ChildCompiler {
    /// The `tocsin` program.
    program: PathBuf,
    limits: CompileLimits,
    /// One child at a time: the limits are for one.
    turn: Semaphore,
    /// Uploads that wait or are at work.
    uploads: Semaphore,
}

/// How much longer than an upload a module may take that was accepted before: no client waits for it, but evaluation
/// does, and must not fail since the machine is busy.
const RESTORE_PATIENCE: u64 = 4;

/// How a child ended.
enum End {
    /// It wrote this, and its status.
    Exited(Vec<u8>, ExitStatus),
    /// It wrote more than any artifact has, and was killed.
    Flooded,
    /// It was killed at the deadline.
    Late,
}

impl ChildCompiler {
    /// A compiler that starts `program`, which must be a `tocsin` of this very version.
    pub fn new(program: PathBuf, limits: CompileLimits) -> Self {
        let (turn, uploads) = (Semaphore::new(1), Semaphore::new(MAX_QUEUED_UPLOADS));
        Self { program, limits, turn, uploads }
    }

    /// Compiles one module, when its turn comes.
    pub(super) async fn compile(&self, module: &[u8], purpose: Purpose) -> Result<Received, CompileError> {
        let _place = match purpose {
            Purpose::Upload => Some(self.uploads.try_acquire().map_err(|_| CompileError::Busy)?),
            Purpose::Restore => None,
        };
        let _turn = self.turn.acquire().await.map_err(|error| CompileError::Broken(error.to_string()))?;
        let broken = |error: std::io::Error| CompileError::Broken(format!("{}: {error}", self.program.display()));
        let limits = self.limits_for(purpose);
        let child = self.spawn(purpose, limits).map_err(broken)?;
        let end = attend(child, module, Duration::from_millis(limits.deadline_ms)).await.map_err(broken)?;
        outcome_of(end, limits)
    }

    fn limits_for(&self, purpose: Purpose) -> CompileLimits {
        let CompileLimits { memory_mib, cpu_s, deadline_ms } = self.limits;
        let times = match purpose {
            Purpose::Upload => 1,
            Purpose::Restore => RESTORE_PATIENCE,
        };
        CompileLimits { memory_mib, cpu_s: cpu_s * times, deadline_ms: deadline_ms * times }
    }

    fn spawn(&self, purpose: Purpose, limits: CompileLimits) -> std::io::Result<Child> {
        let mut command = Command::new(&self.program);
        command
            .arg(COMMAND)
            .args(["--memory-mib", &limits.memory_mib.to_string()])
            .args(["--cpu-s", &limits.cpu_s.to_string()])
            .args((purpose == Purpose::Upload).then_some("--trial"))
            .env_clear()
            // glibc reserves 64 MiB of address space for each thread otherwise.
            .env("MALLOC_ARENA_MAX", "1")
            .current_dir(Path::new("/"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        command.spawn()
    }
}

/// What the end of a child means to the uploader.
fn outcome_of(end: End, limits: CompileLimits) -> Result<Received, CompileError> {
    let CompileLimits { memory_mib, cpu_s, deadline_ms } = limits;
    let refused = |code, text: String| Err(CompileError::Refused(vec![Violation::new(code, text)]));
    let limit = |text: String| refused(Code::CompileLimit, format!("{text}; make the module smaller or simpler"));
    let (bytes, status) = match end {
        End::Late => return limit(format!("compiling and trying it out took longer than {deadline_ms} ms")),
        End::Flooded => return limit(format!("its machine code has more than {MAX_ARTIFACT_BYTES} bytes")),
        End::Exited(bytes, status) => (bytes, status),
    };
    if let Some(signal) = signal_of(status) {
        return match signal {
            Signal::Cpu => limit(format!("compiling and trying it out took more than {cpu_s} s of CPU time")),
            Signal::Abort => limit(format!("compiling it needs more than {memory_mib} MiB of memory")),
            Signal::Kill => limit(format!(
                "the compiler was killed: more than {cpu_s} s of CPU time, or no memory left on the server"
            )),
            Signal::Other(number) => {
                refused(Code::CompileFailed, format!("the compiler crashed on this module (signal {number})"))
            }
        };
    }
    if status.code() == Some(EXIT_BROKEN.into()) {
        return Err(CompileError::Broken("it could not limit itself or start its engine".into()));
    }
    match answer::decode(&bytes) {
        Some(Ok(received)) if status.success() => Ok(received),
        Some(Err(violations)) if status.success() => Err(CompileError::Refused(violations)),
        _ => refused(Code::CompileFailed, format!("the compiler gave no readable answer ({status})")),
    }
}

/// Feeds a child its module and takes its answer. Whoever drops this future kills the child.
async fn attend(mut child: Child, module: &[u8], deadline: Duration) -> std::io::Result<End> {
    let missing = || std::io::Error::other("the child has no pipes");
    let mut stdin = child.stdin.take().ok_or_else(missing)?;
    let stdout = child.stdout.take().ok_or_else(missing)?;
    let talk = async {
        let feed = async {
            // A child that ends early breaks the pipe; its status says why.
            let _ = stdin.write_all(module).await;
            drop(stdin);
        };
        let mut answer = Vec::new();
        let most = (HEAD_BYTES + MAX_ARTIFACT_BYTES) as u64;
        let mut bounded = stdout.take(most + 1);
        let ((), read) = tokio::join!(feed, bounded.read_to_end(&mut answer));
        read?;
        if answer.len() as u64 > most {
            return Ok::<End, std::io::Error>(End::Flooded);
        }
        Ok(End::Exited(answer, child.wait().await?))
    };
    let end = tokio::time::timeout(deadline, talk).await.unwrap_or(Ok(End::Late))?;
    if !matches!(end, End::Exited(..)) {
        child.kill().await?;
    }
    Ok(end)
}

/// The signals that say something.
enum Signal {
    /// `SIGXCPU`.
    Cpu,
    /// `SIGABRT`: how Rust ends where memory cannot be had.
    Abort,
    /// `SIGKILL`: the hard limit of CPU time, or the system's.
    Kill,
    Other(i32),
}

#[cfg(unix)]
fn signal_of(status: ExitStatus) -> Option<Signal> {
    use std::os::unix::process::ExitStatusExt as _;

    use rustix::process::Signal as System;

    let known = [(System::XCPU, Signal::Cpu), (System::ABORT, Signal::Abort), (System::KILL, Signal::Kill)];
    let number = status.signal()?;
    let known = known.into_iter().find(|(system, _)| system.as_raw() == number);
    Some(known.map_or(Signal::Other(number), |(_, signal)| signal))
}

#[cfg(not(unix))]
fn signal_of(_status: ExitStatus) -> Option<Signal> {
    None
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;

    /// A compiler whose program is a script: every way in which a child can end, made on purpose.
    fn script(text: &str, deadline_ms: u64) -> (tempfile::TempDir, ChildCompiler) {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("child");
        // Written by another process: a file that this one has open for writing, and so every child that it forks at that
        // moment, cannot be run.
        let write = r#"printf '#!/bin/sh\n%s\n' "$1" > "$0" && chmod 700 "$0""#;
        let written = std::process::Command::new("/bin/sh").arg("-c").arg(write).arg(&program).arg(text).status();
        assert!(written.unwrap().success());
        let limits = CompileLimits { deadline_ms, ..CompileLimits::default() };
        (folder, ChildCompiler::new(program, limits))
    }

    async fn end_of(text: &str, deadline_ms: u64) -> CompileError {
        let (_folder, compiler) = script(text, deadline_ms);
        compiler.compile(b"module", Purpose::Upload).await.err().expect(text)
    }

    #[tokio::test]
    async fn every_end_of_a_child_is_told() {
        let long = 60_000;
        let cases = [
            ("exec sleep 600", 100, Code::CompileLimit, "longer than 100 ms"),
            // The shell ends before its child does, which holds the pipe: the deadline is for both.
            ("sleep 5 & exit 0", 100, Code::CompileLimit, "longer than 100 ms"),
            ("kill -XCPU $$", long, Code::CompileLimit, "more than 3 s of CPU time"),
            ("kill -ABRT $$", long, Code::CompileLimit, "more than 512 MiB"),
            ("kill -KILL $$", long, Code::CompileLimit, "killed"),
            ("kill -SEGV $$", long, Code::CompileFailed, "signal 11"),
            ("head -c 20000000 /dev/zero; exec sleep 600", long, Code::CompileLimit, "more than 16777216 bytes"),
            ("echo garbage", long, Code::CompileFailed, "no readable answer"),
            ("exit 0", long, Code::CompileFailed, "no readable answer"),
            ("exit 101", long, Code::CompileFailed, "101"),
            // An answer counts only from a child that ended well.
            (r#"printf 'R[{"code":"trial_fault","message":"m"}]'; exit 1"#, long, Code::CompileFailed, "no readable"),
            (
                r#"cat >&2; printf 'R[{"code":"trial_fault","message":"it trapped"}]'"#,
                long,
                Code::TrialFault,
                "trapped",
            ),
        ];
        for (text, deadline_ms, code, words) in cases {
            match end_of(text, deadline_ms).await {
                CompileError::Refused(violations) => {
                    assert_eq!(violations[0].code, code, "{text}: {violations:?}");
                    assert!(violations[0].message.contains(words), "{text}: {violations:?}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_compiler_that_cannot_run_is_no_fault_of_the_module() {
        assert!(matches!(end_of("exit 70", 60_000).await, CompileError::Broken(_)));
        let missing = ChildCompiler::new("/nowhere/tocsin".into(), CompileLimits::default());
        let error = missing.compile(b"module", Purpose::Upload).await.err().unwrap();
        assert!(matches!(&error, CompileError::Broken(text) if text.contains("/nowhere/tocsin")), "{error}");
    }

    #[tokio::test]
    async fn a_child_has_no_environment_but_what_it_is_given() {
        let (folder, compiler) = script("env > \"$(dirname \"$0\")/env\"; pwd >> \"$(dirname \"$0\")/env\"", 60_000);
        let _ = compiler.compile(b"module", Purpose::Upload).await;
        let seen = std::fs::read_to_string(folder.path().join("env")).unwrap();
        // The shell adds names of its own.
        let names: Vec<&str> = seen.lines().map(|line| line.split('=').next().unwrap()).collect();
        assert!(names.contains(&"MALLOC_ARENA_MAX") && names.contains(&"/"), "{seen}");
        assert!(!names.iter().any(|name| ["HOME", "CARGO", "CARGO_MANIFEST_DIR"].contains(name)), "{seen}");
    }

    #[tokio::test]
    async fn one_upload_too_many_is_turned_away_and_a_restore_is_not() {
        let (folder, compiler) = script("while [ ! -e \"$(dirname \"$0\")/go\" ]; do sleep 0.01; done", 60_000);
        let uploads = futures_util::future::join_all(
            (0..MAX_QUEUED_UPLOADS).map(|_| compiler.compile(b"module", Purpose::Upload)),
        );
        let others = async {
            tokio::task::yield_now().await;
            let turned_away = compiler.compile(b"module", Purpose::Upload).await.err().unwrap();
            assert!(matches!(turned_away, CompileError::Busy), "{turned_away}");
            std::fs::write(folder.path().join("go"), "").unwrap();
            compiler.compile(b"module", Purpose::Restore).await
        };
        let (uploads, restored) = tokio::join!(uploads, others);
        let judged = |result: &Result<Received, CompileError>| matches!(result, Err(CompileError::Refused(_)));
        assert!(uploads.iter().all(judged) && judged(&restored));
    }
}
