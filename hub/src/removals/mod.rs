//! What stands between a removal and the agents: the removal guard, and the CRD check (sync rule 2).
//!
//! In: watched deletions, mass changes of selection, what a read of a CRD says, questions of sessions. Out:
//! may this entry be removed now. A deleted CRD, a mistyped selector or pruned labels must not empty nodes.
//!
//! `Removals` is the shared, locked whole; `window` counts.

mod window;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use selvedge_model::crds::CrdRecord;
use selvedge_model::{EntryKey, EntryKind};
use tokio::sync::Notify;

use crate::index::Resource;
use window::Window;

/// May an entry be removed?
pub trait Gate {
    /// `exists`: its source is there, under this uid, and only does not select the node any more.
    fn ask(&self, key: &EntryKey, uid: &str, exists: bool, now: Instant) -> Removal;
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Yes; it counts.
    Allowed,
    /// Not now; the reason for conditions, in CamelCase.
    Held(&'static str),
}

/// What becomes of a session whose EdgeNode is not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// Its deletion was watched, and its CRD stands: somebody deleted it, so the agent does what `onDelete` says.
    Farewell,
    /// It is missing in a list. Nobody was seen to delete it, so it is told what a Hello would be told.
    TryLater,
    /// Not known yet, or its CRD is going: the session lives on.
    Wait,
}

/// Kinds whose objects live under a CRD of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Crd {
    /// edgenodes.selvedge.dev
    EdgeNodes,
    /// edgeapplications.selvedge.dev
    EdgeApplications,
    /// devices.selvedge.dev
    Devices,
}

impl Crd {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::EdgeNodes, Self::EdgeApplications, Self::Devices];

    /// metadata.name of the CustomResourceDefinition.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::EdgeNodes => "edgenodes.selvedge.dev",
            Self::EdgeApplications => "edgeapplications.selvedge.dev",
            Self::Devices => "devices.selvedge.dev",
        }
    }

    /// The CRD of an API resource whose deletions remove entries.
    #[must_use]
    pub const fn of_resource(resource: &Resource) -> Option<Self> {
        match resource {
            Resource::EdgeNodes => Some(Self::EdgeNodes),
            Resource::EdgeApplications => Some(Self::EdgeApplications),
            Resource::Devices => Some(Self::Devices),
            _ => None,
        }
    }

    const fn of(kind: EntryKind) -> Option<Self> {
        match kind {
            EntryKind::Workload => Some(Self::EdgeApplications),
            EntryKind::Device => Some(Self::Devices),
            EntryKind::NodeSettings => Some(Self::EdgeNodes),
            EntryKind::ConfigMap | EntryKind::Secret => None,
        }
    }
}

/// What a read of a CRD said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CrdState {
    /// It is there and stays.
    Stands {
        /// Its uid.
        uid: String,
    },
    /// It is being deleted, or gone.
    Going,
}

/// Why a removal waits for a moment: its CRD is being read.
pub const CHECKING_CRD: &str = "CheckingCrd";
/// A removal whose source was not seen to be deleted wants a CRD read no older than this.
const FRESH: Duration = Duration::from_secs(10);
/// Watched deletions that are remembered; the oldest are forgotten first. 64 Ki uids are 6 MB.
const MOST_DELETIONS: usize = 64 * 1024;

#[derive(Debug, Default)]
struct Inner {
    crds: BTreeMap<Crd, Known>,
    deletions: HashMap<Arc<str>, Deletion>,
    oldest: VecDeque<Arc<str>>,
    windows: BTreeMap<EntryKind, Window>,
    asked: BTreeSet<Crd>,
}

