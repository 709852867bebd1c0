//! Desired entries as the agent reads them: typed views on the JSON that the hub resolved.
//!
//! The hub makes an entry from the raw JSON of its sources (so that the content hash knows no types);
//! the agent decodes these views from it. Unknown members are ignored, so that a newer hub can add some.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    EntryKey, EntryKind,
    device::{Access, PropertyType, Protocol, Scalar, Source},
    pod::PodTemplate,
};

/// What is particular to the node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSettingsEntry {
    /// Labels of the EdgeNode.
    pub labels: BTreeMap<String, String>,
    /// What to do when the EdgeNode is deleted.
    pub on_delete: OnDelete,
}

/// What an agent does on `Farewell` (sync rule 13).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum OnDelete {
    /// Containers run on and drivers go on.
    #[default]
    Keep,
    /// Containers and drivers are stopped; devices keep the values that they have.
    Stop,
    /// A member of a newer version: treated as `Keep`, never written.
    #[serde(other)]
    Unknown,
}

/// A ConfigMap's data. Its key carries the version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigMapEntry {
    /// UTF-8 values.
    pub data: BTreeMap<String, String>,
    /// Values in standard base64.
    pub binary_data: BTreeMap<String, String>,
}

/// Kinds of objects that a pod template can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ReferenceKind {
    /// Plain data.
    ConfigMap,
    /// Data that nobody else may see.
    Secret,
}

impl ReferenceKind {
    /// Both, in order.
    pub const ALL: [Self; 2] = [Self::ConfigMap, Self::Secret];

    /// As in [`Reference::kind`], and for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.entry().name()
    }

    /// The kind of the entries that carry its objects.
    #[must_use]
    pub const fn entry(self) -> EntryKind {
        match self {
            Self::ConfigMap => EntryKind::ConfigMap,
            Self::Secret => EntryKind::Secret,
        }
    }

    /// Whose objects entries of a kind carry; none: they are no references.
    #[must_use]
    pub fn of(kind: EntryKind) -> Option<Self> {
        Self::ALL.into_iter().find(|reference| reference.entry() == kind)
    }
}

/// One object that a workload names, by content (sync rule 3).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Reference {
    /// "ConfigMap" or "Secret".
    pub kind: String,
    /// Name in the workload's namespace.
    pub name: String,
    /// Its version; empty when an optional reference does not exist.
    pub version: String,
}

impl Reference {
    /// The key of the entry that carries it; none: of an unknown kind, or an optional one that does not exist.
    #[must_use]
    pub fn key(&self, namespace: &str) -> Option<EntryKey> {
        let kind = ReferenceKind::ALL.into_iter().find(|kind| kind.name() == self.kind)?;
        (!self.version.is_empty()).then(|| EntryKey {
            kind: kind.entry(),
            namespace: namespace.to_owned(),
            name: self.name.clone(),
            version: self.version.clone(),
        })
    }
}

/// An EdgeApplication, resolved for one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadEntry {
    /// The ControllerRevision that it was resolved from.
    pub revision: String,
    /// All ConfigMaps and Secrets that the template names.
    #[serde(default)]
    pub references: Vec<Reference>,
    /// The pod template with the overrides for this node applied.
    pub template: PodTemplate,
}

impl WorkloadEntry {
    /// The keys of the entries that must be in the ledger before this workload can be in force. Unknown
    /// kinds and absent optional references have none.
    pub fn reference_keys<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = EntryKey> + 'a {
        self.references.iter().filter_map(move |reference| reference.key(namespace))
    }
}

/// A Device with its model folded in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceEntry {
    /// How the device is reached; exactly one member is set.
    pub protocol: Protocol,
    /// All properties, in the model's order.
    #[serde(default)]
    pub properties: Vec<PropertyEntry>,
}

/// One property: the model's definition, the device's wiring over it, and what is desired.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PropertyEntry {
    /// Name of the property.
    pub name: String,
    /// Type of its values.
    #[serde(rename = "type")]
    pub value_type: PropertyType,
    /// Whether it can be written.
    #[serde(default)]
    pub access: Access,
    /// Lowest value, for int and float.
    #[serde(default)]
    pub minimum: Option<Scalar>,
    /// Highest value, for int and float.
    #[serde(default)]
    pub maximum: Option<Scalar>,
    /// Where it is read from and written to; none: not wired.
    #[serde(default)]
    pub source: Option<Source>,
    /// How often it is read, as a duration ("500ms", "10s").
    #[serde(default)]
    pub read_interval: Option<String>,
    /// How often a changed value is reported at most, as a duration.
    #[serde(default)]
    pub report_interval: Option<String>,
    /// A change of a number smaller than this is not reported.
    #[serde(default)]
    pub deadband: Option<Scalar>,
    /// The value that the device should have.
    #[serde(default)]
    pub desired: Option<Scalar>,
}
