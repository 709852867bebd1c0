//! What devices stand on: their models and their nodes, and which devices stand on each.
//!
//! In: changes of models and nodes, devices as they are looked at. Out: the devices that a change touches,
//! without looking through all of them; and whether so many nodes are away that the fault may be ours. Pure.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::Value;

/// Namespace and name of a Device or DeviceModel.
pub type Key = (String, String);

/// A device, as it was looked at last.
#[derive(Debug, PartialEq, Eq)]
struct Wired {
    model: Key,
    node: String,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Neighbours {
    devices: HashMap<Key, Wired>,
    of_model: HashMap<Key, BTreeSet<Key>>,
    of_node: HashMap<String, BTreeSet<Key>>,
    models: HashMap<Key, Arc<Value>>,
    /// Whether each node is connected; none while nobody has said.
    nodes: HashMap<String, Option<bool>>,
    away: usize,
}

impl Neighbours {
    /// The spec of the model of a device, and whether its node is there and connected. From now on changes of
    /// both touch it.
    pub fn of(&mut self, device: Key, model: Key, node: &str) -> (Option<Arc<Value>>, Option<Option<bool>>) {
        let stands = (self.models.get(&model).cloned(), self.nodes.get(node).copied());
        let wired = Wired { model, node: node.to_owned() };
        if self.devices.get(&device) != Some(&wired) {
            self.forget(&device);
            self.of_model.entry(wired.model.clone()).or_default().insert(device.clone());
            self.of_node.entry(wired.node.clone()).or_default().insert(device.clone());
            self.devices.insert(device, wired);
        }
        stands
    }

    /// A device is no longer there.
    pub fn forget(&mut self, device: &Key) {
        let Some(wired) = self.devices.remove(device) else { return };
        if let Some(devices) = self.of_model.get_mut(&wired.model) {
            devices.remove(device);
            if devices.is_empty() {
                self.of_model.remove(&wired.model);
            }
        }
        if let Some(devices) = self.of_node.get_mut(&wired.node) {
            devices.remove(device);
            if devices.is_empty() {
                self.of_node.remove(&wired.node);
            }
        }
    }

    /// A model has this spec now, or is gone. Returns the devices that this touches: none when only its status
    /// changed.
    pub fn model(&mut self, model: &Key, spec: Option<Value>) -> Vec<Key> {
        if self.models.get(model).map(|spec| &**spec) == spec.as_ref() {
            return Vec::new();
        }
        match spec {
            Some(spec) => self.models.insert(model.clone(), Arc::new(spec)),
            None => self.models.remove(model),
        };
        self.of_model.get(model).into_iter().flatten().cloned().collect()
    }

    /// A node is there and (not) connected, or gone. Returns the devices that this touches: none for the many
    /// other changes of a node.
    pub fn node(&mut self, node: &str, connected: Option<Option<bool>>) -> Vec<Key> {
        let before = match connected {
            Some(connected) => self.nodes.insert(node.to_owned(), connected),
            None => self.nodes.remove(node),
        };
        if before == connected {
            return Vec::new();
        }
        self.away += usize::from(connected == Some(Some(false)));
        self.away -= usize::from(before == Some(Some(false)));
        self.of_node.get(node).into_iter().flatten().cloned().collect()
    }

    /// Whether more than half of all nodes are away.
    #[must_use]
    pub fn most_are_away(&self) -> bool {
        self.away * 2 > self.nodes.len()
    }
}
