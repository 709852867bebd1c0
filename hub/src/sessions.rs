//! The sessions of this replica: who is here, and what each of them is to look at.
//!
//! In: sessions that begin and end, parts that events touched, orders of the EdgeNode controller. Out: one
//! wake-up a session, with what has gathered meanwhile (bounded by the keys of its node), and the changes
//! that the controller is told.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use selvedge_model::SessionId;
use tokio::sync::{Notify, broadcast};

use crate::index::{Part, Resource};

/// Changes that the controller's stream may be behind before it sends a snapshot instead.
const CHANGES: usize = 1024;

/// Machines outside that the controller may not have been told of yet: what finds no room says it again in a minute.
const OUTSIDE: usize = 256;

/// What a session must look at.
#[derive(Debug, Default)]
pub struct Pending {
    /// Touched parts.
    pub parts: BTreeSet<Part>,
    /// The events that touched them.
    pub raises: BTreeMap<Resource, u64>,
    /// When the oldest of them came.
    pub since: Option<Instant>,
    /// The session must end: a newer one of its node lives.
    pub superseded: bool,
    /// Two machines bear the node's identity, as far as is known until then.
    pub duplicate: Option<Instant>,
}

/// Where a session's work gathers.
#[derive(Debug, Default)]
pub struct Inbox {
    pending: Mutex<Pending>,
    /// Something is in it, or time to look again.
    pub wake: Notify,
    /// The session waits for caches or the gate to move.
    pub waits: AtomicBool,
    /// Its agent is to get a later mark of the cluster's history.
    pub unmarked: AtomicBool,
}

impl Inbox {
    /// Takes what has gathered.
    pub fn take(&self) -> Pending {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session as the controller is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Name of the node.
    pub node: Arc<str>,
    /// Uid in its certificate.
    pub uid: Arc<str>,
    /// Which session.
    pub id: SessionId,
    /// Serial number of its certificate, lower-case hex.
    pub serial: Arc<str>,
    /// It has ended.
    pub closed: bool,
}

#[derive(Debug)]
struct Live {
    seen: Seen,
    inbox: Arc<Inbox>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By uid: a re-created EdgeNode is another node.
    live: HashMap<Arc<str>, Live>,
    /// By name: which uids have a session.
    names: HashMap<Arc<str>, HashSet<Arc<str>>>,
    /// Newest session known of each uid, kept as long as its EdgeNode.
    newest: HashMap<Arc<str>, SessionId>,
    /// Uids that the controller shut out, and when it did.
    denied: HashMap<Arc<str>, Instant>,
    /// Uids that two machines bear, and until when that counts.
    duplicates: HashMap<Arc<str>, Instant>,
    /// Uids that were paused after a restore, and in which epoch.
    paused: HashMap<Arc<str>, u64>,
}

/// See the module.
#[derive(Debug)]
pub struct Sessions {
    inner: Mutex<Inner>,
    changes: broadcast::Sender<Seen>,
    /// Machines whose certificate is of an EdgeNode before the one that has their name: node and uid.
    outside: broadcast::Sender<(Arc<str>, Arc<str>)>,
}

impl Default for Sessions {
    fn default() -> Self {
        let (changes, outside) = (broadcast::Sender::new(CHANGES), broadcast::Sender::new(OUTSIDE));
        Self { inner: Mutex::default(), changes, outside }
    }
}

impl Sessions {
    /// Newest session known of a uid.
    #[must_use]
    pub fn newest(&self, uid: &str) -> Option<SessionId> {
        self.lock().newest.get(uid).copied()
    }

    /// When the controller shut a uid out; none: it did not.
    #[must_use]
    pub fn denied_at(&self, uid: &str) -> Option<Instant> {
        self.lock().denied.get(uid).copied()
    }

