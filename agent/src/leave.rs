//! `selvedge-agent leave`: the way out of a cluster. Stops what the agent started, then forgets ledger
//! and identity.

use std::{io, path::PathBuf, time::Duration};

use tokio::time::timeout;

use crate::{
    config::Config,
    identity::{Identity, IdentityError},
    ledger::{KEY_FILE, LEDGER_FILE},
    runtime::Runtime,
    status,
};

/// The longest grace period that is waited for.
const STOP_TIMEOUT: Duration = Duration::from_secs(300);

/// Why the node did not leave.
#[derive(Debug, thiserror::Error)]
pub enum LeaveError {
    /// The agent would start everything again.
    #[error("the agent is running; stop it first")]
    Running,
    /// There is nothing to leave, or it cannot be forgotten.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Containers cannot be stopped.
    #[error(
        "the containers cannot be stopped: {0}; nothing is forgotten, run it again when the runtime answers"
    )]
    Runtime(String),
    /// Containers did not stop.
    #[error("containers did not stop in {} s; nothing is forgotten, run it again", STOP_TIMEOUT.as_secs())]
    Timeout,
    /// The ledger cannot be removed.
    #[error("cannot remove {path}")]
    Remove {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// Stops the containers of this node's agent, then forgets ledger and identity; gives the identity that
/// was. The EdgeNode stays: `kubectl delete edgenode` removes it.
///
/// # Errors
/// [`LeaveError`]; then nothing is forgotten.
pub async fn leave(config: &Config) -> Result<Identity, LeaveError> {
    let identity = Identity::load(&config.state_dir)?;
    if status::ask(&config.state_dir).await.is_ok() {
        return Err(LeaveError::Running);
    }
    let mut runtime = Runtime::connect(&config.runtime_socket, &config.state_dir, &config.memory_dir);
    timeout(STOP_TIMEOUT, stop(&mut runtime)).await.unwrap_or(Err(LeaveError::Timeout))?;
    // Identity last: with it the command can be run again.
    let ledger = ["", "-wal", "-shm"].map(|suffix| format!("{LEDGER_FILE}{suffix}"));
    for file in ledger.iter().map(String::as_str).chain([KEY_FILE]) {
        let path = config.state_dir.join(file);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(LeaveError::Remove { path, source });
            }
            _ => {}
        }
    }
    Identity::forget(&config.state_dir)?;
    Ok(identity)
}

async fn stop(runtime: &mut Runtime) -> Result<(), LeaveError> {
    loop {
        runtime.reconcile(&[]).await;
        if let Some(error) = runtime.info().error {
            return Err(LeaveError::Runtime(error));
        }
        if runtime.is_empty() {
            return Ok(());
        }
        // A job that failed is planned again by the next pass.
        let _ = timeout(Duration::from_secs(1), runtime.job_ended()).await;
    }
}
