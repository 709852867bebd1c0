//! What goes into the index, and what comes out of an `apply`.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use selvedge_model::ReferenceKind;
use serde_json::Value;

/// An API resource that the index is made from. Its text names it in watermarks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// Cluster-scoped.
    EdgeNodes,
    /// Label `selvedge.dev/edge` says which take part.
    Namespaces,
    /// For their rollouts.
    EdgeApplications,
    /// Revisions of EdgeApplications.
    ControllerRevisions,
    /// Folded into devices.
    DeviceModels,
    /// By node.
    Devices,
    /// Of one enabled namespace.
    ConfigMaps(Arc<str>),
    /// Of one enabled namespace in which something names one.
    Secrets(Arc<str>),
}

impl Resource {
    /// What must be known before anything can be said about any node.
    pub const CORE: [Self; 6] = [
        Self::EdgeNodes,
        Self::Namespaces,
        Self::EdgeApplications,
        Self::ControllerRevisions,
        Self::DeviceModels,
        Self::Devices,
    ];

    /// Objects of a kind that pod templates name, in one namespace.
    #[must_use]
    pub fn of_references(kind: ReferenceKind, namespace: &Arc<str>) -> Self {
        match kind {
            ReferenceKind::ConfigMap => Self::ConfigMaps(namespace.clone()),
            ReferenceKind::Secret => Self::Secrets(namespace.clone()),
        }
    }

    /// The reverse of [`Resource::of_references`]; none: it is of the core.
    #[must_use]
    pub fn references(&self) -> Option<(ReferenceKind, &Arc<str>)> {
        match self {
            Self::ConfigMaps(namespace) => Some((ReferenceKind::ConfigMap, namespace)),
            Self::Secrets(namespace) => Some((ReferenceKind::Secret, namespace)),
            _ => None,
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EdgeNodes => f.write_str("edgenodes"),
            Self::Namespaces => f.write_str("namespaces"),
            Self::EdgeApplications => f.write_str("edgeapplications"),
            Self::ControllerRevisions => f.write_str("controllerrevisions"),
            Self::DeviceModels => f.write_str("devicemodels"),
            Self::Devices => f.write_str("devices"),
            Self::ConfigMaps(namespace) => write!(f, "configmaps/{namespace}"),
            Self::Secrets(namespace) => write!(f, "secrets/{namespace}"),
        }
    }
}

/// Namespace (empty for cluster-scoped kinds) and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// A key.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// One thing that a list-watch loop saw.
#[derive(Clone)]
pub enum Event {
    /// The object is there, in this state. Raw JSON, whole.
    Applied(Resource, Value),
    /// The object is gone.
    Gone {
        /// Its resource.
        resource: Resource,
        /// Its key.
        key: ObjectKey,
        /// At which revision it went or was missed.
        revision: u64,
        /// Seen in a watch (a watched deletion), not merely missing in a list.
        watched: bool,
    },
    /// The cache reflects the resource up to this revision (end of a list, bookmark).
    Reached(Resource, u64),
    /// All objects of the resource were listed, at this revision.
    Listed(Resource, u64),
    /// The most recent revision of the resource.
    Recent {
        /// Of which.
        resource: Resource,
        /// The revision.
        revision: u64,
        /// When it was asked for.
        asked: Instant,
    },
    /// Proof of a restore: what is held of the resource is of a history that is over. Until it is listed anew
    /// nothing is known of it.
    WentBack(Resource),
    /// The cache of the resource is of no one revision until it is listed (again), or not followed any more.
    Dropped(Resource),
}

/// Objects by name alone: they may be Secrets.
impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Applied(resource, object) => {
                let key = super::raw::key(object).map(|key| key.to_string()).unwrap_or_default();
                write!(f, "{resource}: {key} is at {}", super::raw::revision(object))
            }
            Self::Gone { resource, key, revision, watched } => {
                write!(f, "{resource}: {key} is gone at {revision}, watched: {watched}")
            }
            Self::Reached(resource, revision) => write!(f, "{resource}: reached {revision}"),
            Self::Listed(resource, revision) => write!(f, "{resource}: listed at {revision}"),
            Self::Recent { resource, revision, .. } => write!(f, "{resource}: is recent at {revision}"),
            Self::WentBack(resource) => write!(f, "{resource}: went back"),
            Self::Dropped(resource) => write!(f, "{resource}: dropped"),
        }
    }
}

/// A part of a node's set that is resolved in one go.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// NodeSettings.
    Settings,
    /// All workloads, and the ConfigMaps and Secrets that they name: at most 64 applications a node.
    Workloads,
    /// One device.
    Device(ObjectKey),
}

/// What an event changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Nodes whose set may have changed, and where. Empty when the event changed no meaning.
    pub parts: BTreeSet<(Arc<str>, Part)>,
    /// Of those, how many entries a change of selector, labels or placement takes away from nodes, without
    /// a watched deletion of their source.
    pub unselected: usize,
}
