//! `tocsin rule`: check a module, attach its manifest and reproduce a fault offline; upload a module, move alerts to it, list
//! and show what the server has.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;
use reqwest::{StatusCode, Url};
use serde_json::{Value, json};
use tocsin_engine::limits::MAX_MODULE_BYTES;

use super::client::Client;
use super::failure::Failure;
use super::output::Output;
use super::rule_pack::PackArgs;
use super::{rule_check, rule_pack, rule_reproduce, rule_view};

/// How long a promotion may take: a million states are migrated in some minutes.
const PROMOTION_TIMEOUT: Duration = Duration::from_secs(600);

pub(super) const LONG_ABOUT: &str = "A rule decides when an alert fires. It is a WebAssembly module with a name, a \
    version and params; `above` and `below` are built in.\n\n\
    docs/write-a-rule.md leads from an empty folder to a rule that fires.";

/// Check, pack, upload, promote and list rules
#[derive(Subcommand, Clone, Debug)]
#[command(after_help = "\
Examples:
  tocsin rule check my_rule.wasm
  tocsin rule pack my_rule.wasm --manifest my_rule.json
  tocsin rule upload my_rule.wasm
  tocsin rule show percent-move              its params, with defaults and bounds")]
pub enum RuleCommand {
    /// Validate a module without a server, and print all about it
    #[command(after_help = "\
Examples:
  tocsin rule check my_rule.wasm
  tocsin rule check --json my_rule.wasm | jq .metering

Certified: the rule has no loops and no recursion, so its worst cost is known and it runs without a meter.
Metered: each evaluation has a budget of fuel, and an evaluation that burns more is a fault of its alert.
A module that is no rule: every violation is listed, and the exit status is 1.")]
    Check {
        /// The module, a .wasm file
        file: PathBuf,
    },
    /// Attach a manifest to a module, for compilers that cannot
    #[command(after_help = "\
Examples:
  tocsin rule pack my_rule.wasm --manifest my_rule.json
  tocsin rule pack bare.wasm --manifest my_rule.json --out my_rule.wasm

The result is checked as `tocsin rule check` does, and written only if it is a rule. docs/other-languages.md shows rules
in AssemblyScript, C, WebAssembly text and Zig that are packed so.")]
    Pack(PackArgs),
    /// Give a module to the server
    #[command(after_help = "\
Examples:
  tocsin rule upload my_rule.wasm

The same bytes again change nothing. A version never changes: to change a rule, raise the version in its manifest.")]
    Upload {
        /// The module, a .wasm file
        file: PathBuf,
    },
    /// Move alerts of other versions of a rule to one version, with their states
    #[command(after_help = "\
Examples:
  tocsin rule promote my-rule 2.0.0
  tocsin rule promote my-rule 2.0.0 --from 1.1.0
  tocsin rule promote my-rule 2.0.0 --reset-state

All alerts move, or none: if the params of one do not fit the version's schema, or the version cannot take its state over,
everything stays as it is. No tick is lost or evaluated twice.")]
    Promote {
        /// The rule's name
        name: String,
        /// The version that alerts move to
        version: String,
        /// Only alerts of this version [default: those of all others]
        #[arg(long, value_name = "VERSION")]
        from: Option<String>,
        /// Where the version takes no states of an older one over, or cannot migrate one, let them begin at zero
        #[arg(long)]
        reset_state: bool,
    },
    /// Cancel the promotion to a version that is under way
    #[command(after_help = "\
Examples:
  tocsin rule cancel-promotion my-rule 2.0.0

A promotion waits for evaluators up to 30 seconds; `problems` of GET /health names one that takes longer than 5. Its alerts
stay on the versions that they are on, and no tick is lost or evaluated twice. `tocsin rule promote` ends with an error.")]
    CancelPromotion {
        /// The rule's name
        name: String,
        /// The version that alerts are moving to
        version: String,
    },
    /// See a fault again from its bundle, without a server
    #[command(after_help = "\
Examples:
  tocsin alert faults 1                      the ids of an alert's faults
  curl -so bundle.json http://127.0.0.1:8080/api/v1/faults/ID/bundle
  tocsin rule reproduce bundle.json

Exit status: 0 if the fault is the same, 1 if the result differs, which is printed, or if the file is not a bundle.")]
    Reproduce {
        /// The bundle, a .json file
        bundle: PathBuf,
    },
    /// List the server's rules, each in its newest version
    #[command(after_help = "Examples:\n  tocsin rule list\n  tocsin rule list --json | jq -r '.rules[].name'")]
    List,
    /// Show a rule and its params
    #[command(after_help = "Examples:\n  tocsin rule show above\n  tocsin rule show above --version 1.0.0")]
    Show {
        /// The rule's name
        name: String,
        /// One of its versions [default: the newest]
        #[arg(long)]
        version: Option<String>,
    },
}

