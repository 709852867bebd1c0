//! What should be: read from the API's objects by rules of its own, never through the hub's index.
//!
//! In: every write of users and controllers. Out: [`Event`]s of what may be at a node from now on, and in the
//! end what each node should have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use selvedge_history::{Event, Name, Wanted};
use selvedge_hub::index::{ObjectKey, Resource};
use selvedge_model::ContentHash;
use selvedge_model::rollout::{Rollout, position};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::api::Api;
use crate::stock::{APPLICATIONS, MODEL, Release, SHOP, TIERS, config_maps};

/// Everything that ever was, as far as contents are made from it.
#[derive(Debug, Default)]
pub struct Oracle {
    /// By name.
    releases: BTreeMap<String, Release>,
    /// Uids of applications by name.
    applications: BTreeMap<String, BTreeSet<String>>,
    /// Versions of ConfigMaps by name; empty: it was not there.
    versions: BTreeMap<String, BTreeSet<String>>,
    /// Maxima of the model.
    models: BTreeSet<u64>,
    /// Of devices: name, uid, node, level, and the generation that said so.
    devices: BTreeSet<(String, String, String, u64, i64)>,
    /// Tiers that a node ever had.
    tiers: BTreeMap<String, BTreeSet<String>>,
    /// Workload contents by application, revision.
    contents: BTreeMap<(String, String), BTreeSet<Hash>>,
}

/// ContentHash with an order.
type Hash = ContentHash;

/// The key of an entry, as histories name it.
pub fn entry(kind: &str, name: &str) -> Name {
    format!("{kind}/{SHOP}/{name}").into()
}

/// The key of a node's own settings.
pub fn settings() -> Name {
    "NodeSettings/node".into()
}

fn workload_hash(revision: &str, release: &Release, tier: &str, version: Option<&str>) -> ContentHash {
    let references: Vec<Value> = release
        .config_map
        .iter()
        .map(|(name, _)| json!({"kind": "ConfigMap", "name": name, "version": version.unwrap_or_default()}))
        .collect();
    ContentHash::of(
        &json!({"revision": revision, "references": references, "template": release.template_for(tier)}),
    )
}

fn device_hash(level: u64, maximum: u64) -> ContentHash {
    ContentHash::of(&json!({"protocol": {"simulated": {}}, "properties": [{
        "name": "level", "type": "int", "access": "ReadWrite", "maximum": maximum,
        "source": {"simulated": {}}, "desired": level}]}))
}

fn settings_hash(node: &Value) -> ContentHash {
    ContentHash::of(&json!({"labels": node["metadata"]["labels"]}))
}

/// The content of a ConfigMap, which is also its version.
fn data_hash(map: &Value) -> ContentHash {
    ContentHash::of(&json!({"data": map["data"]}))
}

impl Oracle {
    /// An object was written.
    pub fn put(&mut self, resource: &Resource, object: &Value, out: &mut Vec<Event>) {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (name, uid) = (text("/metadata/name"), text("/metadata/uid"));
        match resource {
            Resource::EdgeNodes => {
                let tier = text("/metadata/labels/tier");
                let (node, hash) = (Some(name.into()), settings_hash(object));
                out.push(Event::Desired { node, key: settings(), uid: uid.into(), hash });
                if self.tiers.entry(name.into()).or_default().insert(tier.into()) {
                    self.unselected(out);
                }
            }
            Resource::EdgeApplications => {
                if self.applications.entry(name.into()).or_default().insert(uid.into()) {
                    out.push(Event::Paced { key: entry("Workload", name) });
                    let hashes: Vec<_> = self.contents_of(name).into_iter().collect();
                    let key = entry("Workload", name);
                    out.extend(hashes.into_iter().map(|hash| Event::Desired {
                        node: None,
                        key: key.clone(),
                        uid: uid.into(),
                        hash,
                    }));
                    self.unselected(out);
                }
                self.admitted(object, out);
            }
            Resource::DeviceModels => {
                let maximum = object["spec"]["properties"][0]["maximum"].as_u64().unwrap_or(0);
                self.models.insert(maximum);
                for (name, uid, node, level, _) in &self.devices {
                    out.push(desired_device(name, uid, node, *level, maximum));
                }
            }
            Resource::Devices => {
                let (node, level) = (text("/spec/nodeName"), object["spec"]["desired"]["level"].as_u64());
                let Some(level) = level else { return };
                let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
                self.devices.insert((name.into(), uid.into(), node.into(), level, generation));
                out.extend(
                    self.models.iter().map(|maximum| desired_device(name, uid, node, level, *maximum)),
                );
            }
            Resource::ConfigMaps(_) => {
                let hash = data_hash(object);
                let version = hash.short();
                let key: Name = format!("ConfigMap/{SHOP}/{name}/{version}").into();
                out.push(Event::Desired { node: None, key: key.clone(), uid: uid.into(), hash });
                // A version goes as soon as no workload of the node names it: whether none does is not judged.
                out.push(Event::Withdrawn { node: None, key, uid: uid.into() });
                self.version(name, &version, out);
            }
            Resource::ControllerRevisions | Resource::Namespaces | Resource::Secrets(_) => {}
        }
    }

