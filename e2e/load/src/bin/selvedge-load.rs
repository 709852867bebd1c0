//! The binary `selvedge-load`: arguments, one runtime, a run, a verdict.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser as _;
use selvedge_load::objects::Cluster;
use selvedge_load::options::Options;
use selvedge_load::run::{self, RunError};
use selvedge_load::steer;
use tracing_subscriber::EnvFilter;

/// No verdict.
const COULD_NOT_RUN: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&options.log))
        .with_writer(std::io::stderr)
        .init();
    match act(&options).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("selvedge-load: {}", selvedge_agent::chain::chain(&error as &dyn Error));
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}

async fn act(options: &Options) -> Result<ExitCode, RunError> {
    if options.clean {
        Cluster::connect(options.kubeconfig.as_deref(), options).await?.clean().await?;
        return Ok(ExitCode::SUCCESS);
    }
    let verdict = if options.steered { steer::run(options).await? } else { run::run(options).await? };
    println!("{verdict}");
    Ok(if verdict.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
