//! The program: parses the command line and runs the command. It is part of the library so that it is compiled once; `main.rs`
//! only calls it.

use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use crate::cli::{self, Cli, Command, Global};
use crate::rules::compiler;
use crate::{config, data_dir, roles, signals, telemetry};

/// Runs the command of the command line; returns the exit code of the process.
///
/// # Safety
/// No other thread may run yet: settings are written to the environment, which all threads share.
#[expect(unsafe_code, reason = "the environment is written to")]
pub unsafe fn run() -> ExitCode {
    // The child that compiles uploaded modules reads no settings.
    if let Some(ended) = compiler::run_if_child(std::env::args_os()) {
        return ended;
    }
    // SAFETY: the caller's.
    let env_file = unsafe { config::env_file::load(std::env::args_os()) };
    let cli = Cli::parse();
    if let Err(error) = env_file {
        return cli::exit_code(Err(error.into()), &cli.global);
    }
    if let Command::Serve(_) | Command::Migrate(_) = cli.command {
        data_dir::create_privately();
    }
    let runtime = tokio::runtime::Runtime::new().expect("the system can start threads");
    let ended = runtime.block_on(async {
        match cli.command {
            Command::Serve(args) => serve(*args, &cli.global).await,
            Command::Migrate(args) => cli::report_store(roles::migrate(args).await, &cli.global),
            other => cli::run(other, cli.global).await,
        }
    });
    // Do not wait for tasks that are blocked on a backend.
    runtime.shutdown_background();
    ended
}

async fn serve(args: config::ServeArgs, global: &Global) -> ExitCode {
    let started = telemetry::start(args.log_format, &args.log).map_err(anyhow::Error::msg);
    let stop = CancellationToken::new();
    signals::cancel_on_signal(stop.clone());
    let ended = match started.and_then(|()| Ok(args.validate()?)) {
        Ok(settings) => roles::serve(settings, stop).await,
        Err(error) => Err(error),
    };
    cli::exit_code(ended, global)
}
