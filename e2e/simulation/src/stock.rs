//! The objects of the small world: how each kind looks in the API.

use std::collections::BTreeMap;

use selvedge_hub::index::Resource;
use selvedge_model::rollout::{Interval, POSITIONS};
use selvedge_model::{ContentHash, ReferenceKind, VersionKey};
use serde_json::{Value, json};

/// The one namespace.
pub const SHOP: &str = "shop";
/// Applications, and the ConfigMap and the Secret that each may name: both bear the same name.
pub const APPLICATIONS: [(&str, &str); 2] = [("web", "settings"), ("batch", "jobs")];
/// Names of devices.
pub const DEVICES: [&str; 5] = ["d1", "d2", "d3", "d4", "d5"];
/// The one model.
pub const MODEL: &str = "tank";
/// Labels of nodes that selectors look at.
pub const TIERS: [&str; 2] = ["a", "b"];

/// The resource of ConfigMaps or Secrets here.
pub fn references(kind: ReferenceKind) -> Resource {
    Resource::of_references(kind, &SHOP.into())
}

/// What versions of Secrets are hashed with.
pub fn version_key() -> Option<VersionKey> {
    VersionKey::new(&[7; VersionKey::LENGTH])
}

/// The namespace, taking part or not.
pub fn namespace(enabled: bool) -> Value {
    let labels = if enabled { json!({"selvedge.dev/edge": "enabled"}) } else { json!({}) };
    json!({"metadata": {"name": SHOP, "uid": SHOP, "labels": labels}})
}

/// An EdgeNode.
pub fn node(name: &str, tier: &str) -> Value {
    json!({"metadata": {"name": name, "uid": format!("{name}-uid"), "labels": {"tier": tier}}, "spec": {}})
}

/// What a ControllerRevision of the world says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    /// Its EdgeApplication.
    pub application: String,
    /// Tiers that it selects.
    pub tiers: Vec<String>,
    /// The ConfigMap and the Secret that it names, and whether each is optional.
    pub references: BTreeMap<(ReferenceKind, String), bool>,
    /// The image of its one container; nodes of tier b run another.
    pub image: String,
}

impl Release {
    /// The pod template.
    fn template(&self) -> Value {
        let mut container = json!({"name": "c", "image": self.image});
        let sources = self.references.iter().map(|((kind, name), optional)| {
            let source = json!({"name": name, "optional": optional});
            match kind {
                ReferenceKind::ConfigMap => json!({"configMapRef": source}),
                ReferenceKind::Secret => json!({"secretRef": source}),
            }
        });
        if !self.references.is_empty() {
            container["envFrom"] = sources.collect();
        }
        json!({"spec": {"containers": [container]}})
    }

    /// The template as a node of a tier runs it.
    pub fn template_for(&self, tier: &str) -> Value {
        let mut template = self.template();
        if tier == "b" {
            template["spec"]["containers"][0]["image"] = format!("{}-b", self.image).into();
        }
        template
    }

    /// The ControllerRevision.
    pub fn object(&self, name: &str) -> Value {
        json!({
            "metadata": {"name": name, "namespace": SHOP, "uid": format!("{name}-uid"),
                "labels": {"selvedge.dev/application": self.application}},
            "data": {
                "selector": {"matchExpressions": [{"key": "tier", "operator": "In", "values": self.tiers}]},
                "template": self.template(),
                "overrides": [{"name": "b", "selector": {"matchLabels": {"tier": "b"}},
                    "containers": [{"name": "c", "image": format!("{}-b", self.image)}]}],
            },
        })
    }
}

/// An EdgeApplication without rollout state.
pub fn application(name: &str, uid: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": SHOP, "uid": uid}, "spec": {}})
}

/// `intervals` with `revision` grown to the first `to` positions.
pub fn grown(intervals: &[Interval], revision: &str, to: u64) -> Vec<Interval> {
    let mut all = vec![Interval { from: 0, to, revision: revision.to_owned() }];
    let rest = intervals.iter().filter(|interval| interval.to > to);
    all.extend(rest.map(|interval| Interval { from: interval.from.max(to), ..interval.clone() }));
    if all.iter().all(|interval| interval.to < POSITIONS) {
        all[0].to = POSITIONS;
    }
    all
}

/// A ConfigMap. What is not text is of a newer schema: no agent of this version can read it.
pub fn config_map(name: &str, uid: &str, value: u64, readable: bool, weight: usize) -> Value {
    let value = if readable { Value::from(value.to_string()) } else { Value::from(value) };
    let mut data = json!({"VALUE": value});
    if weight > 0 {
        data["WEIGHT"] = "x".repeat(weight).into();
    }
    json!({"metadata": {"name": name, "namespace": SHOP, "uid": uid}, "data": data})
}

/// A Secret. What is not text is of a newer schema, too.
pub fn secret(name: &str, uid: &str, value: u64, readable: bool) -> Value {
    let value = if readable { Value::from(format!("c2VjcmV0{value:04}")) } else { Value::from(value) };
    json!({"metadata": {"name": name, "namespace": SHOP, "uid": uid}, "data": {"PIN": value}})
}

/// Version and content of a ConfigMap or Secret as a workload and its entry name them.
pub fn version(kind: ReferenceKind, object: &Value) -> (String, ContentHash) {
    match kind {
        ReferenceKind::ConfigMap => {
            let hash = ContentHash::of(&json!({"data": object["data"]}));
            (hash.short(), hash)
        }
        ReferenceKind::Secret => {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let named = version_key().map(|key| key.name(SHOP, name, object["data"].clone()));
            named.map_or_else(
                || (String::new(), ContentHash([0; 32])),
                |named| (named.version, ContentHash::of(&named.body.0)),
            )
        }
    }
}

/// The DeviceModel.
pub fn model(maximum: u64) -> Value {
    json!({"metadata": {"name": MODEL, "namespace": SHOP, "uid": "tank-uid"}, "spec": {"properties": [
        {"name": "level", "type": "int", "access": "ReadWrite", "maximum": maximum, "unit": "l",
            "source": {"simulated": {}}}]}})
}

/// A Device. `None` asks for a property that the model does not have.
pub fn device(name: &str, uid: &str, node: &str, level: Option<u64>) -> Value {
    let desired = level.map_or_else(|| json!({"stranger": 1}), |level| json!({"level": level}));
    json!({"metadata": {"name": name, "namespace": SHOP, "uid": uid}, "spec": {
        "nodeName": node, "modelRef": {"name": MODEL}, "protocol": {"simulated": {}}, "desired": desired}})
}
