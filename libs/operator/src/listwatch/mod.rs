//! The list-watch loop of the hub (sync rules 7 and 8).
//!
//! kube's `watcher` hides what the hub lives by: the revision of a list, and bookmarks. This loop lists in
//! pages from the most recent state (never with `resourceVersion=0`), watches from the list's revision with
//! bookmarks, lists anew when the revision has expired, and says in its [`Event`]s at every step which
//! revision its consumer has reached.
//!
//! In come raw JSON objects, pruned of managedFields and the last-applied annotation, decoded by the
//! consumer's function; out go events into a bounded channel. What does not decode is passed on as
//! [`Undecodable`] and wedges nothing.
//!
//! [`machine`] decides, purely, what to do next; [`held`] knows when an object went back; `request` talks to the
//! API server; [`ListWatch::run`] joins them.

pub mod held;
pub mod machine;
mod request;
mod run;

use std::time::Instant;

use kube::core::ApiResource;

pub use machine::Revision;
pub use request::ListWatchError;
pub use run::{ListWatch, Poke};

/// What the loop has learned.
#[derive(Debug)]
pub enum Event<T> {
    /// The full set at a revision: what the consumer holds and is not in it is gone.
    Listed {
        /// Revision of the list.
        revision: Revision,
        /// When it was asked for: it is not older than what anybody had seen by then.
        asked: Instant,
        /// All objects that decode.
        objects: Vec<T>,
        /// All that do not.
        undecodable: Vec<Undecodable>,
    },
    /// An object was added or changed.
    Applied {
        /// Its revision.
        revision: Revision,
        /// The object.
        object: T,
    },
    /// An object was deleted.
    Deleted {
        /// Revision of the deletion.
        revision: Revision,
        /// Its last state.
        object: T,
    },
    /// An object was added, changed or deleted that does not decode. What the consumer holds of it stays
    /// until it does, or until it is deleted.
    Undecodable {
        /// Revision of the change.
        revision: Revision,
        /// Which object.
        object: Undecodable,
        /// Whether it was deleted.
        deleted: bool,
    },
    /// Everything up to this revision has been said.
    Bookmark {
        /// The revision.
        revision: Revision,
    },
    /// Proof of a restore: the API server's most recent state, or one object of it, is at a lower revision
    /// than one that was seen. A [`Listed`](Self::Listed) of the restored state follows.
    WentBack {
        /// The highest revision seen, of all or of the object.
        seen: Revision,
        /// What that revision is now.
        now: Revision,
    },
    /// The most recent revision: of a list, after its [`Listed`](Self::Listed), or of a look at it alone.
    Recent {
        /// The revision.
        revision: Revision,
        /// When it was asked for: it is not older than what anybody had seen by then.
        asked: Instant,
    },
    /// The API server answered though there was nothing to say: a watch started or ended in order.
    Alive,
    /// A request failed; it is tried again with a backoff.
    Failed {
        /// Why.
        error: ListWatchError,
    },
}

/// Which objects, by raw path: kinds need no type here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    path: String,
    kind: String,
    fields: Option<String>,
}

impl Target {
    /// All objects of a kind, or those of one namespace.
    #[must_use]
    pub fn new(resource: &ApiResource, namespace: Option<&str>) -> Self {
        use kube::Resource as _;
        let path = kube::core::DynamicObject::url_path(resource, namespace);
        Self { path, kind: resource.kind.clone(), fields: None }
    }

    /// Only the object of this name: also what a right that is held to a name allows.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self { fields: Some(format!("metadata.name={name}")), ..self }
    }
}

/// An object that does not decode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undecodable {
    /// Empty for cluster-scoped kinds.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// Why it does not decode.
    pub error: String,
}
