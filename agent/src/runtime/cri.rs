//! What the agent asks of a container runtime, in its own words.
//!
//! The real thing is [`super::grpc`]; tests have a runtime in memory. Every call has a deadline of its
//! own, so that no caller needs one.

use std::{collections::BTreeMap, fmt, future::Future, time::Duration};

use serde::{Deserialize, Serialize};

use super::fields::{ContainerFields, SandboxFields};

/// Why the runtime did not do as asked.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum CriError {
    /// Nobody answers on the socket.
    #[error("{call} on {socket}: the container runtime does not answer ({message}); is it running?")]
    Unreachable {
        /// Name of the call.
        call: &'static str,
        /// Path of the socket.
        socket: String,
        /// What the transport says.
        message: String,
    },
    /// It took the call and did not answer in time.
    #[error("{call} took longer than {} s", after.as_secs())]
    Deadline {
        /// Name of the call.
        call: &'static str,
        /// The deadline.
        after: Duration,
    },
    /// It answered no.
    #[error("{call}: {message}")]
    Refused {
        /// Name of the call.
        call: &'static str,
        /// What the runtime says.
        message: String,
    },
}

/// An application on this node, as the runtime's labels name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct WorkloadKey {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl fmt::Display for WorkloadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What the runtime is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// `containerd://2.4.2`, as Kubernetes writes it in `nodeInfo`.
    pub(super) name_version: String,
    /// Parent of all our cgroups, in the form that the runtime's cgroup driver takes.
    pub(super) cgroup_parent: &'static str,
}

/// A sandbox that carries our labels.
#[derive(Clone, Debug)]
pub(super) struct Sandbox {
    pub(super) id: String,
    pub(super) key: WorkloadKey,
    pub(super) ready: bool,
    pub(super) attempt: u32,
    pub(super) created_at: i64,
    /// None: the annotation cannot be read.
    pub(super) fields: Option<SandboxFields>,
}

/// What a container does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ContainerState {
    Created,
    Running,
    Exited,
    Unknown,
}

/// A container that carries our labels.
#[derive(Clone, Debug)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) sandbox: String,
    pub(super) name: String,
    pub(super) attempt: u32,
    pub(super) state: ContainerState,
    /// Value of the content label: equal contents need no comparison.
    pub(super) content: String,
    /// What it was created from; none when the annotation cannot be read.
    pub(super) notes: Option<ContainerNotes>,
}

/// What the agent writes on a container to read it back later: nothing about it is remembered elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ContainerNotes {
    /// The fields that it was created from.
    pub(super) fields: ContainerFields,
    /// How many times in a row it had ended soon after its start when this attempt was made.
    #[serde(default)]
    pub(super) streak: u32,
    /// Its grace period, for the day when the workload is gone and cannot be asked.
    #[serde(default)]
    pub(super) grace_seconds: u64,
}

/// When a container started, and how it ended. Never changes for one container in one state.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Details {
    /// Unix time in ms; 0: not yet.
    pub(super) started_ms: i64,
    /// Unix time in ms; 0: not yet.
    pub(super) finished_ms: i64,
    pub(super) exit_code: i32,
    /// The runtime's word for it: `Error`, `Completed`, `OOMKilled`, `StartError`.
    pub(super) reason: String,
    pub(super) message: String,
    /// Absolute path of its log.
    pub(super) log_path: String,
}

/// A sandbox to run.
#[derive(Clone, Debug)]
pub(super) struct SandboxConfig {
    pub(super) key: WorkloadKey,
    pub(super) uid: String,
    pub(super) attempt: u32,
    pub(super) fields: SandboxFields,
    /// The template's labels, for people and monitoring.
    pub(super) labels: BTreeMap<String, String>,
    pub(super) log_directory: String,
    pub(super) cgroup_parent: &'static str,
}

/// A container to create in a sandbox.
#[derive(Clone)]
pub(super) struct ContainerConfig {
    pub(super) name: String,
    pub(super) attempt: u32,
    pub(super) content: String,
    pub(super) notes: ContainerNotes,
    /// The image as the runtime names it after it was found or pulled.
    pub(super) image_id: String,
    pub(super) command: Vec<String>,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    /// Path in the container and directory on the node; always read-only.
    pub(super) mounts: Vec<(String, String)>,
    /// Relative to the sandbox's log directory.
    pub(super) log_path: String,
}

/// Without what may come from a Secret.
impl fmt::Debug for ContainerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of {}", self.name, self.attempt, self.image_id)
    }
}

/// A container runtime.
pub(super) trait Cri: Send + Sync + 'static {
    /// Name, version, cgroup driver.
    fn identify(&self) -> impl Future<Output = Result<Identity, CriError>> + Send;
    /// All sandboxes with our labels.
    fn sandboxes(&self) -> impl Future<Output = Result<Vec<Sandbox>, CriError>> + Send;
    /// All containers with our labels.
    fn containers(&self) -> impl Future<Output = Result<Vec<Container>, CriError>> + Send;
    /// When a container started and how it ended; none when it is gone.
    fn details(&self, container: &str) -> impl Future<Output = Result<Option<Details>, CriError>> + Send;
    /// The id of an image that the node has.
    fn image(&self, reference: &str) -> impl Future<Output = Result<Option<String>, CriError>> + Send;
    /// Fetches an image; answers its id.
    fn pull(&self, reference: &str) -> impl Future<Output = Result<String, CriError>> + Send;
    /// Makes and starts a sandbox; answers its id.
    fn run_sandbox(&self, config: &SandboxConfig) -> impl Future<Output = Result<String, CriError>> + Send;
    /// Stops and removes a sandbox and what is left in it. One that is gone is removed.
    fn remove_sandbox(&self, id: &str) -> impl Future<Output = Result<(), CriError>> + Send;
    /// Makes a container; answers its id.
    fn create_container(
        &self,
        sandbox: &str,
        sandbox_config: &SandboxConfig,
        config: &ContainerConfig,
    ) -> impl Future<Output = Result<String, CriError>> + Send;
    /// Starts a container that was made.
    fn start_container(&self, id: &str) -> impl Future<Output = Result<(), CriError>> + Send;
    /// Asks politely, kills after `grace`. One that is gone is stopped.
    fn stop_container(&self, id: &str, grace: Duration) -> impl Future<Output = Result<(), CriError>> + Send;
    /// Removes a container that does not run. One that is gone is removed.
    fn remove_container(&self, id: &str) -> impl Future<Output = Result<(), CriError>> + Send;
    /// Opens a container's log file anew, after it was moved away.
    fn reopen_log(&self, id: &str) -> impl Future<Output = Result<(), CriError>> + Send;
}
