//! The agent's binary: arguments, telemetry, one runtime thread.

use std::{io::IsTerminal as _, process::ExitCode};

use clap::Parser as _;
use rustix::process::{Resource, Rlimit, setrlimit};
use selvedge_agent::{chain, cli::Cli};
use tracing_subscriber::{layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// SQLite has one thread; a name to resolve takes another for a moment.
const BLOCKING_THREADS: usize = 4;

fn main() -> ExitCode {
    // A core dump would hold every Secret of the node. Where the limit cannot be set, none was wanted either.
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = setrlimit(Resource::Core, none);
    let cli = Cli::parse();
    let lines = tracing_subscriber::fmt::layer()
        .compact()
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    tracing_subscriber::registry().with(lines).with(cli.log.clone()).init();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("selvedge-agent: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(cli.execute()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("selvedge-agent: {}", chain::chain(&error));
            ExitCode::FAILURE
        }
    }
}
