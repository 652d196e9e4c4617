//! The command line of `tocsin`: all commands but `serve`. Everything that concerns a server's rules
//! and alerts goes over its public REST API, so the CLI can do what any client can.
//!
//! Results go to standard output, failures to standard error; [`output`] is the only place that writes to either.

mod alert;
mod alert_view;
mod client;
mod failure;
mod feed;
mod log;
mod output;
mod rule;
mod rule_check;
mod rule_pack;
mod rule_reproduce;
mod rule_view;
mod table;
#[cfg(test)]
mod tests;
mod watch;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use clap_complete::Shell;
use reqwest::Url;
use serde_json::json;

use self::failure::Failure;
use self::output::Output;
use crate::config::{ServeArgs, StoreArgs, env_file};

/// The default address of `tocsin serve`.
const DEFAULT_SERVER: &str = "http://127.0.0.1:8080";

/// Options of every command are shown behind its own.
const GLOBAL_ORDER: usize = 900;

/// A command line. Without a command it says `serve`.
pub struct Cli {
    /// What to do.
    pub command: Command,
    /// What holds for every command.
    pub global: Global,
}

/// What was typed.
#[derive(Parser)]
#[command(
    name = "tocsin",
    version,
    about = "Watches a stream of trades and rings when your rules say so",
    override_usage = "tocsin [OPTIONS] [COMMAND]",
    long_about = "Tocsin watches a stream of market trades and evaluates every tick against standing alerts.\n\
                  What an alert means is decided by a rule: a sandboxed WebAssembly module, built in or your own.\n\n\
                  Without a command it runs the server, as `tocsin serve` does, and takes the same options.",
    after_help = "\
Examples:
  tocsin                                     run the server, on simulated prices
  tocsin rule list                           what rules it has
  tocsin alert create --user 1 --symbol AAPL --rule above --param target=150
  tocsin alert watch                         see alerts fire

Exit status: 0 done, 1 refused or failed, 2 the command line is wrong."
)]
struct Typed {
    #[command(flatten)]
    global: Global,
    /// Never missing once [`with_command`] has seen the command line.
    #[command(subcommand)]
    command: Command,
}

/// What holds for every command; `serve` talks to no server.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// The server to talk to
    #[arg(long, global = true, env = "TOCSIN_SERVER", default_value = DEFAULT_SERVER, value_name = "URL",
          value_parser = parse_server, display_order = GLOBAL_ORDER)]
    server: Url,

    /// Write JSON, for programs; failures too, on standard error
    #[arg(long, global = true, display_order = GLOBAL_ORDER)]
    json: bool,

    /// File of settings, in the place of `.env` in the working folder
    #[arg(long = env_file::OPTION, global = true, value_name = "FILE", display_order = GLOBAL_ORDER)]
    env_file: Option<PathBuf>,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Run the server (the default)
    #[command(after_help = "\
Examples:
  tocsin serve                               everything in ./tocsin-data, simulated prices
  TICKERS=AAPL,MSFT FINNHUB_API_KEY=… tocsin serve
  tocsin serve --feed binance --tickers BTCUSDT,ETHUSDT

Every option can also be set in the environment or in the file `.env` of the working folder.")]
    Serve(Box<ServeArgs>),
    /// Bring the store's schema up to this version, and exit
    #[command(
        long_about = "\
Brings the store's schema up to this version, and exits. `tocsin serve` does the same at its start.\n\
A schema that is up to date stays as it is, and one of a newer version is refused. Processes that\n\
migrate at once wait for each other.",
        after_help = "\
Examples:
  tocsin migrate                             SQLite in ./tocsin-data
  DATABASE_URL=postgres://tocsin:…@127.0.0.1:5432/tocsin tocsin migrate
  tocsin migrate --database-url 'user=tocsin password=… dbname=tocsin host=127.0.0.1 port=5432 sslmode=disable'"
    )]
    Migrate(StoreArgs),
    /// Replay recorded trades to subscribers, in Finnhub's protocol
    #[command(long_about = feed::LONG_ABOUT)]
    Feed(feed::FeedArgs),
    /// Check, upload and list rules
    #[command(subcommand, long_about = rule::LONG_ABOUT)]
    Rule(rule::RuleCommand),
    /// Create, list and delete alerts, and see them fire
    #[command(subcommand, long_about = alert::LONG_ABOUT)]
    Alert(alert::AlertCommand),
    /// Show the log of ticks, and go on with another one
    #[command(subcommand, long_about = log::LONG_ABOUT)]
    Log(log::LogCommand),
    /// Write a completion script for a shell
    #[command(after_help = "\