    /// A ControllerRevision is about to exist.
    pub fn release(&mut self, name: &str, release: Release, out: &mut Vec<Event>) {
        let config_map = release.config_map.clone();
        self.releases.insert(name.into(), release.clone());
        let versions: Vec<Option<String>> = match &config_map {
            None => vec![None],
            Some((map, _)) => {
                let known = self.versions.get(map).into_iter().flatten().cloned().map(Some);
                // Absent, or unknown and then absent: what an optional reference says of it.
                known.chain([None]).collect()
            }
        };
        for version in versions {
            self.content(name, &release, version.as_deref(), out);
        }
        self.unselected(out);
    }

    /// An object is gone.
    pub fn gone(&mut self, resource: &Resource, object: &Value, out: &mut Vec<Event>) {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        let kind = match resource {
            Resource::EdgeApplications => "Workload",
            Resource::Devices => "Device",
            _ => return,
        };
        let (key, uid) = (entry(kind, text("name")), text("uid").into());
        out.push(Event::Withdrawn { node: None, key, uid });
    }

    /// Contents that a status may mean that names this generation of a device.
    pub fn device_contents(&self, uid: &str, generation: i64) -> Vec<ContentHash> {
        let of = self.devices.iter().filter(|device| device.1 == uid && device.4 == generation);
        of.flat_map(|device| self.models.iter().map(|maximum| device_hash(device.3, *maximum))).collect()
    }

    /// Contents that a status may mean that names this revision of an application.
    pub fn workload_contents(&self, application: &str, revision: &str) -> Vec<ContentHash> {
        let place = (application.to_owned(), revision.to_owned());
        self.contents.get(&place).into_iter().flatten().copied().collect()
    }

    /// What a node should have now. `exact`: every node that was late is admitted.
    pub fn wanted(&self, api: &Api, node: &str, exact: bool) -> Vec<(Name, Wanted)> {
        let mut wanted = Vec::new();
        let Some(object) = api.get(&Resource::EdgeNodes, &ObjectKey::new("", node)) else { return wanted };
        let uid = |object: &Value| -> Name { object["metadata"]["uid"].as_str().unwrap_or_default().into() };
        wanted.push((settings(), Wanted::OneOf(vec![(uid(object), settings_hash(object))])));
        let namespace = api.get(&Resource::Namespaces, &ObjectKey::new("", SHOP));
        let enabled =
            namespace.is_some_and(|n| n["metadata"]["labels"]["selvedge.dev/edge"] == json!("enabled"));
        let mut maps = Vec::new();
        let mut all_maps = false;
        for (name, _) in APPLICATIONS {
            let Some(app) = api.get(&Resource::EdgeApplications, &ObjectKey::new(SHOP, name)) else {
                continue;
            };
            match self.workload(api, object, app, enabled, exact) {
                None => {}
                Some(Ok((hash, map))) => {
                    wanted.push((entry("Workload", name), Wanted::OneOf(vec![(uid(app), hash)])));
                    maps.extend(map);
                }
                Some(Err(())) => {
                    wanted.push((entry("Workload", name), Wanted::Held));
                    all_maps = true;
                }
            }
        }
        if all_maps {
            // What a held workload names stays, and what that is only the agent knows.
            for (name, versions) in &self.versions {
                let key = |version: &String| format!("ConfigMap/{SHOP}/{name}/{version}").into();
                wanted.extend(versions.iter().map(|version| (key(version), Wanted::Held)));
            }
        } else {
            for map in maps {
                let (name, hash) = (map["metadata"]["name"].as_str().unwrap_or_default(), data_hash(&map));
                let key = format!("ConfigMap/{SHOP}/{name}/{}", hash.short()).into();
                wanted.push((key, Wanted::OneOf(vec![(uid(&map), hash)])));
            }
        }
        let model = api.get(&Resource::DeviceModels, &ObjectKey::new(SHOP, MODEL));
        let maximum = model.and_then(|model| model["spec"]["properties"][0]["maximum"].as_u64());
        for device in api.objects(&Resource::Devices).filter(|device| device["spec"]["nodeName"] == node) {
            let level = device["spec"]["desired"]["level"].as_u64();
            let key = entry("Device", device["metadata"]["name"].as_str().unwrap_or_default());
            let fits = level.zip(maximum).filter(|(level, maximum)| enabled && level <= maximum);
            wanted.push((
                key,
                match fits {
                    Some((level, maximum)) => Wanted::OneOf(vec![(uid(device), device_hash(level, maximum))]),
                    None => Wanted::Held,
                },
            ));
        }
        wanted
    }

