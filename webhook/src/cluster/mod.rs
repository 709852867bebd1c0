//! What a judgement needs to know of the cluster.

mod api;
mod cache;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use selvedge_model::node::Allowed;
use serde_json::Value;

pub use api::{ApiCluster, ClusterError};

/// Facts of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Namespace {
    /// It takes part at the edge: labelled `selvedge.dev/edge=enabled`.
    pub enabled: bool,
    /// Value of its Pod Security `enforce` label.
    pub level: Option<String>,
    /// All of its labels: nodes choose by them.
    pub labels: BTreeMap<String, String>,
    /// It is being deleted.
    pub terminating: bool,
}

/// A Device that uses a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its raw spec.
    pub spec: Value,
}

/// The questions; [`ApiCluster`] answers from caches and the API server, tests from a file.
pub trait Cluster: Clone + Send + Sync + 'static {
    /// A namespace; none: there is no such.
    fn namespace(&self, name: &str) -> impl Future<Output = Result<Option<Namespace>, ClusterError>> + Send;

    /// Which namespaces an EdgeNode lets in; none: there is no EdgeNode of this name.
    fn node(&self, name: &str) -> impl Future<Output = Result<Option<Allowed>, ClusterError>> + Send;

    /// The raw spec of a DeviceModel.
    fn model(
        &self,
        namespace: &str,
        name: &str,
    ) -> impl Future<Output = Result<Option<Arc<Value>>, ClusterError>> + Send;

    /// All Devices that use a model.
    fn devices_of(
        &self,
        namespace: &str,
        model: &str,
    ) -> impl Future<Output = Result<Vec<Device>, ClusterError>> + Send;
}
