//! Hostile uploads to a running server: each is refused with its reason, the API answers meanwhile, and what is kept of
//! compiled rules is believed only if the server wrote it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tocsin_testdata::modules::{self, with_manifest};
use tokio_util::sync::CancellationToken;

use crate::server::{Server, wait_for};

/// Asserts that an upload was refused, and that one violation has a code and words.
#[track_caller]
fn check(name: &str, (status, problem): &(u16, Value), code: &str, words: &str) {
    assert_eq!(*status, 422, "{name}: {problem}");
    let violations = problem["violations"].as_array().unwrap();
    let found = violations.iter().any(|v| v["code"] == code && v["message"].as_str().unwrap().contains(words));
    assert!(found, "{name}: no {code} with {words:?} in {problem}");
}

/// Runs `work` while another thread asks for the list of rules without pause; how often it was answered.
fn while_polling(server: &Server, work: impl FnOnce()) -> usize {
    let (done, answered) = (CancellationToken::new(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.is_cancelled() {
                assert!(server.get("/api/v1/rules")["rules"].is_array());
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
        // Also where the work panics: the scope waits for its thread first.
        let _done = done.clone().drop_guard();
        work();
    });
    answered.into_inner()
}

#[test]
fn compile_bombs_are_refused_with_their_reasons_and_the_api_answers_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--feed", "none"]);
    let answered = while_polling(&server, || {
        for (name, module, words) in modules::compile_bombs() {
            check(name, &server.upload(module), "limit", words);
        }
        // Within the validator's limits: what the child's limits are for.
        for (name, module) in modules::heavy_modules() {
            let (status, answer) = server.upload(module);
            let first = &answer["violations"][0]["code"];
            let is_refusal = first == "compile_limit" || first == "trial_fault";
            assert!(status == 201 || status == 409 || status == 422 && is_refusal, "{name}: {status} {answer}");
        }
    });
    assert!(answered > 0);
    assert_eq!(server.upload(always()).0, 201, "an honest rule is taken afterwards");
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_child_over_its_limits_is_killed_and_the_upload_refused() {
    let heavy = || modules::heavy_modules().swap_remove(0).1;
    for (option, value, words) in [
        ("--compile-deadline-ms", "1", "took longer than 1 ms"),
        ("--compile-memory-mib", "160", "more than 160 MiB of memory"),
        ("--compile-cpu-s", "1", "more than 1 s of CPU time"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        // A slow machine must meet the limit that is tested, not another.
        let patient = ["--feed", "none", "--compile-deadline-ms", "60000", "--compile-memory-mib", "4096"];
        let arguments: Vec<&str> =
            patient.chunks(2).filter(|pair| pair[0] != option).flatten().copied().chain([option, value]).collect();
        let server = Server::start(folder.path(), &arguments);
        check(option, &server.upload(heavy()), "compile_limit", words);
        assert_eq!(server.stop(), Some(0));
    }
}

#[test]
fn a_rule_that_faults_on_a_golden_tick_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--feed", "none"]);
    let evaluate = |body: &str| {
        let head = r#"(func (export "evaluate") (param $tick i32) (param i32 i32 i32) (result i32)"#;
        with_manifest(modules::MANIFEST, &format!("{} {head} {body})", modules::GOOD_MEMORY))
    };
    let cases = [
        ("endless", "(loop $again (br $again)) (i32.const 0)", "burnt more than 100000 fuel"),
        ("a trap", "(unreachable)", "it trapped"),
        ("a code that means nothing", "(i32.const 64)", "code 64"),
        (
            "a trap at huge prices only",
            "(i32.and (i32.const 0) (i32.trunc_f64_s (f64.load (local.get $tick))))",
            "price 1e308",
        ),
    ];
    for (name, text, words) in cases {
        check(name, &server.upload(evaluate(text)), "trial_fault", words);
    }
    assert_eq!(server.get("/api/v1/rules")["rules"].as_array().unwrap().len(), 2, "nothing but the built-in rules");
}

/// A rule of users that fires at every tick.
fn always() -> Vec<u8> {
    let manifest = r#"{"abi":1,"name":"always","version":"1.0.0"}"#;
    let evaluate = r#"(func (export "evaluate") (param i32 i32 i32 i32) (result i32) (i32.const 1))"#;
    with_manifest(manifest, &format!("{} {evaluate}", modules::GOOD_MEMORY))
}

/// The files of compiled rules that hold a kept artifact.
fn kept(data_dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(data_dir.join("compiled")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn kept_artifacts_are_used_and_tampered_ones_are_compiled_again() {
    let folder = tempfile::tempdir().unwrap();
    let first = Server::start(folder.path(), &["--feed", "none"]);
    let builtins = kept(folder.path());
    assert_eq!(first.upload(always()).0, 201);
    let file = kept(folder.path()).into_iter().find(|path| !builtins.contains(path)).unwrap();
    let alert = json!({"user_id": 1, "symbols": ["AAPL"], "rule": "always"});
    assert_eq!(first.post("/api/v1/alerts", &alert).0, 201);
    assert_eq!(first.stop(), Some(0));
    let good = std::fs::read(&file).unwrap();

    // The compiler cannot work, and nothing needs it.
    let no_compiler = ["--feed", "none", "--compile-memory-mib", "1"];
    let kept_only = Server::start(folder.path(), &no_compiler);
    assert_eq!(kept_only.stop(), Some(0));

    let mut tampered = good.clone();
    *tampered.last_mut().unwrap() ^= 1;
    std::fs::write(&file, &tampered).unwrap();
    assert!(Server::try_start(folder.path(), &no_compiler).is_none(), "it ran tampered machine code");

    let again = Server::start(folder.path(), &["--tickers", "AAPL", "--simulated-rate", "200"]);
    wait_for("the alert to fire", || !again.firings().is_empty());
    assert!(std::fs::read(&file).unwrap() == good, "compiled again and kept");
    assert_eq!(again.stop(), Some(0));
}
