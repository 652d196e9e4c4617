//! The command line: what it understands, how it explains itself, and how it meets servers.

mod pack;
mod server;

use std::path::PathBuf;

use clap::CommandFactory as _;
use serde_json::{Value, json};
use tocsin_engine::builtin;
use tocsin_engine::limits::MAX_MODULE_BYTES;

use super::failure::Failure;
use super::{Cli, Command, Typed, alert_view, rule_check, rule_reproduce, rule_view, usage_failure};

fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(["tocsin"].iter().chain(args).map(Into::into).collect())
}

#[test]
fn clap_finds_no_fault() {
    Typed::command().debug_assert();
}

#[test]
fn without_a_command_it_serves() {
    assert!(matches!(parse(&[]).unwrap().command, Command::Serve(_)));
    assert!(matches!(parse(&["serve"]).unwrap().command, Command::Serve(_)));
    let cli = parse(&["rule", "list", "--json", "--server", "http://10.0.0.1:1/tocsin"]).unwrap();
    assert!(cli.global.json);
    assert_eq!(cli.global.server.as_str(), "http://10.0.0.1:1/tocsin");
}

#[test]
fn the_options_of_serve_need_no_word_before_them() {
    for (args, port) in [
        (&["--port", "0"][..], 0),
        (&["--port=1", "--feed", "none"], 1),
        (&["--json", "--port", "2"], 2),
        (&["--server", "http://10.0.0.1:1", "--port", "3"], 3),
        (&["--server=http://10.0.0.1:1", "--json", "--port", "4"], 4),
        (&["--json", "serve", "--port", "5"], 5),
    ] {
        let Command::Serve(serve) = parse(args).unwrap().command else { panic!("{args:?}") };
        assert_eq!(serve.port, port, "{args:?}");
    }
    // The usage names the missing argument.
    for bad in [&["--prot", "0"][..], &["--port", "0", "rule", "list"], &["-p", "0"]] {
        let error = parse(bad).err().unwrap_or_else(|| panic!("{bad:?} is understood"));
        assert!(error.to_string().contains("Usage: tocsin serve"), "{error}");
    }
    let no_value = parse(&["--server"]).err().unwrap().to_string();
    assert!(no_value.contains("a value is required for '--server <URL>'"), "{no_value}");
    for help in ["--help", "-h"] {
        assert!(parse(&[help]).err().unwrap().to_string().contains("Commands:"));
        assert!(parse(&["--port", "0", help]).err().unwrap().to_string().contains("--grpc-port"));
    }
    for version in ["--version", "-V"] {
        assert_eq!(parse(&[version]).err().unwrap().exit_code(), 0);
    }
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    for bad in [
        &["nonsense"][..],
        &["rule"],
        &["rule", "check"],
        &["alert", "create", "--user", "1", "--rule", "above"],
        &["alert", "create", "--user", "x", "--symbol", "A", "--rule", "above"],
        &["alert", "create", "--user", "1", "--symbol", "A", "--rule", "above", "--param", "target"],
        &["alert", "show", "first"],
        &["alert", "release"],
        &["alert", "release", "1", "--symbol"],
        &["alert", "faults", "x"],
        &["rule", "reproduce"],
        &["rule", "promote", "my-rule"],
        &["rule", "promote", "my-rule", "2.0.0", "--from"],
        &["rule", "cancel-promotion", "my-rule"],
        &["serve", "--waking", "naive"],
        &["rule", "list", "--server", "ftp://127.0.0.1"],
        &["rule", "list", "--server", "https://127.0.0.1"],
        &["rule", "list", "--server", "127.0.0.1:8080"],
        &["feed"],
        &["feed", "--file", "f.csv", "--speed", "fast"],
        &["feed", "--file", "f.csv", "--trades-per-frame", "0"],
        &["feed", "--file", "f.csv", "--drop-every", "0"],
        &["feed", "--file", "f.csv", "--garbage-every", "0"],
        &["serve", "--workers", "0"],
        &["completions", "cmd"],
    ] {
        let error = parse(bad).err().unwrap_or_else(|| panic!("{bad:?} is understood"));
        assert_eq!(error.exit_code(), 2, "{bad:?}");
        let Value::String(detail) = usage_failure(&error).problem()["detail"].take() else { panic!("{bad:?}") };
        assert!(!detail.is_empty() && !detail.starts_with("error"), "{detail}");
        assert!(!detail.contains('\n') && !detail.contains("Usage:"), "{detail}");
    }
}

