//! Where settings come from: the environment and a file `.env`, through the program itself.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::server::{BINARY, Server};

fn run(folder: &std::path::Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(BINARY);
    command
        .args(arguments)
        .current_dir(folder)
        .env("PORT", "0")
        .env("GRPC_PORT", "0")
        .envs(environment.iter().copied());
    command.output().unwrap()
}

#[test]
fn a_file_with_spaces_in_its_values_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let file = "\u{feff}# mine\r\nTICKERS=AAPL,IC MARKETS:1 # two\r\nexport TOCSIN_FEED=none\r\nTOCSIN_WORKERS=\r\n";
    std::fs::write(folder.path().join(".env"), file).unwrap();
    let server = Server::start_bare(folder.path());
    assert_eq!(server.get("/api/v1/tickers"), json!(["aapl", "ic markets:1"]));
    assert_eq!(server.get("/health")["feed"], "none");
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_file_with_a_bad_line_ends_the_start() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(".env"), "TOCSIN_FEED=none\ngarbage line\n").unwrap();
    for arguments in [&[][..], &["--json"]] {
        let ended = run(folder.path(), arguments, &[]);
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{said}");
        assert!(said.contains(".env: line 2: ") && said.contains("NAME=value"), "{said}");
        let parsed = serde_json::from_str::<Value>(&said);
        assert_eq!(parsed.is_ok(), !arguments.is_empty(), "{said}");
    }
    assert!(!folder.path().join("tocsin-data").exists(), "nothing was begun");
    assert_eq!(run(folder.path(), &["--help"], &[]).status.code(), Some(0), "help is to be had all the same");
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let folder = tempfile::tempdir().unwrap();
    let empty =
        [("GRPC_PORT", ""), ("TICKERS", ""), ("FINNHUB_URL", ""), ("TOCSIN_WORKERS", ""), ("TOCSIN_SERVER", "")];
    // The address is what is wrong, as the last thing that is looked at before anything is begun.
    let ended = run(folder.path(), &["--bind", "0.0.0.0"], &empty);
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.code() == Some(1) && said.contains("--bind 0.0.0.0"), "{said}");
    let ended = run(folder.path(), &["--workers", "0"], &[]);
    assert_eq!(ended.status.code(), Some(2), "{}", String::from_utf8_lossy(&ended.stderr));
}
