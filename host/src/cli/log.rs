//! `tocsin log`: which log of ticks the server has, and going on with another one.

use clap::{Subcommand, ValueEnum};
use reqwest::Url;
use serde_json::{Value, json};

use super::client::Client;
use super::failure::Failure;
use super::output::Output;
use super::table::pairs;

pub(super) const LONG_ABOUT: &str = "Alerts, firings and checkpoints refer to offsets of one log: a Kafka topic, or the log \
    in the data folder. Where the server finds another one in its place, or one that has lost its last records, evaluation \
    halts, and `/health` says so: going on by itself, it would skip ticks or take new ones for old ones.\n\n\
    docs/operations.md, Another log, has the whole story.";

/// Show the log of ticks, and go on with another one
#[derive(Subcommand, Clone, Debug)]
#[command(after_help = "\
Examples:
  tocsin log show                            which log there is, and whether alerts refer to it
  tocsin log accept --from earliest          go on with a topic that was made anew")]
pub enum LogCommand {
    /// Show which log there is, and which one alerts refer to
    #[command(after_help = "Examples:\n  tocsin log show\n  tocsin log show --json | jq -r .found")]
    Show,
    /// Go on with the log that there is: alerts keep what they remember
    #[command(after_help = "\
Examples:
  tocsin log accept --from earliest          a topic that was made anew: evaluate all its ticks
  tocsin log accept --from end               another cluster: evaluate only ticks to come

With `earliest`, alerts may fire on ticks from before they were created. Of a log that is the same one and has lost its last
records, evaluation goes on where it was, or at the end.")]
    Accept {
        /// Where its evaluation begins
        #[arg(long, value_enum)]
        from: From,
        /// The identity of the log, as `tocsin log show` names it [default: the one that is there]
        #[arg(long, value_name = "IDENTITY")]
        log: Option<String>,
    },
}

/// Where the evaluation of a log begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum From {
    /// At the earliest tick that it has.
    Earliest,
    /// At its end: ticks that it has already are not evaluated.
    End,
}

pub(super) async fn run(command: LogCommand, server: &Url, output: Output) -> Result<(), Failure> {
    let client = Client::new(server)?;
    match command {
        LogCommand::Show => {
            let report = client.get(&["log"]).await?;
            output.result(&report, || shown(&report))
        }
        LogCommand::Accept { from, log } => {
            let log = match log {
                Some(log) => log,
                None => text(&client.get(&["log"]).await?["found"]),
            };
            let from = match from {
                From::Earliest => "earliest",
                From::End => "end",
            };
            let accepted = client.post(&["log", "accept"], &json!({ "log": log, "from": from })).await?;
            output.result(&accepted, || self::accepted(&accepted, from))
        }
    }
}

fn shown(report: &Value) -> String {
    let expected = &report["expected"];
    let state = match (expected.is_null(), expected["identity"] == report["found"]) {
        (true, _) => "no tick was evaluated yet",
        (false, true) => "alerts refer to it",
        (false, false) => "alerts refer to another one: see `tocsin log accept --help`",
    };
    let mut lines = vec![("found", text(&report["found"])), ("expected", text(&expected["identity"]))];
    if !expected.is_null() {
        lines.push(("since", text(&expected["accepted_at"])));
    }
    lines.push(("state", state.into()));
    pairs(&lines)
}

fn accepted(accepted: &Value, from: &str) -> String {
    let moved = accepted["moved_bindings"].as_u64().unwrap_or(0);
    let moved = match moved {
        0 => String::new(),
        moved => format!("; {moved} live symbols of alerts wait for their first tick, since their partition is gone"),
    };
    format!("evaluation goes on with {} from its {from} on{moved}", text(&accepted["log"]["identity"]))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_whether_alerts_refer_to_the_log() {
        let log =
            |identity: &str| json!({"identity": identity, "generation": 0, "accepted_at": "2026-01-01T00:00:00Z"});
        for (expected, state) in [
            (Value::Null, "no tick was evaluated yet"),
            (log("kafka:a"), "alerts refer to it"),
            (log("kafka:b"), "alerts refer to another one"),
        ] {
            let shown = shown(&json!({"expected": expected, "found": "kafka:a"}));
            assert!(shown.contains("kafka:a") && shown.contains(state), "{shown}");
        }
    }

    #[test]
    fn an_accepted_log_is_reported_with_what_waits() {
        let answer = |moved: u64| json!({"log": {"identity": "kafka:a"}, "moved_bindings": moved});
        assert_eq!(accepted(&answer(0), "end"), "evaluation goes on with kafka:a from its end on");
        assert!(accepted(&answer(2), "earliest").contains("; 2 live symbols of alerts wait"));
    }
}
