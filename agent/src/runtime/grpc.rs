//! [`Cri`] over the runtime's socket: CRI v1, `runtime.v1` of k8s.io/cri-api.

use std::{collections::HashMap, future::Future, path::Path, time::Duration};

use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};

use super::cri::{
    Container, ContainerConfig, ContainerNotes, ContainerState, Cri, CriError, Details, Identity, Sandbox,
    SandboxConfig, WorkloadKey,
};
use super::fields::{SandboxFields, content};

#[allow(clippy::all, missing_docs, unused_qualifications)]
mod v1 {
    tonic::include_proto!("runtime.v1");
}
use v1::{image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient};

/// Looking answers in milliseconds, or the runtime is not well.
const LOOK: Duration = Duration::from_secs(5);
/// Making something writes to disk and runs CNI plugins; a busy SD card takes its time.
const MAKE: Duration = Duration::from_secs(60);
/// What a stop may take beyond its grace period.
const STOP_SLACK: Duration = Duration::from_secs(15);
/// A large image over a thin line. What was fetched is kept by the runtime, so the next try goes on.
const PULL: Duration = Duration::from_secs(15 * 60);
/// kubelet's limit for answers: long lists are legal.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

const NAMESPACE: &str = "selvedge.dev/namespace";
const NAME: &str = "selvedge.dev/name";
const CONTENT: &str = "selvedge.dev/content";
/// Annotation: what it was made from, as JSON.
const NOTES: &str = "selvedge.dev/made-from";
// What crictl and monitoring agents look for (k8s.io/kubelet/pkg/types).
const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const POD_UID: &str = "io.kubernetes.pod.uid";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// Paths of /proc and /sys that a container must not see, and must not write: containerd takes none of
/// its own when the caller names none. Docker's and kubelet's lists.
const MASKED: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A container runtime behind a Unix socket.
pub struct Grpc {
    socket: String,
    /// None: the path cannot be an address.
    channel: Option<Channel>,
}

impl Grpc {
    /// Connects when first used, and again whenever the connection is lost.
    pub(super) fn new(socket: &Path) -> Self {
        let socket = socket.display().to_string();
        let channel = Endpoint::from_shared(format!("unix://{socket}")).ok().map(|e| e.connect_lazy());
        Self { socket, channel }
    }

    fn channel(&self, call: &'static str) -> Result<Channel, CriError> {
        self.channel.clone().ok_or_else(|| CriError::Unreachable {
            call,
            socket: self.socket.clone(),
            message: "the path is not valid".to_owned(),
        })
    }

    fn runtime(&self, call: &'static str) -> Result<RuntimeServiceClient<Channel>, CriError> {
        Ok(RuntimeServiceClient::new(self.channel(call)?).max_decoding_message_size(MAX_MESSAGE))
    }

    fn images(&self, call: &'static str) -> Result<ImageServiceClient<Channel>, CriError> {
        Ok(ImageServiceClient::new(self.channel(call)?))
    }

    async fn call<T>(
        &self,
        call: &'static str,
        after: Duration,
        answer: impl Future<Output = Result<Response<T>, Status>> + Send,
    ) -> Result<T, CriError> {
        match tokio::time::timeout(after, answer).await {
            Err(_) => Err(CriError::Deadline { call, after }),
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) if status.code() == Code::Unavailable => {
                Err(CriError::Unreachable { call, socket: self.socket.clone(), message: innermost(&status) })
            }
            Ok(Err(status)) => Err(CriError::Refused { call, message: status.message().to_owned() }),
        }
    }

    /// As [`Self::call`], where "not found" is what was wanted.
    async fn call_away<T: Default>(
        &self,
        call: &'static str,
        after: Duration,
        answer: impl Future<Output = Result<Response<T>, Status>> + Send,
    ) -> Result<T, CriError> {
        let gone_is_good = async {
            match answer.await {
                Err(status) if status.code() == Code::NotFound => Ok(Response::new(T::default())),
                answer => answer,
            }
        };
        self.call(call, after, gone_is_good).await
    }
}

/// tonic says "transport error"; what the operator needs is "connection refused" below it.
fn innermost(status: &Status) -> String {
    let mut error: &dyn std::error::Error = status;
    while let Some(source) = error.source() {
        error = source;
    }
    if std::ptr::eq(std::ptr::from_ref(error).cast::<()>(), std::ptr::from_ref(status).cast()) {
        return status.message().to_owned();
    }
    error.to_string()
}

fn key_of(labels: &HashMap<String, String>) -> Option<WorkloadKey> {
    Some(WorkloadKey { namespace: labels.get(NAMESPACE)?.clone(), name: labels.get(NAME)?.clone() })
}

fn notes_of<T: serde::de::DeserializeOwned>(annotations: &HashMap<String, String>) -> Option<T> {
    serde_json::from_str(annotations.get(NOTES)?).ok()
}

