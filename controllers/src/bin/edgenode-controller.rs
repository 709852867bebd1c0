//! The EdgeNode controller: join keys, certificates, and who is connected.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use selvedge_controllers::JOIN_NAMESPACE;
use selvedge_controllers::edgenode::{self, Settings};
use selvedge_model::device::{DurationError, parse_duration};
use selvedge_operator::{args::CommonArgs, process};

/// Makes join keys, signs certificates, and knows which edge nodes are connected.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,

    /// Where agents reach the hub, such as https://hub.example:8443; may be repeated.
    #[arg(long = "hub-endpoint", value_name = "URL")]
    hub_endpoints: Vec<String>,

    /// A DNS name or IP address in the hub's certificate; may be repeated.
    #[arg(long = "hub-name", value_name = "NAME")]
    hub_names: Vec<String>,

    /// Namespace of join Secrets, which holds nothing else.
    #[arg(long, default_value = JOIN_NAMESPACE)]
    join_namespace: String,

    /// Where the streams of hub replicas are taken.
    #[arg(long, default_value = "0.0.0.0:8444")]
    replica_address: SocketAddr,

    /// Address of this pod, as hub replicas see it.
    #[arg(long, env = "POD_IP", default_value = "127.0.0.1")]
    pod_ip: IpAddr,

    /// A node that has had no session for this long is offline; a restart of the hub should fit into it.
    #[arg(long, default_value = "40s", value_parser = duration)]
    offline_grace: Duration,

    /// How long agents' certificates live, at least 1m. They are renewed after two thirds of it, and prove who asks
    /// for another one for 90 days after it.
    #[arg(long, default_value = "2160h", value_parser = life)]
    agent_certificate_life: Duration,
}

fn life(text: &str) -> Result<Duration, String> {
    let life = duration(text).map_err(|error| error.to_string())?;
    let bounds = Duration::from_secs(60)..=Duration::from_secs(366 * 24 * 3600);
    if bounds.contains(&life) { Ok(life) } else { Err(format!("{text} is not between 1m and 8784h")) }
}

fn duration(text: &str) -> Result<Duration, DurationError> {
    parse_duration(text)
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let settings = Settings {
        hub_endpoints: args.hub_endpoints,
        hub_names: args.hub_names,
        join_namespace: args.join_namespace,
        replica_address: args.replica_address,
        pod_ip: args.pod_ip,
        grace: args.offline_grace,
        agent_life: args.agent_certificate_life,
    };
    process::run("edgenode-controller", &args.common, async |process| edgenode::run(process, settings)).await
}
