//! Namespaces: which take part.

use std::sync::Arc;

use selvedge_crds::EDGE_LABEL;
use serde_json::Value;

use super::{Index, Part, Touched, raw};

impl Index {
    pub(super) fn change_namespace(&mut self, name: Arc<str>, object: Option<Value>) -> Touched {
        let enabled =
            object.is_some_and(|object| raw::labels(&object).get(EDGE_LABEL).is_some_and(|v| v == "enabled"));
        let changed = if enabled { self.enabled.insert(name.clone()) } else { self.enabled.remove(&name) };
        if !changed {
            return Touched::default();
        }
        let devices = self.devices.iter().filter(|(key, _)| key.namespace == name);
        let mut parts: std::collections::BTreeSet<_> =
            devices.map(|(key, device)| (device.node.clone(), Part::Device(key.clone()))).collect();
        let revisions: Vec<_> =
            self.revisions.iter().filter(|(key, _)| key.namespace == name).map(|(_, r)| r).collect();
        parts.extend(self.touch_workloads(|node| revisions.iter().any(|revision| revision.selects(node))));
        Touched { parts, unselected: 0 }
    }

    /// Namespaces that take part.
    pub fn enabled_namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        self.enabled.iter()
    }

    pub(super) fn is_enabled(&self, namespace: &str) -> bool {
        self.enabled.contains(namespace)
    }
}
