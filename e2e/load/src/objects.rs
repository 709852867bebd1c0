//! The objects that a run needs in the cluster: made where they are missing, left where they are.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config, ResourceExt as _};
use serde_json::{Value, json};

use crate::options::Options;

/// On everything that a run makes; the value is the prefix.
pub const LABEL: &str = "selvedge.dev/load";
/// Requests at once: enough to keep an API server on a few cores busy.
const AT_ONCE: usize = 32;
/// Objects of one page of a list.
const PAGE: u32 = 1000;
/// Bytes of a ConfigMap: what one change brings to every node.
const CONFIG_BYTES: usize = 2048;
/// An API server answers within this, or the request failed.
const ANSWER: Duration = Duration::from_secs(30);

/// The cluster did not do what the run needs.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    /// No kubeconfig.
    #[error("no cluster: name one with --kubeconfig")]
    Kubeconfig(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The API server refused or did not answer.
    #[error("cannot {doing} {kind} {name}")]
    Api {
        /// What was tried.
        doing: &'static str,
        /// Which kind.
        kind: &'static str,
        /// Which object; empty: all of them.
        name: String,
        /// What it said.
        #[source]
        source: kube::Error,
    },
    /// The installation is not there.
    #[error(
        "ConfigMap {namespace}/selvedge-cluster has no {key}: is Selvedge installed in that namespace \
         (--system-namespace)?"
    )]
    NoCluster {
        /// Where it was looked for.
        namespace: String,
        /// What is missing.
        key: &'static str,
    },
}

/// A kind of object that a run makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Of the core API.
    Namespace,
    /// Of the core API.
    ConfigMap,
    /// Of the core API.
    Secret,
    /// Of apps/v1.
    ControllerRevision,
    /// Ours.
    EdgeNode,
    /// Ours.
    EdgeApplication,
    /// Ours.
    DeviceModel,
    /// Ours.
    Device,
}

impl Kind {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
            Self::ControllerRevision => "ControllerRevision",
            Self::EdgeNode => "EdgeNode",
            Self::EdgeApplication => "EdgeApplication",
            Self::DeviceModel => "DeviceModel",
            Self::Device => "Device",
        }
    }

    /// For kube.
    #[must_use]
    pub fn resource(self) -> ApiResource {
        let (group, version) = match self {
            Self::Namespace | Self::ConfigMap | Self::Secret => ("", "v1"),
            Self::ControllerRevision => ("apps", "v1"),
            _ => ("selvedge.dev", "v1alpha1"),
        };
        ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, self.name()))
    }
}

/// The cluster, as a run uses it.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
    prefix: String,
}

impl Cluster {
    /// The cluster of a kubeconfig, or what kubectl would use.
    ///
    /// # Errors
    /// [`ObjectsError::Kubeconfig`].
    pub async fn connect(kubeconfig: Option<&Path>, options: &Options) -> Result<Self, ObjectsError> {
        let mut config = match kubeconfig {
            Some(path) => {
                let read =
                    Kubeconfig::read_from(path).map_err(|error| ObjectsError::Kubeconfig(error.into()))?;
                Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                    .await
                    .map_err(|error| ObjectsError::Kubeconfig(error.into()))?
            }
            None => Config::infer().await.map_err(|error| ObjectsError::Kubeconfig(error.into()))?,
        };
        config.connect_timeout = Some(ANSWER);
        config.write_timeout = Some(ANSWER);
        let client = Client::try_from(config).map_err(|error| ObjectsError::Kubeconfig(error.into()))?;
        Ok(Self { client, namespace: options.namespace.clone(), prefix: options.prefix.clone() })
    }

    /// Objects of a kind, in the run's namespace where the kind has one.
    #[must_use]
    pub fn api(&self, kind: Kind) -> Api<DynamicObject> {
        match kind {
            Kind::Namespace | Kind::EdgeNode => Api::all_with(self.client.clone(), &kind.resource()),
            _ => Api::namespaced_with(self.client.clone(), &self.namespace, &kind.resource()),
        }
    }