fn notes(of: &impl serde::Serialize) -> HashMap<String, String> {
    let json = serde_json::to_string(of).unwrap_or_default();
    HashMap::from([(NOTES.to_owned(), json)])
}

fn labels(config: &SandboxConfig, content: String) -> HashMap<String, String> {
    let mut labels: HashMap<_, _> = config.labels.clone().into_iter().collect();
    for (label, value) in [
        (NAMESPACE, config.key.namespace.clone()),
        (NAME, config.key.name.clone()),
        (CONTENT, content),
        (POD_NAME, config.key.name.clone()),
        (POD_NAMESPACE, config.key.namespace.clone()),
        (POD_UID, config.uid.clone()),
    ] {
        labels.insert(label.to_owned(), value);
    }
    labels
}

fn runtime_default() -> Option<v1::SecurityProfile> {
    let profile_type = v1::security_profile::ProfileType::RuntimeDefault.into();
    Some(v1::SecurityProfile { profile_type })
}

fn sandbox_config(config: &SandboxConfig) -> v1::PodSandboxConfig {
    let port_mappings = config.fields.host_ports.iter().map(|port| v1::PortMapping {
        protocol: if port.udp { v1::Protocol::Udp } else { v1::Protocol::Tcp }.into(),
        container_port: port.container.into(),
        host_port: port.host.into(),
    });
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: config.key.name.clone(),
            uid: config.uid.clone(),
            namespace: config.key.namespace.clone(),
            attempt: config.attempt,
        }),
        hostname: config.key.name.clone(),
        log_directory: config.log_directory.clone(),
        port_mappings: port_mappings.collect(),
        labels: labels(config, content(&config.fields)),
        annotations: notes(&config.fields),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: config.cgroup_parent.to_owned(),
            security_context: Some(v1::LinuxSandboxSecurityContext { seccomp: runtime_default() }),
        }),
    }
}

fn container_config(sandbox: &SandboxConfig, config: &ContainerConfig) -> v1::ContainerConfig {
    let mut labels = labels(sandbox, config.content.clone());
    labels.insert(CONTAINER_NAME.to_owned(), config.name.clone());
    let owned = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
    let fields = &config.notes.fields;
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: config.name.clone(), attempt: config.attempt }),
        image: Some(v1::ImageSpec {
            image: config.image_id.clone(),
            user_specified_image: fields.image.clone(),
        }),
        command: config.command.clone(),
        args: config.args.clone(),
        working_dir: fields.working_dir.clone(),
        envs: config
            .env
            .iter()
            .map(|(key, value)| v1::KeyValue { key: key.clone(), value: value.clone().into_bytes() })
            .collect(),
        mounts: config
            .mounts
            .iter()
            .map(|(path, directory)| v1::Mount {
                container_path: path.clone(),
                host_path: directory.clone(),
                readonly: true,
            })
            .collect(),
        labels,
        annotations: notes(&config.notes),
        log_path: config.log_path.clone(),
        linux: Some(v1::LinuxContainerConfig {
            security_context: Some(v1::LinuxContainerSecurityContext {
                masked_paths: owned(&MASKED),
                readonly_paths: owned(&READ_ONLY),
                seccomp: runtime_default(),
            }),
        }),
    }
}

/// CRI has times in ns.
fn ms(ns: i64) -> i64 {
    (ns / 1_000_000).max(0)
}

impl Cri for Grpc {
    async fn identify(&self) -> Result<Identity, CriError> {
        let call = "Version";
        let version =
            self.call(call, LOOK, self.runtime(call)?.version(v1::VersionRequest::default())).await?;
        let call = "RuntimeConfig";
        let config = self.runtime(call)?.runtime_config(v1::RuntimeConfigRequest {}).await;
        // Runtimes that do not have the call (containerd before 2.0) are configured for cgroupfs unless
        // someone changed it.
        let systemd = config
            .ok()
            .and_then(|answer| answer.into_inner().linux)
            .is_some_and(|linux| linux.cgroup_driver == i32::from(v1::CgroupDriver::Systemd));
        Ok(Identity {
            name_version: format!(
                "{}://{}",
                version.runtime_name,
                version.runtime_version.trim_start_matches('v')
            ),
            cgroup_parent: if systemd { "selvedge.slice" } else { "/selvedge" },
        })
    }

    async fn sandboxes(&self) -> Result<Vec<Sandbox>, CriError> {
        let call = "ListPodSandbox";
        let mut runtime = self.runtime(call)?;
        let list = self.call(call, LOOK, runtime.list_pod_sandbox(v1::ListPodSandboxRequest {})).await?;
        let ours = list.items.into_iter().filter_map(|item| {
            Some(Sandbox {
                key: key_of(&item.labels)?,
                ready: item.state() == v1::PodSandboxState::SandboxReady,
                fields: notes_of::<SandboxFields>(&item.annotations),
                attempt: item.metadata.as_ref().map_or(0, |metadata| metadata.attempt),
                created_at: item.created_at,
                id: item.id,
            })
        });
        Ok(ours.collect())
    }

