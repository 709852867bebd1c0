//! What should run, resolved: references replaced by what they name, defaults filled in.
//!
//! In: a [`DesiredWorkload`] as the ledger has it in force. Out: a [`Workload`], or why it cannot be
//! taken up now. Pure.

use std::{collections::BTreeMap, fmt, time::Duration};

use selvedge_model::{
    ContentHash,
    pod::{self, ImagePullPolicy, PortProtocol, RestartPolicy, VolumeSource},
};

use super::{
    DesiredWorkload,
    cri::WorkloadKey,
    expand::expand,
    fields::{ContainerFields, SandboxFields, content},
    reference::{Referenced, References},
    volumes::VolumeId,
};

/// Kubernetes' default for `terminationGracePeriodSeconds`.
const DEFAULT_GRACE: u64 = 30;
/// Kubernetes' default mode of files from ConfigMaps and Secrets.
const DEFAULT_MODE: u32 = 0o644;

/// A workload with everything that it names.
#[derive(Debug)]
pub(super) struct Workload {
    pub(super) key: WorkloadKey,
    pub(super) uid: String,
    pub(super) content_hash: ContentHash,
    pub(super) revision: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) sandbox: SandboxFields,
    pub(super) containers: Vec<WantedContainer>,
    pub(super) volumes: BTreeMap<VolumeId, Result<VolumeFiles, String>>,
    pub(super) restart_policy: RestartPolicy,
    pub(super) grace: Duration,
}

/// A container that should run.
#[derive(Debug)]
pub(super) struct WantedContainer {
    pub(super) name: String,
    pub(super) fields: ContainerFields,
    /// [`content`] of the fields.
    pub(super) content: String,
    pub(super) pull: ImagePullPolicy,
    /// What its next start gets; an error: something that it needs is not there.
    pub(super) process: Result<Process, String>,
}

/// Command, arguments and environment with all references replaced.
#[derive(Default)]
pub(super) struct Process {
    pub(super) command: Vec<String>,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
}

/// Without what may come from a Secret.
impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(redacted)")
    }
}

/// The files of a volume.
#[derive(Debug)]
pub(super) struct VolumeFiles {
    /// Names paths, bytes and mode together: equal contents need no write.
    pub(super) content: String,
    pub(super) mode: u32,
    /// Relative path and the key that it comes from.
    paths: Vec<(String, String)>,
    source: Option<Referenced>,
}

impl VolumeFiles {
    /// Path and bytes of each file.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, Vec<u8>)> {
        let bytes = |key: &str| self.source.as_ref()?.bytes(key).ok().flatten();
        self.paths.iter().filter_map(move |(path, key)| Some((path.as_str(), bytes(key)?)))
    }
}

/// Why a workload cannot be taken up. What runs of it stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Blocked {
    /// Something that it names is not here yet.
    Waiting(String),
    /// It asks for what this version does not know.
    Unsupported(String),
}

/// Resolves a workload.
///
/// # Errors
/// [`Blocked`] when it cannot be taken up now.
pub(super) fn resolve(desired: &DesiredWorkload) -> Result<Workload, Blocked> {
    let template = &desired.entry.template;
    let spec = &template.spec;
    supported(desired)?;
    let references = References(desired);
    for ((kind, name), optional) in pod::references(template) {
        references.find(kind, &name, optional)?;
    }
    let volumes = spec
        .volumes
        .iter()
        .filter_map(|volume| Some((VolumeId::of(volume)?, files(&volume.source()?, &references))))
        .collect();
    let containers = spec
        .containers
        .iter()
        .map(|container| {
            let fields = ContainerFields::of(container, &spec.volumes);
            WantedContainer {
                name: container.name.clone(),
                content: content(&fields),
                fields,
                pull: pull_policy(container),
                process: process(container, &references),
            }
        })
        .collect();
    let grace = spec.termination_grace_period_seconds.and_then(|s| u64::try_from(s).ok());
    Ok(Workload {
        key: WorkloadKey { namespace: desired.namespace.clone(), name: desired.name.clone() },
        uid: desired.uid.clone(),
        content_hash: desired.content_hash,
        revision: desired.entry.revision.clone(),
        labels: template.metadata.labels.clone(),
        sandbox: SandboxFields::of(spec),
        containers,
        volumes,
        restart_policy: spec.restart_policy,
        grace: Duration::from_secs(grace.unwrap_or(DEFAULT_GRACE)),
    })
}

