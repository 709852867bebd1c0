//! ConfigMaps and Secrets of enabled namespaces: data is kept only of those that a workload of a served node names
//! (identity rule 12). What was dropped is fetched when a workload is resolved with it.
//!
//! Both go one way: an object is told by a version made from what it says. That of a Secret is a keyed hash,
//! because versions are visible (see [`VersionKey`]), and nothing of a Secret is decoded before the key is known.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, PoisonError};

use selvedge_model::{EntryKey, ReferenceKind, VersionKey};
use serde_json::{Value, json};

use super::{Body, Index, ObjectKey, Reason, Resource, Slot, Touched, raw};

/// Objects of one kind in one namespace.
#[derive(Debug, Default)]
pub struct References {
    listed: bool,
    objects: BTreeMap<Arc<str>, Object>,
}

/// One object: its data while something names it, else its resourceVersion.
#[derive(Debug)]
enum Object {
    Known(Version),
    Dropped(u64),
}

impl Object {
    fn revision(&self) -> u64 {
        match self {
            Self::Known(version) => version.revision,
            Self::Dropped(revision) => *revision,
        }
    }
}

/// An object in one version.
#[derive(Debug, PartialEq, Eq)]
pub struct Version {
    /// Kind of the object.
    pub kind: ReferenceKind,
    /// Name of the object.
    pub name: Arc<str>,
    /// Uid of the object.
    pub uid: Arc<str>,
    /// resourceVersion of the object.
    pub revision: u64,
    /// Short hash of the data; of a Secret: keyed.
    pub version: Arc<str>,
    /// The data.
    pub body: Arc<Body>,
}

impl Version {
    pub(super) fn entry_key(&self, namespace: &str) -> EntryKey {
        let version = self.version.to_string();
        EntryKey { version, ..EntryKey::new(self.kind.entry(), namespace, &self.name) }
    }
}

impl References {
    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    pub(super) fn keys(&self, namespace: &Arc<str>) -> Vec<ObjectKey> {
        self.objects
            .keys()
            .map(|name| ObjectKey { namespace: namespace.clone(), name: name.clone() })
            .collect()
    }
}

impl Index {
    /// Names the key of the cluster for versions of Secrets: once, before Secrets are followed.
    pub fn set_version_key(&mut self, key: VersionKey) {
        self.version_key = Some(key);
    }

    /// What is to be followed beyond the core: ConfigMaps of every namespace that takes part, Secrets only where
    /// a revision names one.
    #[must_use]
    pub fn to_follow(&self) -> BTreeSet<Resource> {
        let maps = self.enabled_namespaces().map(|namespace| Resource::ConfigMaps(namespace.clone()));
        let naming = self.revisions.iter().filter(|(key, revision)| {
            revision.names_any(ReferenceKind::Secret) && self.is_enabled(&key.namespace)
        });
        let secrets = naming.map(|(key, _)| Resource::Secrets(key.namespace.clone()));
        maps.chain(secrets.filter(|_| self.version_key.is_some())).collect()
    }

    pub(super) fn change_reference(
        &mut self,
        kind: ReferenceKind,
        key: ObjectKey,
        object: Option<Value>,
    ) -> Touched {
        let named = self.naming(kind, &key).next().is_some();
        self.unfetched().remove(&(kind, key.clone()));
        let dropped = |object: &Value| Object::Dropped(raw::revision(object));
        let new = object.map(|object| if named { self.decode(kind, &key, object) } else { dropped(&object) });
        let objects = &mut self.references.entry((kind, key.namespace.clone())).or_default().objects;
        let meaning = |object: Option<&Object>| match object {
            Some(Object::Known(version)) => Some(Some((version.uid.clone(), version.version.clone()))),
            Some(Object::Dropped(_)) => Some(None),
            None => None,
        };
        let same = meaning(objects.get(&key.name)) == meaning(new.as_ref());
        match new {
            Some(new) => objects.insert(key.name.clone(), new),
            None => objects.remove(&key.name),
        };
        if same || !named { Touched::default() } else { self.touch_naming(kind, &key) }
    }

    fn decode(&self, kind: ReferenceKind, key: &ObjectKey, mut object: Value) -> Object {
        let (version, body) = match (kind, &self.version_key) {
            (ReferenceKind::ConfigMap, _) => {
                let mut body = json!({});
                for field in ["data", "binaryData"] {
                    let value = raw::take(&mut object, &format!("/{field}"));
                    if value.as_object().is_some_and(|data| !data.is_empty()) {
                        body[field] = value;
                    }
                }
                let body = self.bodies.of(&body);
                (body.hash.short(), body)
            }
            (ReferenceKind::Secret, Some(version_key)) => {
                let data = raw::take(&mut object, "/data");
                let named = version_key.name(&key.namespace, &key.name, data);
                (named.version, self.bodies.of(&named.body.0))
            }
            (ReferenceKind::Secret, None) => return Object::Dropped(raw::revision(&object)),
        };
        Object::Known(Version {
            kind,
            name: key.name.clone(),
            uid: raw::uid(&object),
            revision: raw::revision(&object),
            version: version.into(),
            body,
        })
    }

