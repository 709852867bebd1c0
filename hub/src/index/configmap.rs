//! ConfigMaps of enabled namespaces: only those that a revision names are kept (identity rule 12).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Body, Index, ObjectKey, Reason, Slot, Touched, raw};

/// ConfigMaps of one namespace.
#[derive(Debug, Default)]
pub struct ConfigMaps {
    listed: bool,
    objects: BTreeMap<Arc<str>, ConfigMap>,
}

/// A ConfigMap: its data while something names it, else that it is there.
#[derive(Debug)]
enum ConfigMap {
    Known(Version),
    Dropped,
}

/// A ConfigMap in one version.
#[derive(Debug, PartialEq, Eq)]
pub struct Version {
    /// Name of the object.
    pub name: Arc<str>,
    /// Uid of the object.
    pub uid: Arc<str>,
    /// resourceVersion of the object.
    pub revision: u64,
    /// Short hash of the data.
    pub version: Arc<str>,
    /// The data.
    pub body: Arc<Body>,
}

impl ConfigMaps {
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
    pub(super) fn change_config_map(&mut self, key: ObjectKey, object: Option<Value>) -> Touched {
        let named = self.naming(&key).next().is_some();
        self.unfetched.remove(&key);
        let new = object
            .map(|object| if named { self.decode_config_map(&key, object) } else { ConfigMap::Dropped });
        let objects = &mut self.config_maps.entry(key.namespace.clone()).or_default().objects;
        let meaning = |map: Option<&ConfigMap>| match map {
            Some(ConfigMap::Known(version)) => Some(Some((version.uid.clone(), version.version.clone()))),
            Some(ConfigMap::Dropped) => Some(None),
            None => None,
        };
        let same = meaning(objects.get(&key.name)) == meaning(new.as_ref());
        match new {
            Some(new) => objects.insert(key.name.clone(), new),
            None => objects.remove(&key.name),
        };
        if same || !named { Touched::default() } else { self.touch_naming(&key) }
    }

    fn decode_config_map(&self, key: &ObjectKey, mut object: Value) -> ConfigMap {
        let mut body = json!({});
        for field in ["data", "binaryData"] {
            let value = raw::take(&mut object, &format!("/{field}"));
            if value.as_object().is_some_and(|data| !data.is_empty()) {
                body[field] = value;
            }
        }
        let body = self.bodies.of(&body);
        ConfigMap::Known(Version {
            name: key.name.clone(),
            uid: raw::uid(&object),
            revision: raw::revision(&object),
            version: body.hash.short().into(),
            body,
        })
    }

    fn touch_naming(&mut self, key: &ObjectKey) -> Touched {
        self.naming(key).for_each(super::Revision::forget_resolved);
        let naming: Vec<_> = self
            .revisions
            .iter()
            .filter(|(revision, content)| revision.namespace == key.namespace && content.names(&key.name))
            .map(|(_, content)| content)
            .collect();
        let parts =
            self.touch_workloads(|node| naming.iter().any(|revision| revision.selects(node))).collect();
        Touched { parts, unselected: 0 }
    }

    pub(super) fn config_maps_listed(&mut self, namespace: &Arc<str>, listed: bool) -> Touched {
        if listed {
            self.config_maps.entry(namespace.clone()).or_default().listed = true;
        } else {
            self.config_maps.remove(namespace);
            self.unfetched.retain(|key| key.namespace != *namespace);
        }
        let naming: Vec<_> = self
            .revisions
            .iter()
            .filter(|(key, content)| key.namespace == *namespace && content.names_any())
            .map(|(_, content)| content)
            .collect();
        let parts =
            self.touch_workloads(|node| naming.iter().any(|revision| revision.selects(node))).collect();
        Touched { parts, unselected: 0 }
    }

    /// After the revisions of a namespace changed: data that nothing names any more is dropped, data that
    /// was dropped and is named now must be fetched.
    pub(super) fn want_config_map(&mut self, key: &ObjectKey) {
        let named = self.naming(key).next().is_some();
        let Some(maps) = self.config_maps.get_mut(&key.namespace) else { return };
        match maps.objects.get_mut(&key.name) {
            Some(ConfigMap::Dropped) if named => {
                self.unfetched.insert(key.clone());
            }
            Some(map @ ConfigMap::Known(_)) if !named => *map = ConfigMap::Dropped,
            _ => {}
        }
        if !named {
            self.unfetched.remove(key);
        }
    }

    /// ConfigMaps whose data must be fetched; each is named once.
    pub fn take_unfetched(&mut self) -> Vec<ObjectKey> {
        std::mem::take(&mut self.unfetched).into_iter().collect()
    }

    /// Whether the object is there and its data was dropped.
    #[must_use]
    pub fn is_dropped(&self, key: &ObjectKey) -> bool {
        let maps = self.config_maps.get(&key.namespace);
        maps.is_some_and(|maps| matches!(maps.objects.get(&key.name), Some(ConfigMap::Dropped)))
    }

    /// `Ok(None)`: known not to exist. `Err`: not known yet.
    pub(super) fn config_map(&self, namespace: &Arc<str>, name: &str) -> Result<Option<&Version>, Slot> {
        let unknown = || Slot::held(Reason::Unknown, format!("ConfigMap {namespace}/{name} is not read yet"));
        let maps = self.config_maps.get(namespace).ok_or_else(unknown)?;
        match maps.objects.get(name) {
            Some(ConfigMap::Known(version)) => Ok(Some(version)),
            Some(ConfigMap::Dropped) => Err(unknown()),
            None if maps.listed => Ok(None),
            None => Err(unknown()),
        }
    }
}
