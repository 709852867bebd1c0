//! Pod templates: the fields that agents support, as types.
//!
//! The decoded form is for the agent alone. What a user wrote is judged on raw JSON, because decoding
//! drops what it does not know.

pub mod consistency;
pub mod fields;
pub mod security;
pub mod support;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ReferenceKind;

/// `spec.template` of an EdgeApplication; names and meanings are those of `core/v1 PodTemplateSpec`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct PodTemplate {
    /// Labels and annotations of the pod.
    pub metadata: PodMetadata,
    /// What runs.
    pub spec: PodSpec,
}

/// Labels and annotations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct PodMetadata {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// What runs in one pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// At least one.
    pub containers: Vec<Container>,
    /// When an ended container starts again.
    pub restart_policy: RestartPolicy,
    /// Seconds between the polite signal and the final one; 30 when absent.
    pub termination_grace_period_seconds: Option<i64>,
    /// What containers can mount.
    pub volumes: Vec<Volume>,
}

/// When an ended container starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum RestartPolicy {
    /// Always.
    #[default]
    Always,
    /// When it ended with another code than 0.
    OnFailure,
    /// Never.
    Never,
    /// A member of a newer version.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// One container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// DNS label, unique in the pod.
    pub name: String,
    /// Image reference.
    pub image: String,
    /// When the image is pulled; absent: `Always` for the tag `latest` or none, else `IfNotPresent`.
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// Replaces the image's entry point.
    pub command: Vec<String>,
    /// Replaces the image's arguments.
    pub args: Vec<String>,
    /// Working directory.
    pub working_dir: Option<String>,
    /// Environment.
    pub env: Vec<EnvVar>,
    /// Environment from all keys of ConfigMaps and Secrets.
    pub env_from: Vec<EnvFrom>,
    /// Ports.
    pub ports: Vec<ContainerPort>,
    /// Mounts of the pod's volumes.
    pub volume_mounts: Vec<VolumeMount>,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImagePullPolicy {
    /// Before each start of a container.
    Always,
    /// When the node does not have it.
    IfNotPresent,
    /// Never.
    Never,
    /// A member of a newer version.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// One environment variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct EnvVar {
    /// Name.
    pub name: String,
    /// Plain value.
    pub value: Option<String>,
    /// Value from elsewhere.
    pub value_from: Option<EnvVarSource>,
}

/// Where a variable's value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct EnvVarSource {
    /// A key of a ConfigMap.
    pub config_map_key_ref: Option<KeyRef>,
    /// A key of a Secret.
    pub secret_key_ref: Option<KeyRef>,
}

impl EnvVarSource {
    /// What it names; none unless exactly one source is set.
    #[must_use]
    pub fn reference(&self) -> Option<(ReferenceKind, &KeyRef)> {
        one_of(self.config_map_key_ref.as_ref(), self.secret_key_ref.as_ref())
    }
}

/// A key of a named object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct KeyRef {
    /// Name of the object.
    pub name: String,
    /// Key in it.
    pub key: String,
    /// Whether object or key may be missing.
    pub optional: bool,
}

/// All keys of a ConfigMap or Secret as variables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct EnvFrom {
    /// Put before each name.
    pub prefix: String,
    /// The ConfigMap.
    pub config_map_ref: Option<ObjectRef>,
    /// The Secret.
    pub secret_ref: Option<ObjectRef>,
}

impl EnvFrom {
    /// What it names; none unless exactly one source is set.
    #[must_use]
    pub fn reference(&self) -> Option<(ReferenceKind, &ObjectRef)> {
        one_of(self.config_map_ref.as_ref(), self.secret_ref.as_ref())
    }
}

/// A named object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ObjectRef {
    /// Name of the object.
    pub name: String,
    /// Whether it may be missing.
    pub optional: bool,
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    /// Name.
    pub name: Option<String>,
    /// Port in the container, 1-65535.
    pub container_port: u16,
    /// Port of the edge node, 1-65535.
    pub host_port: Option<u16>,
    /// Protocol.
    pub protocol: PortProtocol,
}

/// Protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "UPPERCASE")]
pub enum PortProtocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// A member of a newer version.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// A mount of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeMount {
    /// Name of the volume.
    pub name: String,
    /// Absolute path in the container.
    pub mount_path: String,
    /// Whether the container can write. ConfigMaps and Secrets are never written.
    pub read_only: bool,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Volume {
    /// DNS label, unique in the pod.
    pub name: String,
    /// Files from a ConfigMap.
    pub config_map: Option<ConfigMapVolume>,
    /// Files from a Secret.
    pub secret: Option<SecretVolume>,
}

/// Where the files of a volume come from, whatever the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeSource<'a> {
    /// Kind of the object.
    pub kind: ReferenceKind,
    /// Its name.
    pub name: &'a str,
    /// Whether object and keys may be missing.
    pub optional: bool,
    /// Mode bits of the files; 0644 when absent.
    pub default_mode: Option<u32>,
    /// Which keys become which files; empty: all, under their names.
    pub items: &'a [KeyToPath],
}

impl Volume {
    /// What it names; none unless exactly one source is set.
    #[must_use]
    pub fn source(&self) -> Option<VolumeSource<'_>> {
        let map = self.config_map.as_ref().map(|map| VolumeSource {
            kind: ReferenceKind::ConfigMap,
            name: &map.name,
            optional: map.optional,
            default_mode: map.default_mode,
            items: &map.items,
        });
        let secret = self.secret.as_ref().map(|secret| VolumeSource {
            kind: ReferenceKind::Secret,
            name: &secret.secret_name,
            optional: secret.optional,
            default_mode: secret.default_mode,
            items: &secret.items,
        });
        one_of(map, secret).map(|(_, source)| source)
    }
}

fn one_of<T>(config_map: Option<T>, secret: Option<T>) -> Option<(ReferenceKind, T)> {
    match (config_map, secret) {
        (Some(named), None) => Some((ReferenceKind::ConfigMap, named)),
        (None, Some(named)) => Some((ReferenceKind::Secret, named)),
        _ => None,
    }
}

/// Files from a ConfigMap: one per key, or the items named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigMapVolume {
    /// Name of the ConfigMap.
    pub name: String,
    /// Whether it may be missing.
    pub optional: bool,
    /// Mode bits of the files; 0644 when absent.
    pub default_mode: Option<u32>,
    /// Which keys become which files; empty: all, under their names.
    pub items: Vec<KeyToPath>,
}

/// Files from a Secret: one per key, or the items named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct SecretVolume {
    /// Name of the Secret.
    pub secret_name: String,
    /// Whether it may be missing.
    pub optional: bool,
    /// Mode bits of the files; 0644 when absent.
    pub default_mode: Option<u32>,
    /// Which keys become which files; empty: all, under their names.
    pub items: Vec<KeyToPath>,
}

/// One key as one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct KeyToPath {
    /// Key.
    pub key: String,
    /// Relative path of the file, without "..".
    pub path: String,
}

/// What a pod template refers to, each with whether every mention of it is optional.
#[must_use]
pub fn references(template: &PodTemplate) -> BTreeMap<(ReferenceKind, String), bool> {
    let mut names = BTreeMap::new();
    let mut mention = |kind: ReferenceKind, name: &str, optional: bool| {
        let all = names.entry((kind, name.to_owned())).or_insert(true);
        *all &= optional;
    };
    for container in &template.spec.containers {
        for (kind, key) in container.env.iter().filter_map(|e| e.value_from.as_ref()?.reference()) {
            mention(kind, &key.name, key.optional);
        }
        for (kind, object) in container.env_from.iter().filter_map(EnvFrom::reference) {
            mention(kind, &object.name, object.optional);
        }
    }
    for volume in template.spec.volumes.iter().filter_map(Volume::source) {
        mention(volume.kind, volume.name, volume.optional);
    }
    names
}