#[test]
fn every_command_teaches_by_examples() {
    fn visit(command: &clap::Command, path: &str) {
        let name = format!("{path} {}", command.get_name());
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(after.contains("Examples:\n  tocsin"), "{name}");
        assert!(command.get_about().is_some(), "{name}");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{name} {}", argument.get_id());
        }
        let shown = command.get_subcommands().filter(|inner| !inner.is_hide_set());
        shown.for_each(|inner| visit(inner, &name));
    }
    visit(&Typed::command(), "");
}

#[test]
fn the_help() {
    // The width of a terminal must not decide.
    let help = |path: &[&str]| {
        let mut command = Typed::command().term_width(100);
        command.build();
        let command = path.iter().fold(&mut command, |command, name| command.find_subcommand_mut(name).unwrap());
        // What the environment of the tests holds must not decide either.
        command.clone().mut_args(|arg| arg.hide_env_values(true)).render_long_help().to_string()
    };
    insta::assert_snapshot!("help", help(&[]));
    insta::assert_snapshot!("help_rule", help(&["rule"]));
    insta::assert_snapshot!("help_alert", help(&["alert"]));
    insta::assert_snapshot!("help_alert_create", help(&["alert", "create"]));
    insta::assert_snapshot!("help_feed", help(&["feed"]));
}

