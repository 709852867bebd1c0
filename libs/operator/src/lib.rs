//! What every cluster-side binary of Selvedge needs, its own kinds excluded.
//!
//! ```text
//!  process   one binary from arguments to exit code: telemetry, admin server, client, tasks, drain
//!    ├─ args, telemetry     how it is configured and what it says
//!    ├─ admin               /healthz /readyz /metrics, and the gates behind readiness
//!    └─ shutdown            signals, and the one owner of all tasks
//!  client    a kube client whose waits end
//!  lease     leader election
//!  controller               streams of objects in, one reconcile at a time per object out
//!    └─ backoff             delays after failures
//!  status, apply, events    the three ways to write what was found out
//!  listwatch                the hub's list-watch loop, which keeps revisions and bookmarks in sight
//! ```
//!
//! A binary is arguments and one call:
//!
//! ```no_run
//! use clap::Parser;
//! use selvedge_operator::{args::CommonArgs, process};
//!
//! #[derive(Parser)]
//! struct Args {
//!     #[command(flatten)]
//!     common: CommonArgs,
//! }
//!
//! #[tokio::main]
//! async fn main() -> std::process::ExitCode {
//!     let args = Args::parse();
//!     process::run("example-controller", &args.common, async |process| {
//!         let token = process.tasks.token();
//!         let synced = process.gates.gate("caches");
//!         process.tasks.spawn("example", async move {
//!             synced.ready();
//!             token.cancelled().await;
//!             Ok(())
//!         });
//!         Ok(())
//!     })
//!     .await
//! }
//! ```

pub mod admin;
pub mod apply;
pub mod args;
pub mod backoff;
pub mod client;
pub mod clock;
pub mod controller;
pub mod events;
pub mod lease;
pub mod listwatch;
pub mod process;
pub mod shutdown;
pub mod status;
pub mod telemetry;

/// Any error that ends a task, with its chain.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
