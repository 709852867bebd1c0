//! One binary, from its arguments to its exit code.

use std::process::ExitCode;
use std::time::Duration;

use kube::Client;
use prometheus::Registry;
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::admin::{self, Admin, Gates};
use crate::args::CommonArgs;
use crate::shutdown::{RunError, Tasks};
use crate::{BoxError, client, telemetry};

/// Tasks end within this after a signal: below the 30 s that Kubernetes gives a pod by default.
const DRAIN: Duration = Duration::from_secs(20);

/// What a binary builds on.
pub struct Process {
    /// Client of the API server.
    pub client: Client,
    /// Metrics; `process_*` is left to the container runtime.
    pub registry: Registry,
    /// Readiness.
    pub gates: Gates,
    /// Tasks.
    pub tasks: Tasks,
    /// Namespace of the installation.
    pub namespace: String,
    /// Name of this replica, unique also over restarts in one pod: in Leases a dead predecessor must not
    /// look like ourselves.
    pub identity: String,
}

/// A step before the tasks.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("cannot start")]
    Client(#[source] client::ClientError),
    #[error("cannot start")]
    Build(#[source] BoxError),
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Sets up telemetry, client and admin server, lets `build` add tasks and gates, and runs until a signal
/// or the first task that ends. `component` names the binary in logs.
///
/// Ends with 0 after a signal, 1 after an error (logged, with its chain), 2 when logging cannot be set up.
pub async fn run(
    component: &'static str,
    args: &CommonArgs,
    build: impl AsyncFnOnce(&mut Process) -> Result<(), BoxError>,
) -> ExitCode {
    // A core dump would hold keys and Secrets. Where the limit cannot be set, none was wanted either.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    if let Err(error) = telemetry::init(args) {
        eprintln!("{component}: {}", telemetry::chain(&error));
        return ExitCode::from(2);
    }
    tracing::info!(component, version = env!("CARGO_PKG_VERSION"), "starts");
    match start(args, build).await {
        Ok(()) => {
            tracing::info!(component, "ended");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!(component, error = telemetry::chain(&error), "ended");
            ExitCode::FAILURE
        }
    }
}

async fn start(
    args: &CommonArgs,
    build: impl AsyncFnOnce(&mut Process) -> Result<(), BoxError>,
) -> Result<(), StartError> {
    let mut process = Process {
        client: client::connect().await.map_err(StartError::Client)?,
        registry: Registry::new(),
        gates: Gates::default(),
        tasks: Tasks::default(),
        namespace: args.namespace.clone(),
        identity: format!("{}_{:08x}", args.pod_name, rand::random::<u32>()),
    };
    let (token, address) = (process.tasks.token(), args.admin_address);
    let admin = Admin { gates: process.gates.clone(), registry: process.registry.clone() };
    process.tasks.spawn("admin server", async move { Ok(admin::serve(address, admin, token).await?) });
    build(&mut process).await.map_err(StartError::Build)?;
    Ok(process.tasks.run(DRAIN).await?)
}
