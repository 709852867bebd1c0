//! What should be: read from the API's objects by rules of its own, never through the hub's index.
//!
//! In: every write of users and controllers. Out: [`Event`]s of what may be at a node from now on, and in the
//! end what each node should have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use selvedge_history::{Event, Name, Wanted};
use selvedge_hub::index::{ObjectKey, Resource};
use selvedge_model::rollout::{Rollout, position};
use selvedge_model::{ContentHash, ReferenceKind};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::api::Api;
use crate::stock::{APPLICATIONS, MODEL, Release, SHOP, TIERS, references, version};

/// Everything that ever was, as far as contents are made from it.
#[derive(Debug, Default)]
pub struct Oracle {
    /// By name.
    releases: BTreeMap<String, Release>,
    /// Uids of applications by name.
    applications: BTreeMap<String, BTreeSet<String>>,
    /// Versions of ConfigMaps and Secrets by kind and name.
    versions: BTreeMap<(ReferenceKind, String), BTreeSet<String>>,
    /// Maxima of the model.
    models: BTreeSet<u64>,
    /// Of devices: name, uid, node, level, and the generation that said so.
    devices: BTreeSet<(String, String, String, u64, i64)>,
    /// Tiers that a node ever had.
    tiers: BTreeMap<String, BTreeSet<String>>,
    /// Key and uid of what went with its CRD, until a person lets it go.
    vanished: Vec<(Name, Name)>,
    /// Workload contents by application, revision.
    contents: BTreeMap<(String, String), BTreeSet<Hash>>,
}

/// ContentHash with an order.
type Hash = ContentHash;
/// What a node should run of an application: its content, and the ConfigMaps and Secrets that it names.
type Resolved = (Hash, Vec<(ReferenceKind, Value)>);

/// The key of an entry, as histories name it.
pub fn entry(kind: &str, name: &str) -> Name {
    format!("{kind}/{SHOP}/{name}").into()
}

/// The key of a node's own settings.
pub fn settings() -> Name {
    "NodeSettings/node".into()
}