    /// A session begins, unless a newer one of its uid was seen meanwhile; an older one ends.
    pub fn open(&self, seen: Seen) -> Option<Arc<Inbox>> {
        let mut inner = self.lock();
        if inner.newest.get(&seen.uid).is_some_and(|newest| seen.id <= *newest) {
            return None;
        }
        inner.newest.insert(seen.uid.clone(), seen.id);
        inner.names.entry(seen.node.clone()).or_default().insert(seen.uid.clone());
        let inbox = Arc::new(Inbox::default());
        inbox.lock().duplicate = inner.duplicates.get(&seen.uid).copied();
        if let Some(older) =
            inner.live.insert(seen.uid.clone(), Live { seen: seen.clone(), inbox: inbox.clone() })
        {
            supersede(&older.inbox);
        }
        drop(inner);
        // Nobody listens while the controller is away: the next stream begins with a snapshot.
        let _ = self.changes.send(seen);
        Some(inbox)
    }

    /// A session has ended.
    pub fn close(&self, uid: &str, id: SessionId) {
        let mut inner = self.lock();
        if inner.live.get(uid).is_none_or(|live| live.seen.id != id) {
            return;
        }
        let Some(live) = inner.live.remove(uid) else { return };
        if let Some(uids) = inner.names.get_mut(&live.seen.node) {
            uids.remove(uid);
            if uids.is_empty() {
                inner.names.remove(&live.seen.node);
            }
        }
        drop(inner);
        let _ = self.changes.send(Seen { closed: true, ..live.seen });
    }

    /// An event touched these parts.
    pub fn touch(&self, parts: BTreeSet<(Arc<str>, Part)>, resource: &Resource, revision: u64, now: Instant) {
        let inner = self.lock();
        for (node, part) in parts {
            for live in inner.names.get(&node).into_iter().flatten().filter_map(|uid| inner.live.get(uid)) {
                let mut pending = live.inbox.lock();
                pending.parts.insert(part.clone());
                pending.raises.insert(resource.clone(), revision);
                pending.since.get_or_insert(now);
                drop(pending);
                live.inbox.wake.notify_one();
            }
        }
    }

    /// Caches or the gate have moved: those who wait for that look again.
    pub fn wake_waiting(&self) {
        let inner = self.lock();
        let waiting = inner.live.values().filter(|live| live.inbox.waits.load(Ordering::Relaxed));
        waiting.for_each(|live| live.inbox.wake.notify_one());
    }

    /// A mark of the cluster's history was read: those whose agents are to get one look.
    pub fn wake_unmarked(&self) {
        let inner = self.lock();
        let unmarked = inner.live.values().filter(|live| live.inbox.unmarked.load(Ordering::Relaxed));
        unmarked.for_each(|live| live.inbox.wake.notify_one());
    }

    /// Something holds for all sessions, also for those that wait for nothing.
    pub fn wake_all(&self) {
        self.lock().live.values().for_each(|live| live.inbox.wake.notify_one());
    }

    /// Two machines bear a uid; said again before `until` as long as they do.
    pub fn duplicate(&self, uid: &str, until: Instant) {
        let mut inner = self.lock();
        inner.duplicates.insert(uid.into(), until);
        if let Some(live) = inner.live.get(uid) {
            live.inbox.lock().duplicate = Some(until);
            live.inbox.wake.notify_one();
        }
    }

    /// A node was paused in an epoch: its next session is, too, unless a later one accepts the restore.
    pub fn pause(&self, uid: &Arc<str>, epoch: u64) {
        self.lock().paused.insert(uid.clone(), epoch);
    }

    /// A node has what it should have, whatever it has seen.
    pub fn resume(&self, uid: &str) {
        self.lock().paused.remove(uid);
    }

    /// Whether a node was paused in this epoch.
    #[must_use]
    pub fn is_paused(&self, uid: &str, epoch: u64) -> bool {
        self.lock().paused.get(uid).is_some_and(|paused| *paused >= epoch)
    }

    /// A newer session lives elsewhere: older ones of its uid end here.
    pub fn supersede(&self, uid: &str, newest: SessionId) {
        let mut inner = self.lock();
        let known = inner.newest.entry(uid.into()).or_default();
        *known = newest.max(*known);
        if let Some(live) = inner.live.get(uid).filter(|live| live.seen.id < newest) {
            supersede(&live.inbox);
        }
    }

