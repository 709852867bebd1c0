//! The EdgeApplication controller: revisions, rollouts, and how the nodes stand.

use std::process::ExitCode;

use clap::Parser;
use selvedge_controllers::edgeapplication;
use selvedge_operator::{args::CommonArgs, process};

/// Makes revisions of EdgeApplications, rolls them out, and sums up what nodes report.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    process::run("edgeapplication-controller", &args.common, async |process| edgeapplication::run(process))
        .await
}
