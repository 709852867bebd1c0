//! What a person asks for.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;
use selvedge_model::device::parse_duration;

use crate::faults::Fault;

/// Simulated edge nodes against a real hub, checked while they run.
///
/// Makes EdgeNodes, EdgeApplications and Devices in the cluster that --kubeconfig names, joins every node as a
/// real agent joins, then keeps all of them connected from this one process: real TLS, the real protocol, the
/// agent's own ledger in memory. Nothing runs on them; what is in force counts as applied at once. Meanwhile
/// it changes objects and lets accidents happen, records what every agent, and the API server, saw, and at the
/// end holds the record against the rules of state sync.
///
/// It ends with 0 when every rule held, with 1 when one was broken (it says which, and where), and with 2 when
/// it could not run.
#[derive(Parser, Clone, Debug)]
#[command(name = "selvedge-load", version, after_help = EXAMPLES)]
pub struct Options {
    /// How many agents. Over 19,000, run several processes with --first.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub agents: u32,

    /// Number of the first agent, so that several processes share a fleet.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=99_999))]
    pub first: u32,

    /// EdgeApplications that select every simulated node, each with a ConfigMap of 2 KB.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=64))]
    pub applications: u32,

    /// Devices of each node.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub devices: u32,

    /// How long changes and faults go on, once everyone is in sync.
    #[arg(long, default_value = "1m", value_parser = parse_duration)]
    pub duration: Duration,

    /// How long the fleet may take to come to rest: before the first change, and after the last.
    #[arg(long, default_value = "3m", value_parser = parse_duration)]
    pub settle: Duration,

    /// Changes of one node a second: a desired value of a device, or a label of a node without devices.
    #[arg(long, default_value_t = 1.0)]
    pub change_rate: f64,

    /// A change of 2 KB to all nodes so often (a ConfigMap that an application names); 0s: never.
    #[arg(long, default_value = "20s", value_parser = parse_duration)]
    pub fanout_every: Duration,

    /// Accidents: "none", "all", or some of cut, stall, slow-reader, half-open, crash, duplicate, lost-ledger,
    /// clock-skew, separated by commas.
    #[arg(long, default_value_t, value_name = "LIST")]
    pub faults: Faults,

    /// Accidents a second, over all agents.
    #[arg(long, default_value_t = 0.5)]
    pub fault_rate: f64,

    /// Of all random choices: the same seed makes the same choices.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// Where the cluster is; else what kubectl would use.
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,

    /// Namespace of applications and devices; made, and enabled for the edge, when it is not there.
    #[arg(long, default_value = "load")]
    pub namespace: String,

    /// Names of EdgeNodes begin so: load-00001, load-00002 and on.
    #[arg(long, default_value = "load")]
    pub prefix: String,

    /// Where keys and certificates are kept, so that the next run need not join again. Keep it secret.
    #[arg(long, default_value = "selvedge-load.identities")]
    pub identities: PathBuf,

    /// Dial this hub (https://host:port), whatever the join tokens say; may be repeated.
    #[arg(long, value_name = "URL")]
    pub hub: Vec<String>,

    /// Certificate of the cluster's CA, PEM. With --ca-key, client certificates are made here and nobody
    /// joins: for fleets that are too large to join one by one, in clusters that are thrown away after.
    #[arg(long, requires = "ca_key", requires = "hub")]
    pub ca_cert: Option<PathBuf>,

    /// Key of the cluster's CA, PEM: data "tls.key" of Secret selvedge-system/selvedge-ca.
    #[arg(long, requires = "ca_cert")]
    pub ca_key: Option<PathBuf>,

    /// Namespace of the installation.
    #[arg(long, default_value = "selvedge-system")]
    pub system_namespace: String,

    /// Do what lines of the input say, instead of --duration, --change-rate and --fanout-every: for tests that
    /// break things themselves. The lines: selvedge_load::steer.
    #[arg(long)]
    pub steered: bool,

    /// Delete everything that runs with this --prefix and --namespace have made, and end.
    #[arg(long)]
    pub clean: bool,

    /// What is logged, as tracing directives.
    #[arg(long, env = "SELVEDGE_LOG", default_value = "warn")]
    pub log: String,
}

const EXAMPLES: &str = "Examples:
  A hundred nodes for a minute, on the cluster of your kubeconfig:
    selvedge-load
  What a shop has, for an hour, with accidents:
    selvedge-load --agents 1000 --applications 10 --devices 10 --duration 1h --faults all
  The same fleet again, without joining again; then all of it gone:
    selvedge-load --agents 1000 --applications 10 --devices 10
    selvedge-load --clean";

/// Which accidents may happen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl FromStr for Faults {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" | "" => Ok(Self::default()),
            "all" => Ok(Self(Fault::ALL.to_vec())),
            list => list.split(',').map(|name| Fault::named(name.trim())).collect::<Result<_, _>>().map(Self),
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let names: Vec<&str> = self.0.iter().map(|fault| fault.name()).collect();
        f.write_str(&names.join(","))
    }
}

impl Options {
    /// Numbers of the agents of this process.
    pub fn numbers(&self) -> impl ExactSizeIterator<Item = u32> + Clone + use<> {
        let (first, agents) = (self.first, self.agents);
        (0..agents).map(move |offset| first + offset)
    }

    /// Name of an EdgeNode.
    #[must_use]
    pub fn node(&self, number: u32) -> String {
        format!("{}-{number:05}", self.prefix)
    }

    /// Name of a Device.
    #[must_use]
    pub fn device(&self, number: u32, device: u32) -> String {
        format!("{}-{number:05}-{device}", self.prefix)
    }

    /// Name of an EdgeApplication and of its ConfigMap.
    #[must_use]
    pub fn application(&self, application: u32) -> String {
        format!("{}-{application}", self.prefix)
    }
}