/// `versions`: of what it names, in order; empty: what is optional is not there.
fn workload_hash(revision: &str, release: &Release, tier: &str, versions: &[String]) -> ContentHash {
    let references: Vec<Value> = release
        .references
        .keys()
        .zip(versions)
        .map(|((kind, name), version)| json!({"kind": kind.name(), "name": name, "version": version}))
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

/// The key of a version of a ConfigMap or Secret.
fn reference(kind: ReferenceKind, name: &str, version: &str) -> Name {
    format!("{}/{SHOP}/{name}/{version}", kind.name()).into()
}

/// The revision that the rollout of a workload gives to a node now.
pub fn target(api: &Api, node: &str, workload: &Name) -> Option<String> {
    let name = workload.rsplit('/').next()?;
    let app = api.get(&Resource::EdgeApplications, &ObjectKey::new(SHOP, name))?;
    let node = api.get(&Resource::EdgeNodes, &ObjectKey::new("", node))?;
    let (app_uid, node_uid) = (app["metadata"]["uid"].as_str()?, node["metadata"]["uid"].as_str()?);
    let rollout = Rollout::deserialize(&app["status"]["rollout"]).ok()?;
    rollout.revision_at(position(app_uid, node_uid)).map(str::to_owned)
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
            Resource::ConfigMaps(_) | Resource::Secrets(_) => {
                let Some((kind, _)) = resource.references() else { return };
                let (version, hash) = version(kind, object);
                let key = reference(kind, name, &version);
                out.push(Event::Desired { node: None, key: key.clone(), uid: uid.into(), hash });
                // A version goes as soon as no workload of the node names it: whether none does is not judged.
                out.push(Event::Withdrawn { node: None, key, uid: uid.into() });
                self.version(kind, name, &version, out);
            }
            Resource::ControllerRevisions | Resource::Namespaces => {}
        }
    }

    /// A ControllerRevision is about to exist.
    pub fn release(&mut self, name: &str, release: Release, out: &mut Vec<Event>) {
        self.releases.insert(name.into(), release.clone());
        self.contents_with(name, &release, out);
        self.unselected(out);
    }

    /// An object is gone.
    pub fn gone(&mut self, resource: &Resource, object: &Value, out: &mut Vec<Event>) {
        if let Some((key, uid)) = source(resource, object) {
            out.push(Event::Withdrawn { node: None, key, uid });
        }
    }

    /// An object went with its CRD: it stays at the nodes until a person lets it go.
    pub fn vanished(&mut self, resource: &Resource, object: &Value, out: &mut Vec<Event>) {
        if let Some((key, uid)) = source(resource, object) {
            out.push(Event::Vanished { key: key.clone() });
            self.vanished.push((key, uid));
        }
    }

    /// A person lets go what went with its CRD.
    pub fn released(&mut self, out: &mut Vec<Event>) {
        let vanished = std::mem::take(&mut self.vanished).into_iter();
        out.extend(vanished.map(|(key, uid)| Event::Withdrawn { node: None, key, uid }));
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
        let mut named = Vec::new();
        let mut all_versions = false;
        for (name, _) in APPLICATIONS {
            let Some(app) = api.get(&Resource::EdgeApplications, &ObjectKey::new(SHOP, name)) else {
                continue;
            };
            match self.workload(api, object, app, enabled, exact) {
                None => {}
                Some(Ok((hash, references))) => {
                    wanted.push((entry("Workload", name), Wanted::OneOf(vec![(uid(app), hash)])));
                    named.extend(references);
                }
                Some(Err(())) => {
                    wanted.push((entry("Workload", name), Wanted::Held));
                    all_versions = true;
                }
            }
        }
        if all_versions {
            // What a held workload names stays, and what that is only the agent knows.
            for ((kind, name), versions) in &self.versions {
                let key = |version: &String| reference(*kind, name, version);
                wanted.extend(versions.iter().map(|version| (key(version), Wanted::Held)));
            }
        } else {
            for (kind, object) in named {
                let (version, hash) = version(kind, &object);
                let key = reference(kind, object["metadata"]["name"].as_str().unwrap_or_default(), &version);
                wanted.push((key, Wanted::OneOf(vec![(uid(&object), hash)])));
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
    ) -> Option<Result<Resolved, ()>> {
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
        let (mut versions, mut named) = (Vec::new(), Vec::new());
        for ((kind, name), optional) in &release.references {
            match api.get(&references(*kind), &ObjectKey::new(SHOP, name)) {
                Some(object) => {
                    versions.push(version(*kind, object).0);
                    named.push((*kind, object.clone()));
                }
                None if *optional => versions.push(String::new()),
                None => return Some(Err(())),
            }
        }
        Some(Ok((workload_hash(target, release, tier, &versions), named)))
    }

    fn version(&mut self, kind: ReferenceKind, name: &str, version: &str, out: &mut Vec<Event>) {
        let named = (kind, name.to_owned());
        if !self.versions.entry(named.clone()).or_default().insert(version.into()) {
            return;
        }
        for (name, release) in self.releases.clone() {
            if release.references.contains_key(&named) {
                self.contents_with(&name, &release, out);
            }
        }
    }

    /// What a release may be with any versions of what it names: caches of two kinds lag differently.
    fn contents_with(&mut self, name: &str, release: &Release, out: &mut Vec<Event>) {
        let mut all = vec![Vec::new()];
        for named in release.references.keys() {
            // Absent, or unknown and then absent: what an optional reference says of it.
            let known = self.versions.get(named).into_iter().flatten().cloned().chain([String::new()]);
            let known: Vec<String> = known.collect();
            all = all
                .into_iter()
                .flat_map(|before: Vec<String>| {
                    known.iter().map(move |version| [before.clone(), vec![version.clone()]].concat())
                })
                .collect();
        }
        for versions in all {
            self.content(name, release, &versions, out);
        }
    }

    fn content(&mut self, name: &str, release: &Release, versions: &[String], out: &mut Vec<Event>) {
        let key = entry("Workload", &release.application);
        for tier in TIERS {
            let hash = workload_hash(name, release, tier, versions);
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

/// Key and uid of the entry that an object makes.
fn source(resource: &Resource, object: &Value) -> Option<(Name, Name)> {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    let kind = match resource {
        Resource::EdgeApplications => "Workload",
        Resource::Devices => "Device",
        _ => return None,
    };
    Some((entry(kind, text("name")), text("uid").into()))
}

fn desired_device(name: &str, uid: &str, node: &str, level: u64, maximum: u64) -> Event {
    let (node, key) = (Some(node.into()), entry("Device", name));
    Event::Desired { node, key, uid: uid.into(), hash: device_hash(level, maximum) }
}