    fn touch_naming(&mut self, kind: ReferenceKind, key: &ObjectKey) -> Touched {
        self.naming(kind, key).for_each(super::Revision::forget_resolved);
        let naming: Vec<_> = self
            .revisions
            .iter()
            .filter(|(revision, content)| {
                revision.namespace == key.namespace && content.names(kind, &key.name)
            })
            .map(|(_, content)| content)
            .collect();
        let parts =
            self.touch_workloads(|node| naming.iter().any(|revision| revision.selects(node))).collect();
        Touched { parts, unselected: 0 }
    }

    pub(super) fn references_listed(
        &mut self,
        kind: ReferenceKind,
        namespace: &Arc<str>,
        listed: bool,
    ) -> Touched {
        if listed {
            self.references.entry((kind, namespace.clone())).or_default().listed = true;
        } else {
            self.references.remove(&(kind, namespace.clone()));
            self.unfetched().retain(|(of, key)| *of != kind || key.namespace != *namespace);
        }
        let naming: Vec<_> = self
            .revisions
            .iter()
            .filter(|(key, content)| key.namespace == *namespace && content.names_any(kind))
            .map(|(_, content)| content)
            .collect();
        let parts =
            self.touch_workloads(|node| naming.iter().any(|revision| revision.selects(node))).collect();
        Touched { parts, unselected: 0 }
    }

    /// Revisions that name ConfigMaps or Secrets.
    #[must_use]
    pub fn naming_revisions(&self) -> Vec<ObjectKey> {
        let naming = self.revisions.iter().filter(|(_, revision)| revision.names_anything());
        naming.map(|(key, _)| key.clone()).collect()
    }

    /// Whether one of these nodes runs a workload of a revision, or is to. Late nodes stay on older ones.
    #[must_use]
    pub fn is_run_by(&self, key: &ObjectKey, nodes: &HashSet<Arc<str>>) -> bool {
        let Some(revision) = self.revisions.get(key) else { return false };
        let runs = |node: &Arc<str>| self.nodes.get(node).is_some_and(|node| revision.selects(node));
        let pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        if pinned.get(key).is_some_and(|late| late.iter().any(|node| nodes.contains(node) && runs(node))) {
            return true;
        }
        drop(pinned);
        // Most revisions are history, and no rollout gives them to anybody.
        let owner = revision.owner(&key.namespace);
        self.gives(&owner, &key.name)
            && nodes.iter().any(|node| runs(node) && self.target(node, &owner) == Some(&*key.name))
    }

    /// Drops the data of ConfigMaps and Secrets that none of these revisions names.
    pub fn keep_references_of(&mut self, revisions: &BTreeSet<ObjectKey>) {
        let named: HashSet<_> = revisions
            .iter()
            .filter_map(|key| Some((&key.namespace, self.revisions.get(key)?)))
            .flat_map(|(namespace, revision)| {
                revision.named().map(move |(kind, name)| (kind, namespace, name))
            })
            .collect();
        for ((kind, namespace), references) in &mut self.references {
            let objects = references.objects.iter_mut();
            let unnamed = |name: &Arc<str>| !named.contains(&(*kind, namespace, &**name));
            let unnamed = objects.filter(|(name, _)| unnamed(name));
            unnamed.for_each(|(_, object)| *object = Object::Dropped(object.revision()));
        }
    }

    /// Objects whose data must be fetched; each is named once.
    pub fn take_unfetched(&mut self) -> Vec<(Resource, ObjectKey)> {
        let taken = std::mem::take(self.unfetched()).into_iter();
        taken.map(|(kind, key)| (Resource::of_references(kind, &key.namespace), key)).collect()
    }

    /// Whether something was resolved whose data must be fetched.
    #[must_use]
    pub fn has_unfetched(&self) -> bool {
        !self.unfetched.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn unfetched(&mut self) -> &mut BTreeSet<(ReferenceKind, ObjectKey)> {
        self.unfetched.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// The resourceVersion of an object that is there and whose data was dropped.
    #[must_use]
    pub fn dropped(&self, resource: &Resource, key: &ObjectKey) -> Option<u64> {
        let (kind, namespace) = resource.references()?;
        match self.references.get(&(kind, namespace.clone()))?.objects.get(&key.name)? {
            Object::Dropped(revision) => Some(*revision),
            Object::Known(_) => None,
        }
    }

    /// `Ok(None)`: known not to exist. `Err`: not known yet.
    pub(super) fn reference(
        &self,
        kind: ReferenceKind,
        namespace: &Arc<str>,
        name: &str,
    ) -> Result<Option<&Version>, Slot> {
        let unknown =
            || Slot::held(Reason::Unknown, format!("{} {namespace}/{name} is not read yet", kind.name()));
        let references = self.references.get(&(kind, namespace.clone())).ok_or_else(unknown)?;
        match references.objects.get(name) {
            Some(Object::Known(version)) => Ok(Some(version)),
            Some(Object::Dropped(_)) => {
                let key = ObjectKey { namespace: namespace.clone(), name: name.into() };
                self.unfetched.lock().unwrap_or_else(PoisonError::into_inner).insert((kind, key));
                Err(unknown())
            }
            None if references.listed => Ok(None),
            None => Err(unknown()),
        }
    }
}