    /// Objects of a kind in another namespace.
    #[must_use]
    pub fn api_in(&self, kind: Kind, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &kind.resource())
    }

    /// Selects what runs with this prefix have made.
    #[must_use]
    pub fn selector(&self) -> String {
        format!("{LABEL}={}", self.prefix)
    }

    /// What the installation says of itself: cluster id, epoch, CA.
    ///
    /// # Errors
    /// [`ObjectsError`].
    pub async fn identity(&self, namespace: &str) -> Result<(String, u64), ObjectsError> {
        let name = "selvedge-cluster";
        let api = self.api_in(Kind::ConfigMap, namespace);
        let map = api.get(name).await.map_err(failed("read", Kind::ConfigMap, name))?;
        let text = |key: &str| map.data.pointer(&format!("/data/{key}")).and_then(Value::as_str);
        let missing = |key| ObjectsError::NoCluster { namespace: namespace.to_owned(), key };
        let id = text("clusterId").ok_or_else(|| missing("clusterId"))?.to_owned();
        Ok((id, text("epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0)))
    }

    /// All objects of a kind that runs with this prefix made (of Namespaces and ControllerRevisions: all).
    ///
    /// # Errors
    /// [`ObjectsError::Api`].
    pub async fn list(&self, kind: Kind) -> Result<Vec<DynamicObject>, ObjectsError> {
        let mut params = ListParams::default().limit(PAGE);
        // Labels of nodes are what accidents happen to.
        if !matches!(kind, Kind::Namespace | Kind::ControllerRevision | Kind::EdgeNode) {
            params = params.labels(&self.selector());
        }
        let (api, mut all) = (self.api(kind), Vec::new());
        loop {
            let page = api.list(&params).await.map_err(failed("list", kind, ""))?;
            all.extend(page.items);
            match page.metadata.continue_ {
                Some(next) if !next.is_empty() => params.continue_token = Some(next),
                _ => break,
            }
        }
        if kind == Kind::EdgeNode {
            let ours = format!("{}-", self.prefix);
            all.retain(|node| node.name_any().starts_with(&ours));
        }
        Ok(all)
    }

    /// Makes what is missing; gives the uid of each EdgeNode of the run.
    ///
    /// # Errors
    /// [`ObjectsError::Api`].
    pub async fn ensure(&self, options: &Options) -> Result<BTreeMap<String, String>, ObjectsError> {
        let enable = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": self.namespace, "labels": {"selvedge.dev/edge": "enabled"}},
        });
        self.api(Kind::Namespace)
            .patch(&self.namespace, &PatchParams::apply("selvedge-load"), &Patch::Apply(enable))
            .await
            .map_err(failed("enable", Kind::Namespace, &self.namespace))?;
        let nodes = options.numbers().map(|number| self.node(options, number)).collect();
        self.make(Kind::EdgeNode, nodes).await?;
        let each = |object: fn(&Self, &str) -> Value| {
            (1..=options.applications).map(|n| object(self, &options.application(n))).collect()
        };
        self.make(Kind::ConfigMap, each(Self::config_map)).await?;
        self.make(Kind::EdgeApplication, each(Self::application)).await?;
        if options.devices > 0 {
            self.make(Kind::DeviceModel, vec![self.model()]).await?;
            let numbers =
                options.numbers().flat_map(|number| (1..=options.devices).map(move |d| (number, d)));
            let devices =
                numbers.map(|(number, d)| self.device(&options.device(number, d), &options.node(number)));
            self.make(Kind::Device, devices.collect()).await?;
        }
        let nodes = self.list(Kind::EdgeNode).await?;
        Ok(nodes.iter().filter_map(|node| Some((node.name_any(), node.uid()?))).collect())
    }

    /// Makes those that are not there.
    ///
    /// # Errors
    /// [`ObjectsError::Api`].
    pub async fn make(&self, kind: Kind, objects: Vec<Value>) -> Result<(), ObjectsError> {
        let there: std::collections::HashSet<String> =
            self.list(kind).await?.iter().map(|object| object.name_any()).collect();
        let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let missing: Vec<Value> =
            objects.into_iter().filter(|object| !there.contains(&name(object))).collect();
        if missing.is_empty() {
            return Ok(());
        }
        println!("makes {} {}", missing.len(), kind.name());
        let api = self.api(kind);
        let make = |object: Value| {
            let (api, name) = (api.clone(), name(&object));
            async move {
                let object: DynamicObject = serde_json::from_value(object)
                    .map_err(|error| failed("make", kind, &name)(kube::Error::SerdeError(error)))?;
                match api.create(&PostParams::default(), &object).await {
                    Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                    made => made.map(drop).map_err(failed("make", kind, &name)),
                }
            }
        };
        stream::iter(missing.into_iter().map(make)).buffer_unordered(AT_ONCE).try_collect::<()>().await
    }

    /// Deletes everything that runs with this prefix have made; the namespace stays.
    ///
    /// # Errors
    /// [`ObjectsError::Api`].
    pub async fn clean(&self) -> Result<(), ObjectsError> {
        let kinds = [Kind::Device, Kind::EdgeApplication, Kind::ConfigMap, Kind::DeviceModel, Kind::EdgeNode];
        for kind in kinds {
            let params = ListParams::default().labels(&self.selector());
            self.api(kind)
                .delete_collection(&DeleteParams::default(), &params)
                .await
                .map_err(failed("delete", kind, ""))?;
            println!("deleted every {} with {}", kind.name(), self.selector());
        }
        Ok(())
    }

    fn object(&self, kind: Kind, name: &str, rest: Value) -> Value {
        let resource = kind.resource();
        let mut object = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": name, "labels": {LABEL: self.prefix}},
        });
        if let (Some(object), Value::Object(rest)) = (object.as_object_mut(), rest) {
            object.extend(rest);
        }
        object
    }

    fn node(&self, options: &Options, number: u32) -> Value {
        // A fleet of thousands takes longer to join than a machine that somebody stands at.
        let mut node =
            self.object(Kind::EdgeNode, &options.node(number), json!({"spec": {"join": {"ttl": "24h"}}}));
        if options.ca_key.is_some() {
            // Nobody will join: without this the controller would make a join key for each.
            let current = json!({"publicKey": "", "serial": "", "notAfter": "2100-01-01T00:00:00Z"});
            let record = json!({ "current": current }).to_string();
            node["metadata"]["annotations"] = json!({"selvedge.dev/identity": record});
        }
        node
    }

    fn config_map(&self, name: &str) -> Value {
        self.object(Kind::ConfigMap, name, json!({"data": {"page": page(0)}}))
    }

    fn application(&self, name: &str) -> Value {
        let container = json!({
            "name": "web",
            "image": "selvedge.dev/busybox:1",
            "command": ["sh", "-c", "exec httpd -f -p 8080 -h /www"],
            "volumeMounts": [{"name": "pages", "mountPath": "/www"}],
        });
        let spec = json!({
            "containers": [container],
            "volumes": [{"name": "pages", "configMap": {"name": name}}],
        });
        let selector = json!({"matchLabels": {LABEL: self.prefix}});
        let spec = json!({"spec": {"selector": selector, "template": {"spec": spec}}});
        self.object(Kind::EdgeApplication, name, spec)
    }

    fn model(&self) -> Value {
        let property = |name: &str, access: &str| json!({"name": name, "type": "int", "access": access, "source": {"simulated": {}}});
        let properties = [property("reading", "ReadOnly"), property("setpoint", "ReadWrite")];
        self.object(Kind::DeviceModel, &self.prefix, json!({"spec": {"properties": properties}}))
    }

    fn device(&self, name: &str, node: &str) -> Value {
        let spec = json!({
            "modelRef": {"name": self.prefix},
            "nodeName": node,
            "protocol": {"simulated": {}},
            "desired": {"setpoint": 0},
        });
        self.object(Kind::Device, name, json!({"spec": spec}))
    }
}

/// The text of a ConfigMap in its `turn`: another one each time, always of the same size.
#[must_use]
pub fn page(turn: u64) -> String {
    let head = format!("turn {turn:020} ");
    // No two bytes alike in a row, so that nothing on the way makes it smaller than it is.
    let rest = (head.len()..CONFIG_BYTES).map(|n| char::from(b'a' + (n * 7 % 26) as u8));
    head.chars().chain(rest).collect()
}

/// Names what was tried.
pub fn failed(doing: &'static str, kind: Kind, name: &str) -> impl FnOnce(kube::Error) -> ObjectsError {
    let name = name.to_owned();
    move |source| ObjectsError::Api { doing, kind: kind.name(), name, source }
}
