//! Arguments that every cluster-side binary takes, by flag or environment.

use std::net::SocketAddr;

use clap::{Args, ValueEnum};

/// Flatten it into a binary's own arguments: `#[command(flatten)] common: CommonArgs`.
#[derive(Args, Clone, Debug)]
pub struct CommonArgs {
    /// What is logged, as tracing directives: `info`, `info,selvedge_hub=debug`.
    #[arg(long, env = "SELVEDGE_LOG", default_value = "info")]
    pub log: String,

    /// How it is logged.
    #[arg(long, env = "SELVEDGE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Where /healthz, /readyz and /metrics are served, without TLS.
    #[arg(long, env = "SELVEDGE_ADMIN_ADDRESS", default_value = "0.0.0.0:8080")]
    pub admin_address: SocketAddr,

    /// Namespace of the installation: Leases, the webhook's certificate, cluster-wide settings.
    #[arg(long, env = "POD_NAMESPACE", default_value = "selvedge-system")]
    pub namespace: String,

    /// Name of this replica, in Leases and Events: the pod's name.
    #[arg(long, env = "POD_NAME", default_value = "local")]
    pub pod_name: String,
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
