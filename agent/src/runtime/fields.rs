//! The fields that the runtime knows of a sandbox and of a container, and nothing else.
//!
//! They are written on what is made from them, so that a later plan compares what runs with what is
//! wanted field by field. An agent of another version, with more fields, reads the absent ones as their
//! defaults: a new agent restarts nothing (sync invariant I8).

use selvedge_model::{
    ContentHash,
    pod::{self, EnvFrom, EnvVar, PortProtocol},
};
use serde::{Deserialize, Serialize};

use super::volumes::{Place, VolumeId};

/// What a sandbox is made from. Its hostname is the application's name, which never changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub(super) struct SandboxFields {
    /// Ports of the node that lead into it, sorted.
    pub(super) host_ports: Vec<HostPort>,
}

/// A port of the node and where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct HostPort {
    pub(super) host: u16,
    pub(super) container: u16,
    #[serde(default)]
    pub(super) udp: bool,
}

impl HostPort {
    /// What two workloads cannot both have.
    pub(super) fn claim(self) -> (u16, bool) {
        (self.host, self.udp)
    }
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.host, if self.udp { "UDP" } else { "TCP" })
    }
}

/// What a container is made from, before references and variables are resolved: a ConfigMap or
/// Secret that changes is no other container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub(super) struct ContainerFields {
    pub(super) image: String,
    pub(super) command: Vec<String>,
    pub(super) args: Vec<String>,
    pub(super) working_dir: String,
    pub(super) env: Vec<EnvVar>,
    pub(super) env_from: Vec<EnvFrom>,
    /// Sorted by path; the order says nothing.
    pub(super) mounts: Vec<Mount>,
}

/// A volume at a path. Always read-only: ConfigMaps and Secrets are all that can be mounted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Mount {
    pub(super) path: String,
    pub(super) volume: String,
    /// Its files are in memory, elsewhere than those of other volumes. Left out when false, so that the content of
    /// a container without Secrets is what agents without them wrote.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) secret: bool,
}

impl Mount {
    pub(super) fn volume(&self) -> VolumeId {
        VolumeId { place: if self.secret { Place::Memory } else { Place::Disk }, name: self.volume.clone() }
    }
}

impl SandboxFields {
    pub(super) fn of(spec: &pod::PodSpec) -> Self {
        let mut host_ports: Vec<_> = spec
            .containers
            .iter()
            .flat_map(|container| &container.ports)
            .filter_map(|port| {
                let udp = port.protocol == PortProtocol::Udp;
                Some(HostPort { host: port.host_port?, container: port.container_port, udp })
            })
            .collect();
        host_ports.sort_unstable();
        Self { host_ports }
    }

    /// Why a sandbox made from `self` is not one made from `wanted`; none: it is.
    pub(super) fn difference(&self, wanted: &Self) -> Option<&'static str> {
        (self.host_ports != wanted.host_ports).then_some("hostPort")
    }
}

impl ContainerFields {
    pub(super) fn of(container: &pod::Container, volumes: &[pod::Volume]) -> Self {
        let secret = |name: &str| volumes.iter().any(|volume| volume.name == name && volume.secret.is_some());
        let mut mounts: Vec<_> = container
            .volume_mounts
            .iter()
            .map(|mount| Mount {
                path: mount.mount_path.clone(),
                volume: mount.name.clone(),
                secret: secret(&mount.name),
            })
            .collect();
        mounts.sort_unstable();
        Self {
            image: container.image.clone(),
            command: container.command.clone(),
            args: container.args.clone(),
            working_dir: container.working_dir.clone().unwrap_or_default(),
            env: container.env.clone(),
            env_from: container.env_from.clone(),
            mounts,
        }
    }

    /// The names of the fields in which a container made from `self` is not one made from `wanted`.
    pub(super) fn differences(&self, wanted: &Self) -> Vec<&'static str> {
        [
            ("image", self.image != wanted.image),
            ("command", self.command != wanted.command),
            ("args", self.args != wanted.args),
            ("workingDir", self.working_dir != wanted.working_dir),
            ("env", self.env != wanted.env),
            ("envFrom", self.env_from != wanted.env_from),
            ("volumeMounts", self.mounts != wanted.mounts),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }
}

/// The value of the content label for fields of a sandbox or container.
pub(super) fn content(fields: &impl Serialize) -> String {
    // These types have string keys and finite numbers only, so they are always JSON.
    let value = serde_json::to_value(fields).unwrap_or_default();
    ContentHash::of(&value).short()
}
