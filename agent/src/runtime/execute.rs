//! Does the steps of one workload, in order, until one fails.

use std::{
    collections::HashMap,
    io,
    net::{TcpListener, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use selvedge_model::pod::ImagePullPolicy;

use super::{
    cri::{ContainerConfig, ContainerNotes, Cri, CriError, SandboxConfig, WorkloadKey},
    desired::Workload,
    fields::{HostPort, Mount},
    logs,
    plan::Step,
    state::Failure,
    volumes::{Disk, DiskError},
};

/// The steps of one workload, and what they need.
pub(super) struct Job<C> {
    pub(super) cri: Arc<C>,
    pub(super) disk: Disk,
    pub(super) key: WorkloadKey,
    /// None: it is being removed.
    pub(super) workload: Option<Arc<Workload>>,
    pub(super) cgroup_parent: &'static str,
    pub(super) steps: Vec<Step>,
    /// Set while an image is fetched: the one step that may take minutes and can be dropped at any time.
    pub(super) fetching: Arc<AtomicBool>,
}

fn failed(reason: &'static str) -> impl Fn(CriError) -> Failure {
    move |error| {
        let reason =
            if matches!(error, CriError::Unreachable { .. }) { "RuntimeUnavailable" } else { reason };
        Failure { reason, message: error.to_string() }
    }
}

impl<C: Cri> Job<C> {
    /// Does all steps.
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut images = HashMap::new();
        let mut new_sandbox = None;
        for step in &self.steps {
            tracing::info!(workload = %self.key, "{step}");
            match step {
                Step::RemoveSandbox { id, stop, grace_seconds, .. } => {
                    let grace = Duration::from_secs(*grace_seconds);
                    for stopped in join_all(stop.iter().map(|id| self.cri.stop_container(id, grace))).await {
                        stopped.map_err(failed("StopFailed"))?;
                    }
                    self.cri.remove_sandbox(id).await.map_err(failed("StopFailed"))?;
                }
                Step::RemoveContainer { id, grace_seconds, .. } => {
                    if let Some(grace) = grace_seconds {
                        let grace = Duration::from_secs(*grace);
                        self.cri.stop_container(id, grace).await.map_err(failed("StopFailed"))?;
                    }
                    self.cri.remove_container(id).await.map_err(failed("StopFailed"))?;
                }
                Step::RemoveFiles => self.on_disk(|disk, key| disk.remove(key)).await?,
                Step::RemoveVolume { volume } => {
                    let volume = volume.clone();
                    self.on_disk(move |disk, key| disk.remove_volume(key, &volume)).await?;
                }
                Step::WriteVolume { volume } => {
                    let (volume, workload) = (volume.clone(), self.workload.clone());
                    self.on_disk(move |disk, key| {
                        let files = workload.as_ref().and_then(|workload| workload.volumes.get(&volume));
                        files
                            .and_then(|files| files.as_ref().ok())
                            .map_or(Ok(()), |f| disk.write(key, &volume, f))
                    })
                    .await?;
                }
                Step::EnsureImage { image, policy } => {
                    images.insert(image.clone(), self.image(image, *policy).await?);
                }
                Step::RunSandbox { attempt } => {
                    let config = self.sandbox(*attempt)?;
                    ports_are_free(&config.fields.host_ports)?;
                    std::fs::create_dir_all(&config.log_directory).map_err(|error| Failure {
                        reason: "DiskFailed",
                        message: format!("create {}: {error}", config.log_directory),
                    })?;
                    let id = self.cri.run_sandbox(&config).await.map_err(failed("CreateFailed"))?;
                    new_sandbox = Some((id, *attempt));
                }
                Step::StartContainer { name, attempt, streak, sandbox } => {
                    let Some((id, sandbox_attempt)) = sandbox.as_ref().or(new_sandbox.as_ref()) else {
                        return Err(broken("a container was to start without a sandbox"));
                    };
                    let sandbox_config = self.sandbox(*sandbox_attempt)?;
                    let config = self.container(name, *attempt, *streak, &images)?;
                    let made = self.cri.create_container(id, &sandbox_config, &config).await;
                    let container = made.map_err(failed("CreateFailed"))?;
                    logs::prune(&self.disk.logs(&self.key), name, *attempt);
                    self.cri.start_container(&container).await.map_err(failed("StartFailed"))?;
                }
            }
        }
        Ok(())
    }

    /// On a thread of its own: a slow disk must not stop the agent's loop.
    async fn on_disk(
        &self,
        work: impl FnOnce(&Disk, &WorkloadKey) -> Result<(), DiskError> + Send + 'static,
    ) -> Result<(), Failure> {
        let (disk, key) = (self.disk.clone(), self.key.clone());
        let failed = |message: String| Failure { reason: "DiskFailed", message };
        let done = tokio::task::spawn_blocking(move || work(&disk, &key)).await;
        done.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))
    }

    fn workload(&self) -> Result<&Workload, Failure> {
        self.workload.as_deref().ok_or_else(|| broken("a removal was to make something"))
    }

    async fn image(&self, image: &str, policy: ImagePullPolicy) -> Result<String, Failure> {
        if policy != ImagePullPolicy::Always
            && let Some(id) = self.cri.image(image).await.map_err(failed("ImageNotPresent"))?
        {
            return Ok(id);
        }
        if policy == ImagePullPolicy::Never {
            let message = format!("image {image} is not on this node, and imagePullPolicy is Never");
            return Err(Failure { reason: "ImageNotPresent", message });
        }
        self.fetching.store(true, Ordering::Relaxed);
        let pulled = self.cri.pull(image).await;
        self.fetching.store(false, Ordering::Relaxed);
        pulled.map_err(failed("ImagePullFailed"))
    }

    fn sandbox(&self, attempt: u32) -> Result<SandboxConfig, Failure> {
        let workload = self.workload()?;
        Ok(SandboxConfig {
            key: self.key.clone(),
            uid: workload.uid.clone(),
            attempt,
            fields: workload.sandbox.clone(),
            labels: workload.labels.clone(),
            log_directory: self.disk.logs(&self.key).display().to_string(),
            cgroup_parent: self.cgroup_parent,
        })
    }

    fn container(
        &self,
        name: &str,
        attempt: u32,
        streak: u32,
        images: &HashMap<String, String>,
    ) -> Result<ContainerConfig, Failure> {
        let workload = self.workload()?;
        let wanted = workload.containers.iter().find(|wanted| wanted.name == name);
        let wanted = wanted.ok_or_else(|| broken("a container was to start that is not wanted"))?;
        let process = wanted
            .process
            .as_ref()
            .map_err(|message| Failure { reason: "WaitingForReferences", message: message.clone() })?;
        let fields = &wanted.fields;
        let image_id = images.get(&fields.image).ok_or_else(|| broken("an image was not ensured"))?;
        let source = |mount: &Mount| self.disk.volume(&self.key, &mount.volume()).display().to_string();
        Ok(ContainerConfig {
            name: name.to_owned(),
            attempt,
            content: wanted.content.clone(),
            notes: ContainerNotes { fields: fields.clone(), streak, grace_seconds: workload.grace.as_secs() },
            image_id: image_id.clone(),
            command: process.command.clone(),
            args: process.args.clone(),
            env: process.env.clone(),
            mounts: fields.mounts.iter().map(|mount| (mount.path.clone(), source(mount))).collect(),
            log_path: logs::file_name(name, attempt),
        })
    }
}

/// A plan that contradicts itself: a fault of this program, told like any other.
fn broken(what: &str) -> Failure {
    Failure { reason: "AgentFault", message: what.to_owned() }
}

/// The CNI's port mapping forwards packets and never binds: it would silently take a port from a process
/// of the node. So the port is tried first. Only "in use" counts; whatever else forbids a bind here says
/// nothing about forwarding.
fn ports_are_free(ports: &[HostPort]) -> Result<(), Failure> {
    for port in ports {
        let address = ("0.0.0.0", port.host);
        let bound =
            if port.udp { UdpSocket::bind(address).map(drop) } else { TcpListener::bind(address).map(drop) };
        if bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse) {
            let message = format!("host port {port} is in use by a process of this node");
            return Err(Failure { reason: "PortTaken", message });
        }
    }
    Ok(())
}
