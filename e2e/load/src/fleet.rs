//! What all simulated agents share: the record, the counters, and when to begin and end.

use std::collections::{BTreeMap, HashSet};
use std::error::Error as _;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use selvedge_protocol::agent::to_agent::Message as FromHub;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, unix_ms};
use crate::faults::Fault;
use crate::record::Record;
use crate::session::Ended;
use crate::wire::{Bytes, WireError};

/// Dials at once: as many as a hub shakes hands with at once. More would wait in its queue, and time out
/// there.
const DIALS: usize = 64;
/// More states than any node has in that time; and JSON numbers stay exact (below 2^53) for centuries.
const STATES_A_MILLISECOND: u64 = 100;

/// See the module.
#[derive(Debug)]
pub struct Fleet {
    /// Time since the run began.
    pub clock: Clock,
    /// What happened.
    pub record: Record,
    /// How often things happened.
    pub counters: Counters,
    /// Bytes on the wire.
    pub bytes: Arc<Bytes>,
    /// The run ends.
    pub stop: CancellationToken,
    /// Places to dial.
    pub dials: Semaphore,
    /// Numbers of states begin here: above those of every earlier run, whose statuses still stand.
    pub first_state: u64,
    calm: AtomicBool,
    sessions: AtomicUsize,
    synced: AtomicUsize,
    in_sync: Mutex<HashSet<Arc<str>>>,
    arrivals: Mutex<Vec<(u64, u64)>>,
    suffered: Mutex<BTreeMap<Fault, u64>>,
    failures: Mutex<BTreeMap<String, u64>>,
}

/// Counts.
#[derive(Debug, Default)]
pub struct Counters {
    /// Reports sent.
    pub reports: AtomicU64,
    /// Verdicts received.
    pub verdicts: AtomicU64,
    /// Deltas received.
    pub deltas: AtomicU64,
    /// Entries in them.
    pub upserts: AtomicU64,
    /// Entries that deltas took away.
    pub removes: AtomicU64,
    /// Sessions that began in sync.
    pub in_sync: AtomicU64,
    /// Inventories asked for.
    pub compared: AtomicU64,
    /// Deltas that did not fit.
    pub resyncs: AtomicU64,
    /// Sessions that ended, accidents of ours included.
    pub ended: AtomicU64,
    endings: Mutex<BTreeMap<String, u64>>,
}

impl Fleet {
    /// A fleet without agents.
    #[must_use]
    pub fn new(clock: Clock, checked: bool) -> Self {
        Self {
            clock,
            record: Record::new(clock, checked),
            counters: Counters::default(),
            bytes: Arc::default(),
            stop: CancellationToken::new(),
            dials: Semaphore::new(DIALS),
            first_state: u64::try_from(unix_ms()).unwrap_or(0) * STATES_A_MILLISECOND,
            // Nothing happens to a fleet that has not come together.
            calm: AtomicBool::new(true),
            sessions: AtomicUsize::new(0),
            synced: AtomicUsize::new(0),
            in_sync: Mutex::default(),
            arrivals: Mutex::default(),
            suffered: Mutex::default(),
            failures: Mutex::default(),
        }
    }

    /// Whether accidents happen.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// Lets accidents happen, or no more.
    pub fn set_calm(&self, calm: bool) {
        self.calm.store(calm, Ordering::Relaxed);
    }

    /// Sessions that are up, and those of them that are in sync.
    #[must_use]
    pub fn standing(&self) -> (usize, usize) {
        (self.sessions.load(Ordering::Relaxed), self.synced.load(Ordering::Relaxed))
    }

    /// Which of these nodes have no session that is in sync.
    pub fn not_synced<'a>(&self, nodes: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
        let in_sync = lock(&self.in_sync);
        nodes.filter(|node| !in_sync.contains(*node)).collect()
    }

    /// Entries of these source revisions were acknowledged.
    pub fn arrived(&self, revisions: &[u64]) {
        let at = self.clock.micros();
        lock(&self.arrivals).extend(revisions.iter().map(|revision| (*revision, at)));
    }

    /// Source revisions that were acknowledged since the last call, and when (microseconds).
    #[must_use]
    pub fn take_arrivals(&self) -> Vec<(u64, u64)> {
        std::mem::take(&mut *lock(&self.arrivals))
    }

    /// An accident happened.
    pub fn suffered(&self, fault: Fault) {
        *lock(&self.suffered).entry(fault).or_default() += 1;
    }

    /// Accidents so far.
    #[must_use]
    pub fn accidents(&self) -> BTreeMap<Fault, u64> {
        lock(&self.suffered).clone()
    }

    /// Changes that could not be made, and why.
    #[must_use]
    pub fn failures(&self) -> BTreeMap<String, u64> {
        lock(&self.failures).clone()
    }

    /// A change could not be made.
    pub fn failed(&self, why: String) {
        *lock(&self.failures).entry(why).or_default() += 1;
    }
}

impl Counters {
    /// A frame of the hub.
    pub fn frame(&self, message: &FromHub) {
        let count = |counter: &AtomicU64, more: usize| {
            counter.fetch_add(more as u64, Ordering::Relaxed);
        };
        match message {
            FromHub::InSync(_) => count(&self.in_sync, 1),
            FromHub::Compare(_) => count(&self.compared, 1),
            FromHub::Delta(delta) => {
                count(&self.deltas, 1);
                count(&self.upserts, delta.upserts.len());
                count(&self.removes, delta.removes.len());
            }
            _ => {}
        }
    }

    /// A session ended.
    pub fn ended(&self, ended: &Ended) {
        self.ended.fetch_add(1, Ordering::Relaxed);
        if !matches!(ended, Ended::Over | Ended::Fault(_)) {
            self.count(ended.to_string());
        }
    }

    /// No session began.
    pub fn no_connection(&self, error: &WireError) {
        let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
        self.count(format!("{error}{cause}"));
    }

    /// Why sessions ended or did not begin, accidents of ours left out.
    #[must_use]
    pub fn endings(&self) -> BTreeMap<String, u64> {
        lock(&self.endings).clone()
    }

    fn count(&self, why: String) {
        *lock(&self.endings).entry(why).or_default() += 1;
    }
}

/// One session that is up, as long as it lives.
pub struct Present<'a> {
    fleet: &'a Fleet,
    node: Arc<str>,
    synced: bool,
}

impl<'a> Present<'a> {
    /// It is up.
    #[must_use]
    pub fn begin(fleet: &'a Fleet, node: Arc<str>) -> Self {
        fleet.sessions.fetch_add(1, Ordering::Relaxed);
        Self { fleet, node, synced: false }
    }

    /// Whether it is in sync.
    pub fn synced(&mut self, synced: bool) {
        match (self.synced, synced) {
            (false, true) => {
                lock(&self.fleet.in_sync).insert(self.node.clone());
                self.fleet.synced.fetch_add(1, Ordering::Relaxed);
            }
            (true, false) => {
                lock(&self.fleet.in_sync).remove(&self.node);
                self.fleet.synced.fetch_sub(1, Ordering::Relaxed);
            }
            _ => return,
        }
        self.synced = synced;
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.synced(false);
        self.fleet.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
