//! `tocsin alert`: create, list, show, release and delete alerts, and read their firings and faults.

use clap::Subcommand;
use reqwest::Url;
use serde_json::{Map, Value, json};

use super::client::Client;
use super::failure::Failure;
use super::output::Output;
use super::{alert_view, watch};

pub(super) const LONG_ABOUT: &str = "An alert has a rule evaluated on every tick of some symbols, from now on. It fires \
    once for each symbol, or each time with --every.";

/// Create, list and delete alerts, and see them fire
#[derive(Subcommand, Clone, Debug)]
#[command(after_help = "\
Examples:
  tocsin alert create --user 1 --symbol AAPL --rule above --param target=150
  tocsin alert list --user 1
  tocsin alert watch                         a line for each firing, as it happens")]
pub enum AlertCommand {
    /// Create an alert
    Create(CreateArgs),
    /// List alerts
    #[command(after_help = "Examples:\n  tocsin alert list\n  tocsin alert list --user 1 --active")]
    List {
        /// Only those of one user
        #[arg(long)]
        user: Option<i32>,
        /// Only those that can still fire
        #[arg(long)]
        active: bool,
    },
    /// Show an alert
    #[command(after_help = "Examples:\n  tocsin alert show 1")]
    Show {
        /// The alert's number
        id: i64,
    },
    /// End an alert; its firings stay
    #[command(after_help = "Examples:\n  tocsin alert delete 1")]
    Delete {
        /// The alert's number
        id: i64,
    },
    /// Release an alert from quarantine: it is evaluated again, on probe
    #[command(after_help = "\
Examples:
  tocsin alert release 1
  tocsin alert release 1 --symbol AAPL

One good evaluation ends the probe; one fault quarantines the alert again.")]
    Release {
        /// The alert's number
        id: i64,
        /// Only on this instrument [default: all that are quarantined]
        #[arg(long)]
        symbol: Option<String>,
    },
    /// List an alert's faults: what its rule did instead of answering
    #[command(after_help = "\
Examples:
  tocsin alert faults 1
  tocsin alert faults 1 --json | jq -r '.faults[-1].id'

GET /api/v1/faults/ID/bundle gives what `tocsin rule reproduce` needs to see a fault again.")]
    Faults {
        /// The alert's number
        id: i64,
    },
    /// List an alert's firings, with their evidence
    #[command(
        after_help = "Examples:\n  tocsin alert firings 1\n  tocsin alert firings 1 --json | jq '.firings[0].evidence'"
    )]
    Firings {
        /// The alert's number
        id: i64,
    },
    /// Write a line for each firing as it happens, until interrupted
    #[command(after_help = "\
Examples:
  tocsin alert watch                         the firings of all alerts
  tocsin alert watch 1                       those of one
  tocsin alert watch --json --after ID       one JSON object a line, from behind a firing on

When the connection is lost it connects again and goes on behind the last firing.")]
    Watch {
        /// The alert's number [default: all alerts]
        id: Option<i64>,
        /// The id of the last firing seen: begin behind it
        #[arg(long, value_name = "ID")]
        after: Option<String>,
    },
}

/// Create an alert
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tocsin alert create --user 1 --symbol AAPL --symbol MSFT --rule above --param target=150
  tocsin alert create --user 1 --symbol AAPL --rule percent-move \\
      --param percent=2.5 --param direction=up --every
  tocsin alert create --user 1 --symbol AAPL --rule percent-move --params '{\"percent\":2.5}'

`tocsin rule show NAME` lists a rule's params.")]
pub struct CreateArgs {
    /// The number of the user, from 1; users need not be created first
    #[arg(long, value_name = "N")]
    user: i32,

    /// An instrument to watch; may be repeated
    #[arg(long = "symbol", required = true, value_name = "SYMBOL")]
    symbols: Vec<String>,

    /// The rule that decides
    #[arg(long, value_name = "NAME")]
    rule: String,

    /// The rule's version [default: the newest]
    #[arg(long)]
    version: Option<String>,

    /// A param of the rule; may be repeated. The value is JSON, or else a string
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = parse_param)]
    param: Vec<(String, Value)>,

    /// All params as a JSON object; --param overrides
    #[arg(long, value_name = "JSON", value_parser = parse_params)]
    params: Option<Map<String, Value>>,

    /// Fire each time, not once for each symbol
    #[arg(long)]
    every: bool,
}

