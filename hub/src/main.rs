//! The binary `selvedge-hub`: arguments, telemetry, build, run, drain.

use clap::Parser as _;
use selvedge_hub::{config::Config, run};
use selvedge_operator::process;

/// musl's own takes one lock for all threads: a change to all cost the hub more than three times the CPU.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let config = Config::parse();
    process::run("selvedge-hub", &config.common, async |process| run::build(&config, process).await).await
}
