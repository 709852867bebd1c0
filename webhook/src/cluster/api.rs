//! The cluster as the API server knows it: models, nodes and namespaces from caches, devices by a direct
//! list.
//!
//! A cache is a moment behind. What it does not have is asked for directly, so that a device applied in one
//! file with its model is judged by it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::ApiResource;
use selvedge_model::node::Allowed;
use selvedge_model::pod::security::ENFORCE_LABEL;
use selvedge_operator::BoxError;
use selvedge_operator::listwatch::{Event, ListWatch, Target};
use selvedge_operator::process::Process;
use selvedge_operator::telemetry::chain;
use serde::Deserialize as _;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::cache::{Cache, Item, key};
use super::{Cluster, Device, Namespace};

/// Longest wait for the API server while a review waits: below the 5 s that the API server gives us.
const ANSWER: Duration = Duration::from_secs(4);

/// Devices a page.
const PAGE: u32 = 500;

/// Events between a loop and its cache.
const EVENTS: usize = 64;

/// The cluster could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The API server refused.
    #[error("cannot read {what}")]
    Api {
        /// What was read.
        what: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// It did not answer.
    #[error("no answer about {what} within {ANSWER:?}")]
    Timeout {
        /// What was read.
        what: String,
    },
}

/// Answers from caches and the API server.
#[derive(Clone)]
pub struct ApiCluster {
    client: Client,
    namespaces: Cache<Namespace>,
    nodes: Cache<Allowed>,
    models: Cache<Arc<Value>>,
}

impl ApiCluster {
    /// Starts the loops that fill the caches; each has a gate that opens with its first list.
    #[must_use]
    pub fn start(process: &mut Process) -> Self {
        let cluster = Self {
            client: process.client.clone(),
            namespaces: Cache::default(),
            nodes: Cache::default(),
            models: Cache::default(),
        };
        keep(process, "cache of namespaces", &namespaces(), cluster.namespaces.clone(), |o| namespace_of(&o));
        keep(process, "cache of edgenodes", &ours("EdgeNode"), cluster.nodes.clone(), |o| allowed_of(&o));
        keep(process, "cache of devicemodels", &ours("DeviceModel"), cluster.models.clone(), |mut object| {
            Arc::new(object["spec"].take())
        });
        cluster
    }

    fn api(&self, resource: &ApiResource, namespace: &str) -> Api<DynamicObject> {
        if namespace.is_empty() {
            Api::all_with(self.client.clone(), resource)
        } else {
            Api::namespaced_with(self.client.clone(), namespace, resource)
        }
    }

    async fn read(
        &self,
        resource: &ApiResource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, ClusterError> {
        if name.is_empty() {
            return Ok(None);
        }
        let what = format!("{} {name}", resource.kind);
        let object = answered(what, self.api(resource, namespace).get_opt(name)).await?;
        Ok(object.and_then(|object| serde_json::to_value(object).ok()))
    }
}

/// Spawns the loop and the task that feeds the cache.
fn keep<T: Clone + Send + Sync + 'static>(
    process: &mut Process,
    name: &'static str,
    resource: &ApiResource,
    cache: Cache<T>,
    facts: impl Fn(Value) -> T + Send + Sync + 'static,
) {
    let (out, mut events) = mpsc::channel::<Event<Item<T>>>(EVENTS);
    let list_watch =
        ListWatch::new(process.client.clone(), Target::new(resource, None), move |object: Value| {
            Ok::<_, Infallible>((key(&object), facts(object)))
        });
    let gate = process.gates.gate(name);
    let token = process.tasks.token();
    process.tasks.spawn(name, async move {
        let fill = async {
            while let Some(event) = events.recv().await {
                if let Event::Failed { error } = &event {
                    tracing::warn!(cache = name, error = chain(error), "is behind; tries again");
                }
                if cache.apply(event) {
                    gate.ready();
                }
            }
        };
        tokio::join!(list_watch.run(out, token), fill);
        Ok::<_, BoxError>(())
    });
}

impl Cluster for ApiCluster {
    async fn namespace(&self, name: &str) -> Result<Option<Namespace>, ClusterError> {
        if let Some(namespace) = self.namespaces.get("", name) {
            return Ok(Some(namespace));
        }
        Ok(self.read(&namespaces(), "", name).await?.as_ref().map(namespace_of))
    }

    async fn node(&self, name: &str) -> Result<Option<Allowed>, ClusterError> {
        if let Some(allowed) = self.nodes.get("", name) {
            return Ok(Some(allowed));
        }
        Ok(self.read(&ours("EdgeNode"), "", name).await?.as_ref().map(allowed_of))
    }

    async fn model(&self, namespace: &str, name: &str) -> Result<Option<Arc<Value>>, ClusterError> {
        if let Some(model) = self.models.get(namespace, name) {
            return Ok(Some(model));
        }
        let model = self.read(&ours("DeviceModel"), namespace, name).await?;
        Ok(model.map(|mut model| Arc::new(model["spec"].take())))
    }

    async fn devices_of(&self, namespace: &str, model: &str) -> Result<Vec<Device>, ClusterError> {
        let api = self.api(&ours("Device"), namespace);
        let params = ListParams::default().fields(&format!("spec.modelRef.name={model}")).limit(PAGE);
        let pages = async {
            let mut devices = Vec::new();
            let mut params = params;
            loop {
                let page = api.list(&params).await?;
                devices.extend(page.items.into_iter().map(|mut device| Device {
                    name: device.metadata.name.unwrap_or_default(),
                    spec: device.data["spec"].take(),
                }));
                match page.metadata.continue_.filter(|token| !token.is_empty()) {
                    Some(token) => params.continue_token = Some(token),
                    None => return Ok(devices),
                }
            }
        };
        answered(format!("the Devices of DeviceModel {model}"), pages).await
    }
}

async fn answered<T>(
    what: String,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ClusterError> {
    match timeout(ANSWER, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(ClusterError::Api { what, source }),
        Err(_) => Err(ClusterError::Timeout { what }),
    }
}

fn namespaces() -> ApiResource {
    ApiResource::erase::<k8s_openapi::api::core::v1::Namespace>(&())
}

fn ours(kind: &str) -> ApiResource {
    let group = kube::core::GroupVersionKind::gvk(selvedge_crds::GROUP, selvedge_crds::VERSION, kind);
    // Kind in lower case with an s: true of all four kinds.
    ApiResource::from_gvk(&group)
}

fn namespace_of(object: &Value) -> Namespace {
    let labels = &object["metadata"]["labels"];
    Namespace {
        enabled: labels[selvedge_crds::EDGE_LABEL] == "enabled",
        level: labels[ENFORCE_LABEL].as_str().map(str::to_owned),
        labels: BTreeMap::deserialize(labels).unwrap_or_default(),
        terminating: !object["metadata"]["deletionTimestamp"].is_null(),
    }
}

fn allowed_of(node: &Value) -> Allowed {
    Allowed::of(&node["spec"]["allowedNamespaces"])
}