pub(super) async fn run(command: AlertCommand, server: &Url, output: Output) -> Result<(), Failure> {
    let client = Client::new(server)?;
    match command {
        AlertCommand::Create(args) => {
            let alert = client.post(&["alerts"], &args.body()).await?;
            output.result(&alert, || alert_view::show(&alert))?;
            if let Some(note) = alert_view::unserved(&alert) {
                output.remark(&note);
            }
            Ok(())
        }
        AlertCommand::List { user, active } => {
            let mut query = vec![("active_only", active.to_string())];
            query.extend(user.map(|user| ("user_id", user.to_string())));
            let alerts = client.list(&["alerts"], &query, "alerts").await?;
            output.result(&json!({ "alerts": alerts }), || alert_view::list(&alerts))
        }
        AlertCommand::Show { id } => {
            let alert = client.get(&["alerts", &id.to_string()]).await?;
            output.result(&alert, || alert_view::show(&alert))
        }
        AlertCommand::Delete { id } => {
            client.delete(&["alerts", &id.to_string()]).await?;
            output.result(&json!({ "id": id, "deleted": true }), || format!("alert {id} deleted"))
        }
        AlertCommand::Release { id, symbol } => {
            let body = symbol.map_or_else(|| json!({}), |symbol| json!({ "symbol": symbol }));
            let alert = client.post(&["alerts", &id.to_string(), "release"], &body).await?;
            output.result(&alert, || alert_view::show(&alert))
        }
        AlertCommand::Faults { id } => {
            let faults = client.list(&["alerts", &id.to_string(), "faults"], &[], "faults").await?;
            output.result(&json!({ "faults": faults }), || alert_view::faults(&faults))
        }
        AlertCommand::Firings { id } => {
            let firings = client.list(&["alerts", &id.to_string(), "firings"], &[], "firings").await?;
            output.result(&json!({ "firings": firings }), || alert_view::firings(&firings))
        }
        AlertCommand::Watch { id, after } => watch::run(&client, id, after, output).await,
    }
}

impl CreateArgs {
    /// The request's body.
    fn body(self) -> Value {
        let mut params = self.params.unwrap_or_default();
        params.extend(self.param);
        let mut body = json!({
            "user_id": self.user,
            "symbols": self.symbols,
            "rule": self.rule,
            "params": params,
            "lifecycle": { "repeat": if self.every { "every" } else { "once" } },
        });
        if let Some(version) = self.version {
            body["version"] = version.into();
        }
        body
    }
}

fn parse_param(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("give a name and a value, such as percent=2.5")?;
    if name.is_empty() {
        return Err("the name before the = is missing".into());
    }
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok((name.to_owned(), value))
}

fn parse_params(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("not a JSON object such as {{\"percent\":2.5}}: {error}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        args: CreateArgs,
    }

    #[track_caller]
    fn check(args: &[&str], expect: &Value) {
        let minimal = ["create", "--user", "1", "--symbol", "AAPL", "--rule", "above"];
        let body = Typed::try_parse_from(minimal.iter().chain(args)).unwrap().args.body();
        let mut full = json!({
            "user_id": 1, "symbols": ["AAPL"], "rule": "above", "params": {}, "lifecycle": { "repeat": "once" },
        });
        full.as_object_mut().unwrap().extend(expect.as_object().unwrap().clone());
        assert_eq!(body, full);
    }

    #[test]
    fn params_are_json_or_else_strings() {
        check(&["--param", "target=150"], &json!({ "params": { "target": 150 } }));
        check(&["--param", "a=2.5", "--param", "b=up"], &json!({ "params": { "a": 2.5, "b": "up" } }));
        check(&["--param", "a=true", "--param", "b=a=b"], &json!({ "params": { "a": true, "b": "a=b" } }));
        check(&["--param", "a=\"1\"", "--param", "b="], &json!({ "params": { "a": "1", "b": "" } }));
        check(&["--param", "a=NaN"], &json!({ "params": { "a": "NaN" } }));
        check(&["--params", r#"{"a":1,"b":2}"#, "--param", "b=3"], &json!({ "params": { "a": 1, "b": 3 } }));
    }

    #[test]
    fn the_rest_goes_into_the_body_as_it_is() {
        check(&[], &json!({}));
        check(&["--symbol", "IC MARKETS:1"], &json!({ "symbols": ["AAPL", "IC MARKETS:1"] }));
        check(&["--version", "1.0.0", "--every"], &json!({ "version": "1.0.0", "lifecycle": { "repeat": "every" } }));
    }

    #[test]
    fn params_without_a_name_or_of_another_type_are_refused() {
        for bad in ["percent", "=1", ""] {
            assert!(parse_param(bad).is_err(), "{bad:?}");
        }
        for bad in ["1", "[]", "{", "null", ""] {
            assert!(parse_params(bad).is_err(), "{bad:?}");
        }
    }
}
