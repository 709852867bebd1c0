//! A cache of one kind: pruned facts by namespace and name, filled by a list-watch loop.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use selvedge_operator::listwatch::Event;
use serde_json::Value;

/// Namespace and name.
type Key = (String, String);

/// An object as it comes from the loop.
pub(super) type Item<T> = (Key, T);

/// Facts of the objects of one kind. Clones share them.
#[derive(Debug)]
pub(super) struct Cache<T>(Arc<RwLock<HashMap<Key, T>>>);

impl<T> Clone for Cache<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone> Cache<T> {
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<T> {
        let facts = self.0.read().unwrap_or_else(PoisonError::into_inner);
        facts.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Takes in an event; true once a full set was.
    pub(super) fn apply(&self, event: Event<Item<T>>) -> bool {
        let mut facts = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Listed { objects, .. } => {
                *facts = objects.into_iter().collect();
                return true;
            }
            Event::Applied { object: (key, object), .. } => {
                facts.insert(key, object);
            }
            Event::Deleted { object: (key, _), .. } => {
                facts.remove(&key);
            }
            // Every JSON object has facts, so nothing is undecodable; the rest says nothing of objects.
            Event::Undecodable { .. }
            | Event::Bookmark { .. }
            | Event::WentBack { .. }
            | Event::Recent { .. }
            | Event::Alive
            | Event::Failed { .. } => {}
        }
        false
    }
}

/// Where an object is.
pub(super) fn key(object: &Value) -> Key {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}