    async fn containers(&self) -> Result<Vec<Container>, CriError> {
        let call = "ListContainers";
        let mut runtime = self.runtime(call)?;
        let list = self.call(call, LOOK, runtime.list_containers(v1::ListContainersRequest {})).await?;
        let ours = list.containers.into_iter().filter_map(|item| {
            key_of(&item.labels)?;
            let state = match item.state() {
                v1::ContainerState::ContainerCreated => ContainerState::Created,
                v1::ContainerState::ContainerRunning => ContainerState::Running,
                v1::ContainerState::ContainerExited => ContainerState::Exited,
                v1::ContainerState::ContainerUnknown => ContainerState::Unknown,
            };
            let metadata = item.metadata.unwrap_or_default();
            Some(Container {
                id: item.id,
                sandbox: item.pod_sandbox_id,
                name: metadata.name,
                attempt: metadata.attempt,
                state,
                content: item.labels.get(CONTENT).cloned().unwrap_or_default(),
                notes: notes_of::<ContainerNotes>(&item.annotations),
            })
        });
        Ok(ours.collect())
    }

    async fn details(&self, container: &str) -> Result<Option<Details>, CriError> {
        let call = "ContainerStatus";
        let request = v1::ContainerStatusRequest { container_id: container.to_owned() };
        let answer = self.call_away(call, LOOK, self.runtime(call)?.container_status(request)).await?;
        Ok(answer.status.map(|status| Details {
            started_ms: ms(status.started_at),
            finished_ms: ms(status.finished_at),
            exit_code: status.exit_code,
            reason: status.reason,
            message: status.message,
            log_path: status.log_path,
        }))
    }

    async fn image(&self, reference: &str) -> Result<Option<String>, CriError> {
        let call = "ImageStatus";
        let image = Some(v1::ImageSpec { image: reference.to_owned(), ..Default::default() });
        let request = v1::ImageStatusRequest { image };
        let answer = self.call_away(call, LOOK, self.images(call)?.image_status(request)).await?;
        Ok(answer.image.map(|image| image.id))
    }

    async fn pull(&self, reference: &str) -> Result<String, CriError> {
        let call = "PullImage";
        let image = Some(v1::ImageSpec { image: reference.to_owned(), ..Default::default() });
        let request = v1::PullImageRequest { image, sandbox_config: None };
        Ok(self.call(call, PULL, self.images(call)?.pull_image(request)).await?.image_ref)
    }

    async fn run_sandbox(&self, config: &SandboxConfig) -> Result<String, CriError> {
        let call = "RunPodSandbox";
        let request = v1::RunPodSandboxRequest { config: Some(sandbox_config(config)) };
        Ok(self.call(call, MAKE, self.runtime(call)?.run_pod_sandbox(request)).await?.pod_sandbox_id)
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), CriError> {
        let call = "StopPodSandbox";
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.call_away(call, MAKE, self.runtime(call)?.stop_pod_sandbox(request)).await?;
        let call = "RemovePodSandbox";
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.call_away(call, MAKE, self.runtime(call)?.remove_pod_sandbox(request)).await.map(drop)
    }

    async fn create_container(
        &self,
        sandbox: &str,
        sandbox_conf: &SandboxConfig,
        config: &ContainerConfig,
    ) -> Result<String, CriError> {
        let call = "CreateContainer";
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(container_config(sandbox_conf, config)),
            sandbox_config: Some(sandbox_config(sandbox_conf)),
        };
        Ok(self.call(call, MAKE, self.runtime(call)?.create_container(request)).await?.container_id)
    }

    async fn start_container(&self, id: &str) -> Result<(), CriError> {
        let call = "StartContainer";
        let request = v1::StartContainerRequest { container_id: id.to_owned() };
        self.call(call, MAKE, self.runtime(call)?.start_container(request)).await.map(drop)
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), CriError> {
        let call = "StopContainer";
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout };
        let deadline = grace.saturating_add(STOP_SLACK);
        self.call_away(call, deadline, self.runtime(call)?.stop_container(request)).await.map(drop)
    }

    async fn remove_container(&self, id: &str) -> Result<(), CriError> {
        let call = "RemoveContainer";
        let request = v1::RemoveContainerRequest { container_id: id.to_owned() };
        self.call_away(call, MAKE, self.runtime(call)?.remove_container(request)).await.map(drop)
    }

    async fn reopen_log(&self, id: &str) -> Result<(), CriError> {
        let call = "ReopenContainerLog";
        let request = v1::ReopenContainerLogRequest { container_id: id.to_owned() };
        self.call(call, LOOK, self.runtime(call)?.reopen_container_log(request)).await.map(drop)
    }
}
