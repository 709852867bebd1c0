//! Devices and their models: a device is resolved with its model folded in, so that agents need no model.

use std::collections::BTreeSet;
use std::sync::Arc;

use selvedge_model::device::rules::check_device;
use selvedge_model::{DeviceEntry, EntryKey};
use serde::Deserialize as _;
use serde_json::{Map, Value, json};

use super::namespace::not_enabled;
use super::node::unknown_node;
use super::{Body, Held, Index, ObjectKey, Part, Present, Reason, Slot, Touched, raw};

/// Faults that a message names; the device-controller's condition names them all.
const FAULTS: usize = 3;

/// Fields of a model's property that a device's property may override.
const WIRING: [&str; 4] = ["source", "readInterval", "reportInterval", "deadband"];

/// Fields of a model's property that agents read.
const DEFINITION: [&str; 9] =
    ["name", "type", "access", "minimum", "maximum", "source", "readInterval", "reportInterval", "deadband"];

/// A DeviceModel: of its spec the properties, raw.
#[derive(Debug, PartialEq)]
pub struct Model {
    spec: Value,
}

/// A Device, resolved.
#[derive(Debug)]
pub struct Device {
    pub(super) node: Arc<str>,
    pub(super) uid: Arc<str>,
    pub(super) revision: u64,
    generation: i64,
    model: ObjectKey,
    /// protocol, properties and desired of its spec, as compact JSON: for when the model changes.
    spec: Box<[u8]>,
    resolved: Result<Arc<Body>, Held>,
    ready: bool,
    applied: bool,
    /// Its status says that nobody knows: what was said of an offline node.
    overwritten: bool,
}

/// How one device stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct DeviceStands {
    /// It answers.
    pub connected: bool,
    /// What is desired is in force.
    pub applied: bool,
}

impl Index {
    pub(super) fn change_model(&mut self, key: ObjectKey, object: Option<Value>) -> Touched {
        let model = object.map(|mut object| Model {
            spec: json!({ "properties": raw::take(&mut object, "/spec/properties") }),
        });
        if self.models.get(&key) == model.as_ref() {
            return Touched::default();
        }
        match model {
            Some(model) => self.models.insert(key.clone(), model),
            None => self.models.remove(&key),
        };
        let mut touched = Touched::default();
        for device_key in self.modelled.get(&key).cloned().unwrap_or_default() {
            let Some(device) = self.devices.get(&device_key) else { continue };
            let resolved = self.resolve_device(&device.model, &device.spec);
            if let Some(device) =
                self.devices.get_mut(&device_key).filter(|device| device.resolved != resolved)
            {
                device.resolved = resolved;
                touched.parts.insert((device.node.clone(), Part::Device(device_key)));
            }
        }
        touched
    }

    pub(super) fn change_device(&mut self, key: ObjectKey, object: Option<Value>) -> Touched {
        let new = object.map(|mut object| {
            let mut spec = raw::take(&mut object, "/spec");
            let model = ObjectKey {
                namespace: key.namespace.clone(),
                name: raw::text(&spec, "/modelRef/name").unwrap_or("").into(),
            };
            let model = self.modelled.get_key_value(&model).map_or(model, |(known, _)| known.clone());
            let node = raw::text(&spec, "/nodeName").unwrap_or("");
            let node =
                self.placed.get_key_value(node).map_or_else(|| node.into(), |(known, _)| known.clone());
            let fields = ["protocol", "properties", "desired"];
            let kept = fields
                .into_iter()
                .map(|field| (field.to_owned(), raw::take(&mut spec, &format!("/{field}"))));
            let kept: Map<String, Value> = kept.filter(|(_, value)| !value.is_null()).collect();
            let spec: Box<[u8]> = Value::Object(kept).to_string().into_bytes().into();
            Device {
                node,
                uid: raw::uid(&object),
                revision: raw::revision(&object),
                generation: raw::generation(&object),
                resolved: self.resolve_device(&model, &spec),
                model,
                spec,
                ready: raw::is(&object, "Ready", "True"),
                overwritten: raw::is(&object, "Ready", "Unknown"),
                applied: raw::condition(&object, "Synced").is_some_and(|synced| {
                    synced["status"] == "True" && synced["observedGeneration"] == raw::generation(&object)
                }),
            }
        });
        let old = self.devices.remove(&key);
        let meaning = |device: &Device| {
            (device.node.clone(), device.uid.clone(), device.resolved.clone(), device.generation)
        };
        let mut touched = Touched::default();
        if old.as_ref().map(meaning) != new.as_ref().map(meaning) {
            let nodes = old.iter().chain(&new).map(|device| device.node.clone());
            touched.parts.extend(nodes.map(|node| (node, Part::Device(key.clone()))));
            let moved = new.as_ref().is_none_or(|new| old.as_ref().is_some_and(|old| old.node != new.node));
            touched.unselected = usize::from(old.is_some() && moved);
        }
        if let Some(new) = new.as_ref().filter(|new| new.overwritten && self.is_connected(&new.node)) {
            touched.parts.insert((new.node.clone(), Part::Device(key.clone())));
        }
        if let Some(old) = &old {
            forget(&mut self.placed, &old.node, &key);
            if let Some(users) = self.modelled.get_mut(&old.model) {
                users.remove(&key);
                if users.is_empty() {
                    self.modelled.remove(&old.model);
                }
            }
        }
        if let Some(new) = new {
            // One allocation for the names that many devices share: see `new`.
            let key = ObjectKey { namespace: new.model.namespace.clone(), name: key.name };
            self.placed.entry(new.node.clone()).or_default().insert(key.clone());
            self.modelled.entry(new.model.clone()).or_default().insert(key.clone());
            self.devices.insert(key, new);
        }
        touched
    }