/// The webhook refuses all of this; a ledger written by a newer hub may still hold it, and names that
/// become paths are never taken on trust.
fn supported(desired: &DesiredWorkload) -> Result<(), Blocked> {
    let refuse = |what: String| Err(Blocked::Unsupported(what));
    let spec = &desired.entry.template.spec;
    for part in [&desired.namespace, &desired.name] {
        if !plain(part) {
            return refuse(format!("the name {part:?} cannot be a directory"));
        }
    }
    if spec.containers.is_empty() {
        return refuse("spec.containers is empty".into());
    }
    if spec.restart_policy == RestartPolicy::Unknown {
        return refuse("spec.restartPolicy is none that this agent knows".into());
    }
    for volume in &spec.volumes {
        let Some(source) = volume.source().filter(|_| plain(&volume.name)) else {
            return refuse(format!("volume {:?} is of a kind that this agent does not know", volume.name));
        };
        if let Some(item) = source.items.iter().find(|item| !item.path.split('/').all(plain)) {
            return refuse(format!("volume {:?}: {:?} is no path inside the volume", volume.name, item.path));
        }
    }
    for container in &spec.containers {
        let name = &container.name;
        if !plain(name) {
            return refuse(format!("the container name {name:?} cannot be a file name"));
        }
        if container.image_pull_policy == Some(ImagePullPolicy::Unknown) {
            return refuse(format!("container {name}: imagePullPolicy is none that this agent knows"));
        }
        if container.ports.iter().any(|port| port.protocol == PortProtocol::Unknown) {
            return refuse(format!("container {name}: a port has a protocol that this agent does not know"));
        }
        let foreign_env = container
            .env
            .iter()
            .any(|env| env.value_from.as_ref().is_some_and(|from| from.reference().is_none()))
            || container.env_from.iter().any(|from| from.reference().is_none());
        if foreign_env {
            return refuse(format!("container {name}: env takes a value from where this agent knows no way"));
        }
        let missing = |mount: &&pod::VolumeMount| !spec.volumes.iter().any(|v| v.name == mount.name);
        if let Some(mount) = container.volume_mounts.iter().find(missing) {
            return refuse(format!("container {name} mounts volume {:?}, which is not there", mount.name));
        }
    }
    Ok(())
}

/// Can be one component of a path. Names of the API never start with a dot; `..data` is ours.
fn plain(component: &str) -> bool {
    !component.is_empty()
        && !component.starts_with("..")
        && component != "."
        && !component.contains(['/', '\0'])
}

fn files(volume: &VolumeSource<'_>, references: &References<'_>) -> Result<VolumeFiles, String> {
    let source = references.get(volume.kind, volume.name).cloned();
    let in_source = |message: String| format!("{} {}: {message}", volume.kind.name(), volume.name);
    let paths: Vec<(String, String)> = if volume.items.is_empty() {
        let keys = source.iter().flat_map(Referenced::keys).filter(|key| plain(key));
        keys.map(|key| (key.clone(), key.clone())).collect()
    } else {
        volume.items.iter().map(|item| (item.path.clone(), item.key.clone())).collect()
    };
    let mode = volume.default_mode.unwrap_or(DEFAULT_MODE);
    let mut named = mode.to_be_bytes().to_vec();
    let mut present = Vec::with_capacity(paths.len());
    for (path, key) in paths {
        let bytes = source.as_ref().map(|source| source.bytes(&key)).transpose().map_err(in_source)?;
        let Some(bytes) = bytes.flatten() else {
            if volume.optional {
                continue;
            }
            return Err(format!("{} {} has no key {key:?}", volume.kind.name(), volume.name));
        };
        for part in [path.as_bytes(), &bytes] {
            named.extend_from_slice(&(part.len() as u64).to_be_bytes());
            named.extend_from_slice(part);
        }
        present.push((path, key));
    }
    Ok(VolumeFiles { content: ContentHash::of_canonical(&named).short(), mode, paths: present, source })
}

fn process(container: &pod::Container, references: &References<'_>) -> Result<Process, String> {
    // A list, not a map: later variables see earlier ones, and the order is the user's.
    let mut env: Vec<(String, String)> = Vec::new();
    let set = |env: &mut Vec<(String, String)>, name: String, value: String| {
        env.retain(|(existing, _)| *existing != name);
        env.push((name, value));
    };
    for from in &container.env_from {
        let found = from.reference().and_then(|(kind, object)| references.get(kind, &object.name));
        for (key, value) in found.into_iter().flat_map(Referenced::texts) {
            set(&mut env, format!("{}{key}", from.prefix), value);
        }
    }
    for variable in &container.env {
        let value = match variable.value_from.as_ref().and_then(pod::EnvVarSource::reference) {
            None => expand(variable.value.as_deref().unwrap_or_default(), |name| lookup(&env, name)),
            Some((kind, reference)) => {
                let at = format!("env {}: {} {}", variable.name, kind.name(), reference.name);
                let found = references.get(kind, &reference.name).map(|found| found.text(&reference.key));
                match found.transpose().map_err(|message| format!("{at}: {message}"))?.flatten() {
                    Some(value) => value,
                    None if reference.optional => continue,
                    None => return Err(format!("{at} has no key {:?}", reference.key)),
                }
            }
        };
        set(&mut env, variable.name.clone(), value);
    }
    let expanded =
        |texts: &[String]| texts.iter().map(|text| expand(text, |name| lookup(&env, name))).collect();
    Ok(Process { command: expanded(&container.command), args: expanded(&container.args), env })
}

fn lookup<'a>(env: &'a [(String, String)], name: &str) -> Option<&'a str> {
    env.iter().find(|(existing, _)| existing == name).map(|(_, value)| value.as_str())
}

/// The policy, with Kubernetes' default: `Always` for the tag `latest` or none, else `IfNotPresent`.
fn pull_policy(container: &pod::Container) -> ImagePullPolicy {
    container.image_pull_policy.unwrap_or_else(|| {
        let image = &container.image;
        // A colon after the last slash starts a tag; before it, a port of the registry.
        let last = image.rsplit('/').next().unwrap_or(image);
        let latest = match last.rsplit_once(':') {
            _ if last.contains('@') => false,
            Some((_, tag)) => tag == "latest",
            None => true,
        };
        if latest { ImagePullPolicy::Always } else { ImagePullPolicy::IfNotPresent }
    })
}