    /// The controller shuts a uid out.
    pub fn deny(&self, uid: &str, now: Instant) {
        let mut inner = self.lock();
        inner.denied.entry(uid.into()).or_insert(now);
        if let Some(live) = inner.live.get(uid) {
            live.inbox.wake.notify_one();
        }
    }

    /// The EdgeNode of a uid says that it is not denied (any more), or is gone: what was remembered ends.
    pub fn forget(&self, uid: &str, gone: bool) {
        let mut inner = self.lock();
        inner.denied.remove(uid);
        if gone {
            inner.duplicates.remove(uid);
            inner.paused.remove(uid);
        }
        if gone && !inner.live.contains_key(uid) {
            inner.newest.remove(uid);
        }
    }

    /// All sessions, and the changes from then on.
    #[must_use]
    pub fn subscribe(&self) -> (Vec<Seen>, broadcast::Receiver<Seen>) {
        let inner = self.lock();
        // Under the lock: a change is in the snapshot or comes after it, never neither.
        let changes = self.changes.subscribe();
        (inner.live.values().map(|live| live.seen.clone()).collect(), changes)
    }

    /// A machine of an EdgeNode before this one asks to come in: the controller is told.
    pub fn wait_outside(&self, node: &Arc<str>, uid: &Arc<str>) {
        // Nobody listens while there is no stream.
        let _ = self.outside.send((node.clone(), uid.clone()));
    }

    /// Those that wait outside from now on.
    #[must_use]
    pub fn outside(&self) -> broadcast::Receiver<(Arc<str>, Arc<str>)> {
        self.outside.subscribe()
    }

    /// Names of the nodes that have a session here.
    #[must_use]
    pub fn nodes(&self) -> HashSet<Arc<str>> {
        self.lock().names.keys().cloned().collect()
    }

    /// How many are live.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().live.len()
    }

    /// Whether none is live.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn supersede(inbox: &Inbox) {
    inbox.lock().superseded = true;
    inbox.wake.notify_one();
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use selvedge_model::SessionId;

    use super::{Seen, Sessions};

    fn seen(counter: u64) -> Seen {
        let id = SessionId { counter, nonce: 0 };
        Seen { node: "shop".into(), uid: "u".into(), id, serial: "01".into(), closed: false }
    }

    #[test]
    fn a_newer_session_ends_an_older_one_and_not_the_other_way() {
        let sessions = Sessions::default();
        let first = sessions.open(seen(1)).unwrap();
        assert!(sessions.open(seen(1)).is_none());
        let second = sessions.open(seen(2)).unwrap();
        assert!(first.take().superseded && !second.take().superseded);
        sessions.close("u", seen(1).id);
        assert_eq!(sessions.len(), 1, "the end of the older one ended the newer one");
        sessions.supersede("u", SessionId { counter: 2, nonce: 0 });
        assert!(!second.take().superseded, "its own news ended it");
        sessions.supersede("u", SessionId { counter: 3, nonce: 0 });
        assert!(second.take().superseded);
    }

    #[test]
    fn what_is_known_of_a_node_holds_for_its_next_session_until_it_is_gone() {
        let sessions = Sessions::default();
        let until = crate::clock::now() + Duration::from_secs(300);
        let first = sessions.open(seen(1)).unwrap();
        sessions.duplicate("u", until);
        sessions.pause(&"u".into(), 4);
        assert_eq!(first.take().duplicate, Some(until));
        assert_eq!(sessions.open(seen(2)).unwrap().take().duplicate, Some(until));
        assert!(sessions.is_paused("u", 4) && !sessions.is_paused("u", 5), "a new epoch accepts");
        sessions.forget("u", false);
        assert!(sessions.is_paused("u", 4));
        sessions.forget("u", true);
        assert!(!sessions.is_paused("u", 4) && sessions.open(seen(3)).unwrap().take().duplicate.is_none());
    }
}
