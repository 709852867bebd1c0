//! The API server: objects, one revision for all of them, and what watches and lists say of it.
//!
//! In: writes. Out: lists at a revision, changes after a revision, what has expired. It is always right;
//! what is late, lost or repeated on the way from here is the loops' affair.

use std::collections::{BTreeMap, BTreeSet};

use selvedge_hub::index::{ObjectKey, Resource};
use selvedge_hub::removals::{Crd, CrdState};
use serde_json::{Value, json};

/// A restore may raise the revision by so much.
const RAISED: u64 = 1_000;

/// A change that a watch brings.
#[derive(Clone, Debug)]
pub struct Change {
    /// When, in virtual milliseconds.
    pub at: u64,
    /// Its revision.
    pub revision: u64,
    /// The object, or its last state.
    pub object: Value,
    /// It is gone.
    pub deleted: bool,
}

/// Why a write was refused.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// The resourceVersion is not the present one.
    Conflict,
    /// There is no such object.
    NotFound,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Api {
    revision: u64,
    objects: BTreeMap<(Resource, ObjectKey), Value>,
    log: BTreeMap<Resource, Vec<Change>>,
    /// Watches from below this have expired.
    compacted: BTreeMap<Resource, u64>,
    /// CRDs that are not as they were in the beginning.
    crds: BTreeMap<Crd, CrdState>,
    /// Kinds whose CRD is gone, or not served yet.
    unserved: BTreeSet<Resource>,
    /// Revisions by time: what a bookmark of a moment may say.
    times: Vec<(u64, u64)>,
}

impl Api {
    /// Creates or replaces metadata and spec of an object; its status stays. Gives its revision.
    pub fn put(&mut self, now: u64, resource: &Resource, mut object: Value) -> u64 {
        let key = key(&object);
        let place = (resource.clone(), key);
        self.revision += 1;
        let mut generation = 1;
        if let Some(old) = self.objects.get(&place) {
            generation = old["metadata"]["generation"].as_i64().unwrap_or(1);
            generation += i64::from(old["spec"] != object["spec"]);
            if object["status"].is_null() && !old["status"].is_null() {
                object["status"] = old["status"].clone();
            }
        }
        object["metadata"]["generation"] = generation.into();
        self.keep(now, place, object)
    }

    /// Deletes an object, if it is there.
    pub fn delete(&mut self, now: u64, resource: &Resource, key: &ObjectKey) -> Option<Value> {
        let object = self.objects.remove(&(resource.clone(), key.clone()))?;
        self.revision += 1;
        let change = Change { at: now, revision: self.revision, object: object.clone(), deleted: true };
        self.times.push((now, self.revision));
        self.log.entry(resource.clone()).or_default().push(change);
        Some(object)
    }

    /// A merge patch on `/status`, with the precondition that it names. None: nothing changes by it.
    pub fn patch_status(
        &mut self,
        now: u64,
        resource: &Resource,
        key: &ObjectKey,
        patch: &Value,
    ) -> Result<Value, Refused> {
        let place = (resource.clone(), key.clone());
        let mut object = self.objects.get(&place).cloned().ok_or(Refused::NotFound)?;
        let wanted = &patch["metadata"]["resourceVersion"];
        if !wanted.is_null() && *wanted != object["metadata"]["resourceVersion"] {
            return Err(Refused::Conflict);
        }
        let before = object["status"].clone();
        merge(&mut object["status"], &patch["status"]);
        if object["status"] != before {
            self.revision += 1;
            self.keep(now, place.clone(), object);
        }
        self.objects.get(&place).cloned().ok_or(Refused::NotFound)
    }

    /// What a read of a CRD says.
    pub fn crd(&self, crd: Crd) -> CrdState {
        self.crds.get(&crd).cloned().unwrap_or_else(|| CrdState::Stands { uid: crd.name().into() })
    }

    /// A CRD is on its way out, or was created anew.
    pub fn set_crd(&mut self, crd: Crd, state: CrdState) {
        self.crds.insert(crd, state);
    }

