//! Arguments of the hub.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use selvedge_operator::args::CommonArgs;

/// Sends every edge node what it should have, and writes down what is true there.
#[derive(Parser, Clone, Debug)]
#[command(name = "selvedge-hub", version)]
pub struct Config {
    /// What every binary takes.
    #[command(flatten)]
    pub common: CommonArgs,

    /// Where agents are served, with TLS.
    #[arg(long, env = "SELVEDGE_LISTEN", default_value = "0.0.0.0:8443")]
    pub listen: SocketAddr,

    /// File of the projected token with which the edgenode-controller is dialled.
    #[arg(long, env = "SELVEDGE_TOKEN_FILE", default_value = "/var/run/secrets/selvedge/token")]
    pub token_file: PathBuf,

    /// Requests a second for statuses, reads included, that this replica begins at most. An API server that has too
    /// much to do slows it further down by itself.
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub status_writes_per_second: u16,
}