#[derive(Debug, Default)]
struct Known {
    /// Uid under which the nodes have learned, as recorded outside this process; none: never heard.
    recorded: Option<String>,
    /// Raised by every change of the CRD's uid.
    life: u32,
    uid: Option<String>,
    stands: bool,
    read: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Deletion {
    at: Instant,
    life: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Removals {
    inner: Mutex<Inner>,
    /// Somebody wants a CRD read.
    pub wanted: Notify,
}

impl Removals {
    /// A deletion was seen in a watch.
    pub fn deleted(&self, crd: Crd, uid: Arc<str>, now: Instant) {
        let mut inner = self.lock();
        let life = inner.crds.entry(crd).or_default().life;
        if inner.deletions.insert(uid.clone(), Deletion { at: now, life }).is_none() {
            inner.oldest.push_back(uid);
        }
        while inner.oldest.len() > MOST_DELETIONS {
            if let Some(oldest) = inner.oldest.pop_front() {
                inner.deletions.remove(&oldest);
            }
        }
        self.want_by(&mut inner, crd);
    }

    /// One event takes `entries` entries of a kind away from nodes, without a watched deletion.
    pub fn announce(&self, kind: EntryKind, entries: usize, now: Instant) {
        self.lock().windows.entry(kind).or_default().announce(entries, now);
    }

    /// A session's number of entries of a kind changed.
    pub fn hold(&self, kind: EntryKind, before: usize, after: usize) {
        self.lock().windows.entry(kind).or_default().hold(before, after);
    }

    /// Somebody wants to know whether a CRD stands.
    pub fn want(&self, crd: Crd) {
        self.want_by(&mut self.lock(), crd);
    }

    /// Whether a CRD was not there, or on its way out, when it was read at `since` or later.
    #[must_use]
    pub fn is_going(&self, crd: Crd, since: Instant) -> bool {
        let inner = self.lock();
        inner.crds.get(&crd).is_some_and(|known| !known.stands && known.read >= Some(since))
    }

    /// CRDs to be read, each named once.
    pub fn take_wanted(&self) -> Vec<Crd> {
        std::mem::take(&mut self.lock().asked).into_iter().collect()
    }

    /// A CRD was read: the request was sent at `asked`.
    pub fn read(&self, crd: Crd, state: CrdState, asked: Instant) {
        let mut inner = self.lock();
        let known = inner.crds.entry(crd).or_default();
        known.read = Some(asked);
        known.stands = matches!(state, CrdState::Stands { .. });
        if let CrdState::Stands { uid } = state
            && known.uid.as_ref() != Some(&uid)
        {
            known.life += u32::from(known.uid.is_some());
            known.uid = Some(uid);
        }
    }

    /// Under the CRDs of this record the nodes have learned what they hold: see [`Self::learned_under`].
    pub fn recall(&self, record: &CrdRecord) {
        for crd in Crd::ALL {
            if let Some(uid) = record.uids.get(crd.name()) {
                self.learned_under(crd, uid);
            }
        }
    }

    /// Under this uid of a CRD the nodes have learned what they hold, as is recorded for all hubs. The first word
    /// stands for what this process would know had it run for ever; a later one says that a person has accepted
    /// the CRD as it is.
    pub fn learned_under(&self, crd: Crd, uid: &str) {
        let mut inner = self.lock();
        let known = inner.crds.entry(crd).or_default();
        let before = known.recorded.replace(uid.to_owned());
        match &known.uid {
            // The CRD is read after this, and compared.
            None => known.uid = Some(uid.to_owned()),
            Some(present) if before.is_none() && present != uid => known.life = known.life.max(1),
            Some(present) if before.is_some_and(|before| before != uid) && present == uid => known.life = 0,
            Some(_) => {}
        }
    }

    /// What a session is told whose EdgeNode is not there any more.
    #[must_use]
    pub fn parting(&self, uid: &str, now: Instant) -> Parting {
        match self.ask(&EntryKey::node_settings(), uid, false, now) {
            Removal::Held(_) => Parting::Wait,
            Removal::Allowed if self.lock().deletions.contains_key(uid) => Parting::Farewell,
            Removal::Allowed => Parting::TryLater,
        }
    }

    /// Kinds whose removals wait for a release.
    #[must_use]
    pub fn tripped(&self) -> Vec<EntryKind> {
        let inner = self.lock();
        inner.windows.iter().filter(|(_, window)| window.is_tripped()).map(|(kind, _)| *kind).collect()
    }

    /// Somebody has looked and lets the removals of a kind go on.
    pub fn release(&self, kind: EntryKind) {
        let mut inner = self.lock();
        inner.windows.entry(kind).or_default().release();
        if let Some(known) = Crd::of(kind).and_then(|crd| inner.crds.get_mut(&crd)) {
            known.life = 0;
        }
    }

    fn want_by(&self, inner: &mut Inner, crd: Crd) {
        inner.asked.insert(crd);
        self.wanted.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate for Removals {
    fn ask(&self, key: &EntryKey, uid: &str, exists: bool, now: Instant) -> Removal {
        let mut inner = self.lock();
        let deletion = inner.deletions.get(uid).copied().filter(|_| !exists);
        if let Some(crd) = Crd::of(key.kind) {
            let known = inner.crds.entry(crd).or_default();
            let since = deletion.map_or_else(|| now.checked_sub(FRESH), |deletion| Some(deletion.at));
            if known.read < since || known.read.is_none() {
                self.want_by(&mut inner, crd);
                return Removal::Held(CHECKING_CRD);
            }
            // Under another CRD than the one that it was learned from, only what was deleted there goes.
            let learned = deletion.map_or(0, |deletion| deletion.life);
            if !known.stands || (!exists && learned < known.life) {
                return Removal::Held("CrdDeleted");
            }
        }
        if deletion.is_some() || inner.windows.entry(key.kind).or_default().take(now) {
            Removal::Allowed
        } else {
            Removal::Held("RemovalsHeld")
        }
    }
}

#[cfg(test)]
mod tests;