pub(super) async fn run(command: RuleCommand, server: &Url, output: Output) -> Result<(), Failure> {
    match command {
        RuleCommand::Check { file } => {
            let report = rule_check::check(&read_module(&file)?)?;
            output.result(&report.json(), || report.text())
        }
        RuleCommand::Pack(args) => {
            let packed = rule_pack::pack(&args)?;
            output.result(&packed.json(), || packed.text())
        }
        RuleCommand::Reproduce { bundle } => {
            let seen = rule_reproduce::reproduce(&read_at_most(&bundle, rule_reproduce::MAX_BUNDLE_BYTES)?)?;
            output.result(&seen.json(), || seen.text())
        }
        RuleCommand::Upload { file } => {
            let rule = upload(&Client::new(server)?, read_module(&file)?).await?;
            output.result(&rule, || rule_view::uploaded(&rule))
        }
        RuleCommand::Promote { name, version, from, reset_state } => {
            let mut body = json!({ "reset_state": reset_state });
            if let Some(from) = from {
                body["from"] = from.into();
            }
            let path = ["rules", &name, "versions", &version, "promote"];
            let promoted = Client::with_timeout(server, PROMOTION_TIMEOUT)?.post(&path, &body).await?;
            output.result(&promoted, || rule_view::promoted(&promoted))
        }
        RuleCommand::CancelPromotion { name, version } => {
            let path = ["rules", &name, "versions", &version, "promote"];
            let cancelled = Client::new(server)?.delete(&path).await?;
            output.result(&cancelled, || rule_view::cancelled(&cancelled))
        }
        RuleCommand::List => {
            let rules = Client::new(server)?.list(&["rules"], &[], "rules").await?;
            output.result(&json!({ "rules": rules }), || rule_view::list(&rules))
        }
        RuleCommand::Show { name, version } => {
            let client = Client::new(server)?;
            let rule = match &version {
                Some(version) => client.get(&["rules", &name, "versions", version]).await,
                None => client.get(&["rules", &name]).await,
            };
            let rule = rule.map_err(|failure| failure.advise(StatusCode::NOT_FOUND, "see `tocsin rule list`"))?;
            output.result(&rule, || rule_view::show(&rule))
        }
    }
}

/// The stored version, with a member `created` that is false if the server had it before.
pub(super) async fn upload(client: &Client, module: Vec<u8>) -> Result<Value, Failure> {
    let (mut rule, created) = client.upload(module).await?;
    if let Some(members) = rule.as_object_mut() {
        members.insert("created".into(), created.into());
    }
    Ok(rule)
}

/// Reads a module.
pub(super) fn read_module(file: &Path) -> Result<Vec<u8>, Failure> {
    read_at_most(file, MAX_MODULE_BYTES)
}

/// Reads a file; of one that is too large no more than shows that it is.
pub(super) fn read_at_most(file: &Path, max_bytes: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|open| open.take(max_bytes as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|error| Failure::Local(format!("cannot read {}: {error}", file.display())))?;
    Ok(bytes)
}
