//! The Device controller: whether a Device can work, and what is said of it while its node is away.

use std::process::ExitCode;

use clap::Parser;
use selvedge_controllers::device;
use selvedge_operator::{args::CommonArgs, process};

/// Says whether Devices can work, and which are out of reach.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    process::run("device-controller", &args.common, async |process| device::run(process)).await
}
