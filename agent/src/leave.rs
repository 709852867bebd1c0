//! `selvedge-agent leave`: the way out of a cluster. Stops what the agent started, then forgets ledger
//! and identity.

use std::{fs, io, path::PathBuf, time::Duration};

use selvedge_model::EntryKind;
use tokio::time::timeout;

use crate::{
    config::Config,
    identity::{Identity, IdentityError},
    ledger::{self, Machine, OpenError, Store},
    node::AGENT_VERSION,
    runtime::Runtime,
    status::{self, ServerError},
};

/// The longest grace period that is waited for.
const STOP_TIMEOUT: Duration = Duration::from_secs(300);
/// Files of the ledger in the state directory: itself, its log, its key, its marker, and copies that were damaged.
const LEDGER_FILES: &str = "ledger.";

/// Why the node did not leave.
#[derive(Debug, thiserror::Error)]
pub enum LeaveError {
    /// The agent would start everything again.
    #[error("the agent is running; stop it first, and see that nothing starts it again")]
    Running,
    /// Another process has the ledger, or it cannot be read.
    #[error("the agent is running, or the disk fails; nothing is stopped or forgotten")]
    Ledger(#[from] OpenError),
    /// It cannot be read or forgotten.
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
    #[error("cannot remove {path}; run it again")]
    Remove {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// Who leaves: none when this machine is in no cluster (any more).
///
/// # Errors
/// [`LeaveError`], when the agent runs or the identity cannot be read.
pub async fn who(config: &Config) -> Result<Option<Identity>, LeaveError> {
    let identity = match Identity::load(&config.state_dir) {
        Err(IdentityError::NotJoined(_)) => return Ok(None),
        identity => identity?,
    };
    match status::ask(&config.state_dir).await {
        Err(ServerError::NotRunning { .. }) => Ok(Some(identity)),
        // One that answers too late, or in the words of another version, runs.
        _ => Err(LeaveError::Running),
    }
}

/// Stops the containers of this node's agent, then forgets ledger and identity. A crash between two steps leaves the
/// identity, and with it the command can be run again. The EdgeNode stays: `kubectl delete edgenode` removes it.
///
/// # Errors
/// [`LeaveError`]; then the identity is there still.
pub async fn leave(config: &Config, identity: &Identity) -> Result<(), LeaveError> {
    // Held until the end, so that no agent starts meanwhile.
    let opened = ledger::open(&config.state_dir, AGENT_VERSION, &identity.cluster)?;
    let mut runtime = Runtime::connect(&config.runtime_socket, &config.state_dir, &config.memory_dir);
    match timeout(STOP_TIMEOUT, stop(&mut runtime)).await.unwrap_or(Err(LeaveError::Timeout)) {
        // A machine that has devices alone needs no runtime.
        Err(LeaveError::Runtime(_)) if runs_nothing(&opened.machine) => {}
        stopped => stopped?,
    }
    for entry in fs::read_dir(&config.state_dir).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(LEDGER_FILES)) {
            let path = entry.path();
            fs::remove_file(&path).map_err(|source| LeaveError::Remove { path, source })?;
        }
    }
    Ok(Identity::forget(&config.state_dir)?)
}

/// Whether the ledger was whole and had no workload: one that was lost says nothing.
fn runs_nothing<S: Store>(machine: &Machine<S>) -> bool {
    let mut kinds = machine.rows().keys().map(|key| key.known_kind());
    machine.meta().complete && kinds.all(|kind| kind != Some(EntryKind::Workload))
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use selvedge_model::{EntryKey, EntryKind};
    use serde_json::json;

    use super::{LeaveError, leave, who};
    use crate::{
        config::Config,
        fakehub::{CLUSTER, FakeHub},
        ledger::{self, tests::set},
        node::AGENT_VERSION,
    };

    /// Of a machine without a container runtime.
    fn config(dir: &Path) -> Config {
        Config {
            state_dir: dir.to_owned(),
            memory_dir: dir.join("memory"),
            runtime_socket: dir.join("no-runtime.sock"),
            metrics_address: None,
            hubs: Vec::new(),
        }
    }

    fn files(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        entries.map(|name| name.into_string().unwrap()).collect()
    }

    #[tokio::test]
    async fn a_node_leaves_once_and_nothing_of_it_stays() {
        let (dir, hub) = (tempfile::tempdir().unwrap(), FakeHub::start(true).await);
        let config = config(dir.path());
        assert_eq!(who(&config).await.unwrap(), None);
        hub.identify(dir.path());
        let device = EntryKey::new(EntryKind::Device, "shop", "boiler");
        let mut opened = ledger::open(dir.path(), AGENT_VERSION, CLUSTER).unwrap();
        set(&mut opened.machine, &device, &json!({"protocol": {"simulated": {}}}));
        std::fs::write(dir.path().join("ledger.db.corrupt-3"), "").unwrap();

        let identity = who(&config).await.unwrap().unwrap();
        assert!(
            matches!(leave(&config, &identity).await, Err(LeaveError::Ledger(_))),
            "an agent has its ledger"
        );
        assert_eq!(who(&config).await.unwrap().as_ref(), Some(&identity));
        drop(opened);
        leave(&config, &identity).await.unwrap();
        assert_eq!(files(dir.path()), [""; 0]);
        assert_eq!(who(&config).await.unwrap(), None);
    }

    #[tokio::test]
    async fn while_containers_cannot_be_stopped_nothing_is_forgotten() {
        let (dir, hub) = (tempfile::tempdir().unwrap(), FakeHub::start(true).await);
        hub.identify(dir.path());
        let config = config(dir.path());
        let identity = who(&config).await.unwrap().unwrap();
        // Whether anything runs is not known: this ledger was never whole.
        assert!(matches!(leave(&config, &identity).await, Err(LeaveError::Runtime(_))));
        let mut opened = ledger::open(dir.path(), AGENT_VERSION, CLUSTER).unwrap();
        let web = EntryKey::new(EntryKind::Workload, "shop", "web");
        set(&mut opened.machine, &web, &json!({"revision": "r1", "template": {"spec": {"containers": []}}}));
        drop(opened);
        assert!(matches!(leave(&config, &identity).await, Err(LeaveError::Runtime(_))));
        assert_eq!(who(&config).await.unwrap(), Some(identity));
        assert!(files(dir.path()).contains(&"ledger.db".to_owned()));
    }
}
