//! `selvedge-webhook`: arguments, then build and run.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use selvedge_operator::args::CommonArgs;
use selvedge_operator::process;
use selvedge_webhook::certificate::{Keeper, Resolver};
use selvedge_webhook::cluster::ApiCluster;
use selvedge_webhook::metrics::Metrics;
use selvedge_webhook::{router, serve};

/// The validating webhook of Selvedge.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,

    /// Where the API server calls, with TLS.
    #[arg(long, env = "SELVEDGE_ADDRESS", default_value = "0.0.0.0:8443")]
    address: SocketAddr,

    /// A further name or address that the certificate bears, when the API server calls by URL instead of
    /// by the Service. May be repeated.
    #[arg(long = "name")]
    names: Vec<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Args { common, address, names } = Args::parse();
    process::run("selvedge-webhook", &common, async |process| {
        let metrics = Metrics::new(&process.registry)?;
        let resolver = Arc::new(Resolver::default());
        let router = router::router(ApiCluster::start(process), metrics.clone());
        let keeper = Keeper {
            client: process.client.clone(),
            namespace: process.namespace.clone(),
            further_names: names,
            resolver: resolver.clone(),
            gate: process.gates.gate("certificate"),
            metrics,
        };
        let token = process.tasks.token();
        process.tasks.spawn("certificate", async move {
            keeper.run(token).await;
            Ok(())
        });
        let token = process.tasks.token();
        process
            .tasks
            .spawn("webhook", async move { Ok(serve::serve(address, router, resolver, token).await?) });
        Ok(())
    })
    .await
}