    fn resolve_device(&self, model: &ObjectKey, spec: &[u8]) -> Result<Arc<Body>, Held> {
        let invalid = |message: String| Held { reason: Reason::Invalid, message };
        let Some(found) = self.models.get(model) else {
            let message = format!("DeviceModel {model} does not exist");
            return Err(Held { reason: Reason::MissingReference, message });
        };
        let spec: Value = serde_json::from_slice(spec).map_err(|error| invalid(error.to_string()))?;
        let faults = check_device(&spec, Some(&found.spec));
        if !faults.is_empty() {
            let faults: Vec<String> = faults.iter().take(FAULTS).map(ToString::to_string).collect();
            return Err(invalid(faults.join("; ")));
        }
        let resolved = fold(found, &spec);
        DeviceEntry::deserialize(&resolved).map_err(|error| invalid(format!("cannot be read: {error}")))?;
        Ok(self.bodies.of(&resolved))
    }

    pub(super) fn device(&self, node: &str, key: &ObjectKey) -> Slot {
        let Some(found) = self.nodes.get(node) else { return unknown_node(node) };
        let Some(device) = self.devices.get(key).filter(|device| *device.node == *node) else {
            return Slot::Absent;
        };
        if !self.is_let_in(found, &key.namespace) {
            return Slot::Absent;
        }
        if !self.is_enabled(&key.namespace) {
            return not_enabled(&key.namespace);
        }
        match &device.resolved {
            Ok(body) => Slot::Present(Present {
                body: body.clone(),
                uid: device.uid.clone(),
                source_revision: device.revision,
                revision: "".into(),
            }),
            Err(held) => Slot::Held(held.clone()),
        }
    }

    /// Whether a device is bound to a node.
    pub fn is_placed(&self, node: &str, key: &ObjectKey) -> bool {
        self.devices.get(key).is_some_and(|device| *device.node == *node)
    }

    fn is_connected(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|node| node.connected)
    }

    /// Devices of a node whose status says that nobody knows.
    pub(super) fn overwritten_devices(&self, node: &Arc<str>) -> impl Iterator<Item = (Arc<str>, Part)> {
        let devices = self.placed.get(node).into_iter().flatten();
        let devices = devices.filter(|key| self.devices.get(key).is_some_and(|device| device.overwritten));
        devices.map(|key| (node.clone(), Part::Device(key.clone())))
    }

    /// How a device stands as its status says: for sessions that have heard nothing of it yet.
    #[must_use]
    pub fn device_stands(&self, key: &EntryKey) -> Option<DeviceStands> {
        let device = self.devices.get(&ObjectKey::new(&key.namespace, &key.name))?;
        Some(DeviceStands { connected: device.ready, applied: device.applied })
    }

    /// Uid, generation and resolved body of a Device, for its status.
    #[must_use]
    pub fn device_source(&self, key: &ObjectKey) -> Option<(Arc<str>, i64, Option<Arc<Body>>)> {
        let device = self.devices.get(key)?;
        Some((device.uid.clone(), device.generation, device.resolved.as_ref().ok().cloned()))
    }
}

fn forget(
    placed: &mut std::collections::HashMap<Arc<str>, BTreeSet<ObjectKey>>,
    node: &Arc<str>,
    key: &ObjectKey,
) {
    if let Some(devices) = placed.get_mut(node) {
        devices.remove(key);
        if devices.is_empty() {
            placed.remove(node);
        }
    }
}

/// The model's properties, in its order, with the device's wiring over them and what is desired.
fn fold(model: &Model, spec: &Value) -> Value {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let own = list(&spec["properties"]);
    let properties: Vec<Value> = list(&model.spec["properties"])
        .iter()
        .map(|property| {
            let mut folded = Map::new();
            let mut copy = |from: &Value, fields: &[&str]| {
                for field in fields.iter().filter(|field| !from[**field].is_null()) {
                    folded.insert((*field).to_owned(), from[*field].clone());
                }
            };
            copy(property, &DEFINITION);
            if let Some(own) = own.iter().find(|own| own["name"] == property["name"]) {
                copy(own, &WIRING);
            }
            if let Some(value) = property["name"].as_str().and_then(|name| spec["desired"].get(name)) {
                folded.insert("desired".into(), value.clone());
            }
            Value::Object(folded)
        })
        .collect();
    json!({ "protocol": spec["protocol"], "properties": properties })
}
