//! What names an entry in a node's set.

use std::fmt;

/// Kinds of entries, in the order in which an agent puts them into force: settings first, what
/// workloads refer to before the workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EntryKind {
    /// What is particular to the node: labels and agent settings. One per node, named "node".
    NodeSettings,
    /// A ConfigMap that a workload names, keyed also by version.
    ConfigMap,
    /// A Secret that a workload names, keyed also by version.
    Secret,
    /// An EdgeApplication, resolved for the node.
    Workload,
    /// A Device with its model folded in.
    Device,
}

impl EntryKind {
    /// Every kind, in order.
    pub const ALL: [Self; 5] =
        [Self::NodeSettings, Self::ConfigMap, Self::Secret, Self::Workload, Self::Device];

    /// The stable number of the kind: on the wire, in digests and in ledgers.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::NodeSettings => 1,
            Self::ConfigMap => 2,
            Self::Secret => 3,
            Self::Workload => 4,
            Self::Device => 5,
        }
    }

    /// The kind of a stable number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    /// Name for people, logs and metric labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NodeSettings => "NodeSettings",
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
            Self::Workload => "Workload",
            Self::Device => "Device",
        }
    }
}

/// Names one entry of a node's set. `version` is empty except for ConfigMap and Secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryKey {
    /// Kind of the entry.
    pub kind: EntryKind,
    /// Namespace of its source object; empty for NodeSettings.
    pub namespace: String,
    /// Name of its source object; "node" for NodeSettings.
    pub name: String,
    /// Version by content, for ConfigMap and Secret.
    pub version: String,
}

impl EntryKey {
    /// A key without a version.
    #[must_use]
    pub fn new(kind: EntryKind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into(), version: String::new() }
    }

    /// The key of the node's own settings.
    #[must_use]
    pub fn node_settings() -> Self {
        Self::new(EntryKind::NodeSettings, "", "node")
    }
}

impl fmt::Display for EntryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind.name())?;
        for part in [&self.namespace, &self.name, &self.version] {
            if !part.is_empty() {
                write!(f, "/{part}")?;
            }
        }
        Ok(())
    }
}