/// A rule with params of all kinds and a loop, so that it is metered.
fn metered() -> Vec<u8> {
    let manifest = json!({
        "abi": 1, "name": "moves", "version": "0.1.0", "description": "Moves\u{1b}[31m a lot.", "author": "A test",
        "params": {
            "schema": {
                "type": "object", "additionalProperties": false, "required": ["direction", "level"],
                "properties": {
                    "percent": { "type": "number", "minimum": 0.01, "maximum": 1000, "default": 5, "x-unit": "%",
                                 "description": "The least move that fires." },
                    "direction": { "type": "string", "enum": ["up", "down"] },
                    "level": { "type": "number", "exclusiveMinimum": 0 },
                },
            },
            "layout": [
                { "name": "percent", "type": "f64", "offset": 0 },
                { "name": "level", "type": "f64", "offset": 8 },
                { "name": "direction", "type": "enum", "offset": 16 },
            ],
            "size": 24,
        },
        "state": { "size": 8 }, "evidence": ["change", "reference"], "sleeps": false,
    });
    let manifest = manifest.to_string().replace('\\', "\\\\").replace('"', "\\\"");
    wat::parse_str(format!(
        "(module (memory (export \"memory\") 2)
           (func (export \"evaluate\") (param i32 i32 i32 i32) (result i32)
             (loop $turn (br_if $turn (i32.const 0)))
             (i32.const 0))
           (@custom \"tocsin.manifest\" \"{manifest}\"))"
    ))
    .unwrap()
}

#[test]
fn a_good_module_is_reported_in_full() {
    insta::assert_snapshot!("check_above", rule_check::check(builtin::ABOVE).unwrap().text());
    insta::assert_snapshot!("check_metered", rule_check::check(&metered()).unwrap().text());
    let json = rule_check::check(builtin::ABOVE).unwrap().json();
    assert_eq!((&json["name"], &json["metering"]["kind"]), (&json!("above"), &json!("certified")));
    let json = rule_check::check(&metered()).unwrap().json();
    assert_eq!((&json["metering"]["kind"], &json["memory_pages"]), (&json!("metered"), &json!(2)));
}

#[test]
fn a_bad_module_is_refused_with_every_violation() {
    let imports = wat::parse_str(r#"(module (import "env" "now" (func (result i64))))"#).unwrap();
    for (module, expect) in [
        (&b""[..], &["[format] the module is empty"][..]),
        (b"\x7fELF", &["[format] this is a native ELF file"]),
        (&vec![0; MAX_MODULE_BYTES + 1], &["[limit] the module is larger than the 1048576 bytes allowed"]),
        (&imports, &["[import]", "[export]", "[manifest]"]),
    ] {
        let Err(failure) = rule_check::check(module) else { panic!("{module:?} is a rule") };
        let text = failure.text();
        assert!(text.starts_with("error: the module is not a rule\n  ["), "{text}");
        assert!(expect.iter().all(|violation| text.contains(violation)), "{text}");
        let problem = failure.problem();
        let codes: Vec<_> = problem["violations"].as_array().unwrap().iter().map(|v| &v["code"]).collect();
        assert!(codes.iter().all(|code| code.is_string()), "{problem}");
    }
}

fn alert() -> Value {
    json!({
        "id": 7, "user_id": 1, "rule": "moves", "version": "0.1.0", "digest": "sha256:00",
        "params": { "percent": 2.5, "direction": "up" }, "lifecycle": { "repeat": "once" },
        "created_at": 1_700_000_000_123_i64,
        "bindings": [
            { "symbol": "AAPL", "status": "active" },
            { "symbol": "MSFT", "status": "quarantined", "reason": "out of fuel, 5 times in a row" },
        ],
    })
}

fn fault() -> Value {
    json!({
        "id": "23b243b1-d333-5a0a-ab7c-a6645259ff0d", "alert_id": 7, "symbol": "AAPL", "price": 151.25, "volume": 100,
        "timestamp": 1_700_000_000_123_i64, "partition": 3, "offset": 10, "rule": "moves", "version": "0.1.0",
        "digest": "sha256:00", "kind": "trap", "fault": "it trapped: integer divide by zero", "quarantined": true,
    })
}

fn firing() -> Value {
    json!({
        "id": "d1d624dd-a38f-56f1-a0d7-bb0476335c2a", "alert_id": 7, "symbol": "AAPL", "price": 151.25, "volume": 100,
        "timestamp": 1_700_000_000_123_i64, "partition": 3, "offset": 10, "rule": "moves", "version": "0.1.0",
        "digest": "sha256:00", "evidence": { "change": 2.75, "reference": 147.2 },
    })
}

#[test]
fn results_as_text() {
    insta::assert_snapshot!("alert_list", alert_view::list(&[alert()]));
    insta::assert_snapshot!("alert_show", alert_view::show(&alert()));
    insta::assert_snapshot!("alert_firings", alert_view::firings(&[firing()]));
    insta::assert_snapshot!("alert_faults", alert_view::faults(&[fault()]));
    insta::assert_snapshot!("alert_watch", alert_view::firing(&firing()));
    let rules = [builtin::ABOVE, &metered()].map(|module| rule_check::check(module).unwrap().json());
    insta::assert_snapshot!("rule_list", rule_view::list(&rules));
    insta::assert_snapshot!("rule_upload", rule_view::uploaded(&rules[0]));
}

#[test]
fn symbols_that_are_not_served_are_noted() {
    let note = alert_view::unserved(&json!({ "unserved": ["TYPO", "X"] })).unwrap();
    assert!(note.starts_with("note: TYPO, X: none of this server's tickers"), "{note}");
    assert_eq!(alert_view::unserved(&json!({ "unserved": [] })).or(alert_view::unserved(&alert())), None);
}

#[test]
fn whatever_a_server_answers_can_be_shown() {
    for odd in [json!(null), json!([]), json!({ "bindings": 1, "manifest": [], "params": "x", "evidence": [{}] })] {
        let many = [odd.clone()];
        let lists = [alert_view::list, alert_view::firings, alert_view::faults].map(|list| list(&many));
        let texts = lists.into_iter().chain([alert_view::show(&odd)]).collect::<Vec<_>>();
        assert!(texts.iter().all(|text| !text.is_empty()));
        assert!(!rule_view::show(&odd).is_empty() && !rule_view::list(&many).is_empty());
        assert!(Failure::Problem(odd).text().starts_with("error: "));
    }
}

/// A bundle of a rule that divides by its state, as the server writes it.
fn bundle() -> Value {
    use base64::Engine as _;
    let module = wat::parse_str(
        r#"(module (memory (export "memory") 1)
             (func (export "evaluate") (param i32 i32) (param $state i32) (param i32) (result i32)
               (i32.div_u (i32.const 0) (i32.load (local.get $state))))
             (@custom "tocsin.manifest" "{\"abi\":1,\"name\":\"divides\",\"version\":\"1.0.0\",\"state\":{\"size\":8}}"))"#,
    )
    .unwrap();
    let digest = tocsin_engine::domain::Digest::of(&module).to_string();
    let module = base64::engine::general_purpose::STANDARD.encode(module);
    json!({
        "format": 1, "alert_id": 7, "fuel": 100_000, "partition": 3, "offset": 10, "params": "", "params_json": {},
        "state": "0000000000000000",
        "rule": { "name": "divides", "version": "1.0.0", "digest": digest, "module": module },
        "tick": { "symbol": "AAPL", "price": 151.25, "volume": 1, "timestamp": 1, "conditions": u64::MAX },
        "fault": {
            "kind": "trap", "detail": "wasm trap: integer divide by zero", "text": "it trapped: integer divide by zero",
        },
    })
}

#[test]
fn a_fault_is_reproduced_from_its_bundle() {
    let seen = rule_reproduce::reproduce(bundle().to_string().as_bytes()).unwrap();
    let text = "divides 1.0.0 on AAPL at 151.25: the same fault again: it trapped: wasm trap: integer divide by zero";
    assert_eq!(seen.text(), text);
    assert_eq!((&seen.json()["reproduced"], &seen.json()["kind"]), (&json!(true), &json!("trap")));
}

#[test]
fn why_a_fault_is_not_reproduced_is_reported() {
    for (member, value, expect) in [
        ("/state", json!("0100000000000000"), "evaluated again, it held"),
        ("/fault/kind", json!("out_of_fuel"), "\n  fault: "),
        ("/fault", json!({ "kind": "stray_write", "detail": "" }), "evaluated again, it trapped"),
        ("/fuel", json!(5), "could burn 5 fuel"),
        ("/state", json!("00"), "state record has 1 bytes"),
        ("/state", json!("0"), "\n  state: "),
        ("/params", json!("xy"), "\n  params: "),
        ("/rule/module", json!("!"), "\n  rule.module: "),
        ("/rule/module", json!(""), "\n  rule.digest: the module's digest is "),
        ("/rule/digest", json!("sha256:0"), "\n  rule.digest: "),
        ("/rule/name", json!("X"), "\n  rule.name: "),
        ("/rule/version", json!("1"), "\n  rule.version: "),
        ("/tick/symbol", json!("🚀"), "\n  tick.symbol: "),
        ("/tick/timestamp", json!(-1), "\n  tick: "),
        ("/format", json!(2), "\n  format: 2: this program reads format 1"),
        ("", json!([]), "\n  format: "),
        ("/tick/price", json!(null), "\n  file: "),
    ] {
        let mut changed = bundle();
        *changed.pointer_mut(member).unwrap() = value;
        let failure = rule_reproduce::reproduce(changed.to_string().as_bytes()).unwrap_err();
        assert!(failure.text().contains(expect), "{member}: {}", failure.text());
    }
    for bytes in [&b""[..], b"{", b"\xff", &vec![b' '; rule_reproduce::MAX_BUNDLE_BYTES + 1]] {
        let text = rule_reproduce::reproduce(bytes).unwrap_err().text();
        assert!(text.starts_with("error: this is not the bundle of a fault\n  file: "), "{text}");
    }
}

#[test]
fn a_problem_is_printed_once() {
    let problem = json!({
        "title": "the request is wrong", "status": 400, "detail": "user_id: 0 is not …", "error": "user_id: 0 is not …",
        "violations": [{ "field": "user_id", "message": "0 is not …" }, { "code": "limit", "message": "too large" }],
    });
    let text = "error: the request is wrong\n  user_id: 0 is not …\n  [limit] too large";
    assert_eq!(Failure::Problem(problem).text(), text);
    let missing = json!({ "title": "not found", "status": 404, "detail": "there is no alert 9" });
    assert_eq!(Failure::Problem(missing).text(), "error: there is no alert 9");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let path = PathBuf::from("no/such/rule.wasm");
    let failure = super::rule::read_module(&path).unwrap_err();
    assert!(failure.text().starts_with("error: cannot read no/such/rule.wasm: "), "{}", failure.text());
}