    /// Whether requests for a kind are not answered by 404.
    pub fn is_served(&self, resource: &Resource) -> bool {
        !self.unserved.contains(resource)
    }

    /// Whether objects of a kind may be created: its CRD stands and is served.
    pub fn takes(&self, resource: &Resource) -> bool {
        let crd = Crd::of_resource(resource).map(|crd| self.crd(crd));
        self.is_served(resource) && crd != Some(CrdState::Going)
    }

    /// A kind is served from now on, or not any more. What was watched of it before has expired.
    pub fn serve(&mut self, resource: &Resource, served: bool) {
        if served {
            self.unserved.remove(resource);
            self.compacted.insert(resource.clone(), self.revision);
        } else {
            self.unserved.insert(resource.clone());
        }
    }

    /// An object.
    pub fn get(&self, resource: &Resource, key: &ObjectKey) -> Option<&Value> {
        self.objects.get(&(resource.clone(), key.clone()))
    }

    /// All objects of a resource.
    pub fn objects(&self, resource: &Resource) -> impl Iterator<Item = &Value> {
        let resource = resource.clone();
        self.objects.iter().filter(move |((other, _), _)| *other == resource).map(|(_, object)| object)
    }

    /// The present revision.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The revision at a time that has passed.
    pub fn revision_at(&self, at: u64) -> u64 {
        let then = self.times.iter().rev().find(|(time, _)| *time <= at).map_or(0, |(_, revision)| *revision);
        // What was before a restore is not any more.
        then.min(self.revision)
    }

    /// The first change of a resource after a revision.
    pub fn next(&self, resource: &Resource, after: u64) -> Option<&Change> {
        let log = self.log.get(resource)?;
        log.get(log.partition_point(|change| change.revision <= after))
    }

    /// Whether a watch from `revision` can be answered.
    pub fn is_expired(&self, resource: &Resource, revision: u64) -> bool {
        self.compacted.get(resource).is_some_and(|compacted| revision < *compacted)
    }

    /// Everything is again what it was at an earlier revision. The revisions after it are given a second time, or,
    /// `raised`, begin far above all that were given, and watches from below have expired. Gives the objects that
    /// are gone by it.
    pub fn restore(&mut self, now: u64, to: u64, raised: bool) -> Vec<(Resource, Value)> {
        let mut objects = BTreeMap::new();
        for (resource, log) in &mut self.log {
            log.retain(|change| change.revision <= to);
            for change in log.iter() {
                let place = (resource.clone(), key(&change.object));
                match change.deleted {
                    true => objects.remove(&place),
                    false => objects.insert(place, change.object.clone()),
                };
            }
        }
        let before = std::mem::replace(&mut self.objects, objects);
        self.revision = if raised { self.revision + RAISED } else { to };
        if raised {
            self.compact();
        }
        self.times.push((now, self.revision));
        let uid = |object: &Value| object["metadata"]["uid"].clone();
        let gone = before.into_iter().filter(|(place, object)| {
            self.objects.get(place).is_none_or(|restored| uid(restored) != uid(object))
        });
        gone.map(|((resource, _), object)| (resource, object)).collect()
    }

    /// Forgets all changes so far.
    pub fn compact(&mut self) {
        for resource in self.log.keys() {
            self.compacted.insert(resource.clone(), self.revision);
        }
    }

    fn keep(&mut self, now: u64, place: (Resource, ObjectKey), mut object: Value) -> u64 {
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let change = Change { at: now, revision: self.revision, object: object.clone(), deleted: false };
        self.times.push((now, self.revision));
        self.log.entry(place.0.clone()).or_default().push(change);
        self.objects.insert(place, object);
        self.revision
    }
}

/// Key of an object.
pub fn key(object: &Value) -> ObjectKey {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    ObjectKey::new(text("namespace"), text("name"))
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            if let Some(target) = target.as_object_mut() {
                target.remove(name);
            }
        } else {
            merge(&mut target[name.as_str()], value);
        }
    }
}
