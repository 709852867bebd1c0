//! The DeviceModel controller: who uses a DeviceModel, and whether it keeps every rule.

use std::process::ExitCode;

use clap::Parser;
use selvedge_controllers::devicemodel;
use selvedge_operator::{args::CommonArgs, process};

/// Counts the Devices of each DeviceModel and checks the model.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    process::run("devicemodel-controller", &args.common, async |process| devicemodel::run(process)).await
}
