//! The objects of the small world: how each kind looks in the API.

use selvedge_hub::index::Resource;
use selvedge_model::rollout::{Interval, POSITIONS};
use serde_json::{Value, json};

/// The one namespace.
pub const SHOP: &str = "shop";
/// Applications, and the ConfigMap that each may name.
pub const APPLICATIONS: [(&str, &str); 2] = [("web", "settings"), ("batch", "jobs")];
/// Names of devices.
pub const DEVICES: [&str; 5] = ["d1", "d2", "d3", "d4", "d5"];
/// The one model.
pub const MODEL: &str = "tank";
/// Labels of nodes that selectors look at.
pub const TIERS: [&str; 2] = ["a", "b"];

/// The resource of ConfigMaps here.
pub fn config_maps() -> Resource {
    Resource::ConfigMaps(SHOP.into())
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
    /// The ConfigMap that it names, and whether that is optional.
    pub config_map: Option<(String, bool)>,
    /// The image of its one container; nodes of tier b run another.
    pub image: String,
}

impl Release {
    /// The pod template.
    fn template(&self) -> Value {
        let mut container = json!({"name": "c", "image": self.image});
        if let Some((name, optional)) = &self.config_map {
            container["envFrom"] = json!([{"configMapRef": {"name": name, "optional": optional}}]);
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