Examples:
  tocsin completions bash > ~/.local/share/bash-completion/completions/tocsin
  tocsin completions zsh > ~/.zfunc/_tocsin")]
    Completions {
        /// The shell
        shell: Shell,
    },
}

impl Cli {
    /// Reads the command line of this process; ends it on `--help`, and on what cannot be understood.
    pub fn parse() -> Self {
        let args: Vec<OsString> = std::env::args_os().collect();
        let json = args.iter().any(|arg| arg == "--json");
        Self::try_parse_from(args).unwrap_or_else(|error| {
            if json && error.use_stderr() {
                Output { json }.remark(&usage_failure(&error).problem().to_string());
                std::process::exit(error.exit_code());
            }
            error.exit()
        })
    }

    /// Reads a command line; its first word is the program's name.
    fn try_parse_from(args: Vec<OsString>) -> Result<Self, clap::Error> {
        let matches = without_empty_variables(Typed::command()).try_get_matches_from(with_command(args))?;
        let typed = Typed::from_arg_matches(&matches)?;
        Ok(Self { command: typed.command, global: typed.global })
    }
}

/// A variable that is set to nothing, as `PORT=` in a file, counts as not set.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    let command = command.mut_args(|argument| match argument.get_env().is_some_and(is_empty) {
        true => argument.env(None),
        false => argument,
    });
    command.mut_subcommands(without_empty_variables)
}

/// A command line that cannot be understood, in a line for programs: what clap says before the usage, without the word
/// that announces it on a terminal.
fn usage_failure(error: &clap::Error) -> Failure {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let what = text.split("\n\n").next().unwrap_or(text);
    Failure::Local(what.lines().map(str::trim).collect::<Vec<_>>().join(" "))
}

/// Puts `serve` where the command is missing, so that its options are understood without it. Left alone are command
/// lines that ask for help or the version, and those on which clap has something to say.
fn with_command(mut args: Vec<OsString>) -> Vec<OsString> {
    let typed = Typed::command();
    let mut at = 1;
    while let Some(option) = args.get(at).and_then(|arg| arg.to_str()).and_then(|arg| arg.strip_prefix("--")) {
        let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        let Some(global) = typed.get_arguments().find(|argument| argument.get_long() == Some(name)) else { break };
        let value_follows = value.is_none() && global.get_action().takes_values();
        at += if value_follows { 2 } else { 1 };
    }
    let is_serve = match args.get(at).map(|arg| arg.to_string_lossy()) {
        None => at <= args.len(),
        Some(arg) => arg.starts_with('-') && !matches!(&*arg, "-h" | "--help" | "-V" | "--version"),
    };
    if is_serve {
        args.insert(at, "serve".into());
    }
    args
}

/// Runs any command of the client: `serve` and `migrate` are the caller's.
pub async fn run(command: Command, global: Global) -> ExitCode {
    let output = Output { json: global.json };
    let done = match command {
        Command::Serve(_) | Command::Migrate(_) => Err(Failure::Local("this is not a command of the client".into())),
        Command::Feed(args) => feed::run(args, output).await,
        Command::Rule(command) => rule::run(command, &global.server, output).await,
        Command::Alert(command) => alert::run(command, &global.server, output).await,
        Command::Log(command) => log::run(command, &global.server, output).await,
        Command::Completions { shell } => completions(shell, output),
    };
    output.finish(done)
}

/// Returns the exit code of a server that ended. Its error is written here.
pub fn exit_code(ended: anyhow::Result<()>, global: &Global) -> ExitCode {
    Output { json: global.json }.finish(ended.map_err(|error| Failure::Local(format!("{error:#}"))))
}

/// Reports which store was brought up to date, or why none was.
pub fn report_store(migrated: anyhow::Result<String>, global: &Global) -> ExitCode {
    let output = Output { json: global.json };
    let report = |store: String| output.result(&json!({ "up_to_date": store }), || format!("up to date: {store}"));
    output.finish(migrated.map_err(|error| Failure::Local(format!("{error:#}"))).and_then(report))
}

fn completions(shell: Shell, output: Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Typed::command(), "tocsin", &mut script);
    output.text(&String::from_utf8_lossy(&script))
}

fn parse_server(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|_| format!("this is no URL; give one such as {DEFAULT_SERVER}"))?;
    match url.scheme() {
        "http" if url.has_host() => Ok(url),
        "https" => Err("https is not spoken here; let a proxy on this machine do so, and give its http URL".into()),
        _ => Err(format!("give a URL such as {DEFAULT_SERVER}")),
    }
}