    /// None: not for this node. Err: held, or the node may be on any of several revisions.
    fn workload(
        &self,
        api: &Api,
        node: &Value,
        app: &Value,
        enabled: bool,
        exact: bool,
    ) -> Option<Result<(ContentHash, Option<Value>), ()>> {
        let (app_uid, node_uid) = (app["metadata"]["uid"].as_str()?, node["metadata"]["uid"].as_str()?);
        let rollout = Rollout::deserialize(&app["status"]["rollout"]).ok();
        let Some(rollout) = rollout else { return Some(Err(())) };
        let Some(target) = rollout.revision_at(position(app_uid, node_uid)) else { return Some(Err(())) };
        if !exact && !rollout.admits(node_uid) {
            return Some(Err(()));
        }
        let there = api.get(&Resource::ControllerRevisions, &ObjectKey::new(SHOP, target)).is_some();
        let Some(release) = self.releases.get(target).filter(|_| there) else { return Some(Err(())) };
        let tier = node["metadata"]["labels"]["tier"].as_str()?;
        if !release.tiers.iter().any(|selected| selected == tier) {
            return None;
        }
        if !enabled {
            return Some(Err(()));
        }
        let Some((name, optional)) = &release.config_map else {
            return Some(Ok((workload_hash(target, release, tier, None), None)));
        };
        match api.get(&config_maps(), &ObjectKey::new(SHOP, name)) {
            Some(map) => {
                let version = data_hash(map).short();
                Some(Ok((workload_hash(target, release, tier, Some(&version)), Some(map.clone()))))
            }
            None if *optional => Some(Ok((workload_hash(target, release, tier, None), None))),
            None => Some(Err(())),
        }
    }

    fn version(&mut self, map: &str, version: &str, out: &mut Vec<Event>) {
        if !self.versions.entry(map.into()).or_default().insert(version.into()) {
            return;
        }
        for (name, release) in self.releases.clone() {
            if release.config_map.as_ref().is_some_and(|(named, _)| named == map) {
                self.content(&name, &release, Some(version), out);
            }
        }
    }

    fn content(&mut self, name: &str, release: &Release, version: Option<&str>, out: &mut Vec<Event>) {
        let key = entry("Workload", &release.application);
        for tier in TIERS {
            let hash = workload_hash(name, release, tier, version);
            self.contents.entry((release.application.clone(), name.into())).or_default().insert(hash);
            for uid in self.applications.get(&release.application).into_iter().flatten() {
                out.push(Event::Desired { node: None, key: key.clone(), uid: uid.as_str().into(), hash });
            }
        }
    }

    fn contents_of(&self, application: &str) -> BTreeSet<Hash> {
        let all = self.contents.iter().filter(|((name, _), _)| name == application);
        all.flat_map(|(_, hashes)| hashes.iter().copied()).collect()
    }

    /// Where a release leaves out a tier that a node has or had, its application may go from there.
    fn unselected(&self, out: &mut Vec<Event>) {
        for release in self.releases.values() {
            for (node, tiers) in &self.tiers {
                if tiers.iter().all(|tier| release.tiers.contains(tier)) {
                    continue;
                }
                let key = entry("Workload", &release.application);
                for uid in self.applications.get(&release.application).into_iter().flatten() {
                    let (node, uid) = (Some(Arc::from(node.as_str())), uid.as_str().into());
                    out.push(Event::Withdrawn { node, key: key.clone(), uid });
                }
            }
        }
    }

    /// Admitted nodes may go to the revision of their position.
    fn admitted(&self, app: &Value, out: &mut Vec<Event>) {
        let Ok(rollout) = Rollout::deserialize(&app["status"]["rollout"]) else { return };
        let uid = app["metadata"]["uid"].as_str().unwrap_or_default();
        let key = entry("Workload", app["metadata"]["name"].as_str().unwrap_or_default());
        for node_uid in &rollout.admitted {
            if let Some(revision) = rollout.revision_at(position(uid, node_uid)) {
                let node: Name = node_uid.trim_end_matches("-uid").into();
                out.push(Event::Passed { node, key: key.clone(), revision: revision.into() });
            }
        }
    }
}

fn desired_device(name: &str, uid: &str, node: &str, level: u64, maximum: u64) -> Event {
    let (node, key) = (Some(node.into()), entry("Device", name));
    Event::Desired { node, key, uid: uid.into(), hash: device_hash(level, maximum) }
}
