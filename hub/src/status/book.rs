//! What one session has to write: latest wins per object, one write at a time per object.
//!
//! In: reports, news of where the node stands, ends of writes. Out: [`Job`]s to begin now, verdicts. Pure.
//!
//! An object that is at rest costs a hash of the facts that its status says, and its last report as it came over the
//! wire.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message as _;
use selvedge_model::{ContentHash, EntryKey, EntryKind};
use selvedge_protocol::agent::{self as wire, entry_report::State, verdict::Code};

use super::write::Written;
use crate::index::{DeviceStands, ObjectKey, device_entry};
use crate::session::{Reported, verdict};

/// A state that passes by itself in a moment (delivering, applying) is not written unless it stays.
const PASSING: Duration = Duration::from_secs(1);
/// A report of which nobody can tell yet whether its object is gone is looked at again after this long.
const LATER: Duration = Duration::from_secs(5);

/// An object whose status is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// The EdgeNode of this name.
    Node(Arc<str>),
    /// A Device of the node's set.
    Device(ObjectKey),
}

impl Target {
    /// The entry that the object makes in the node's set.
    #[must_use]
    pub fn entry(&self) -> EntryKey {
        match self {
            Self::Node(_) => EntryKey::node_settings(),
            Self::Device(key) => device_entry(key),
        }
    }

    /// metadata.name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Node(name) => name,
            Self::Device(key) => &key.name,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "EdgeNode {name}"),
            Self::Device(key) => write!(f, "Device {key}"),
        }
    }
}

/// A write that is to begin now.
#[derive(Debug)]
pub struct Job {
    /// Which object.
    pub target: Target,
    /// Highest number of the reports until now.
    pub seq: u64,
}

/// What a status came to say by a write of this session.
#[derive(Clone, Copy, Debug)]
struct Said {
    /// resourceVersion by that write.
    revision: u64,
    /// See [`Book::says`].
    facts: u64,
}

/// What the agent said of an entry last.
#[derive(Clone, Debug)]
pub struct Told {
    /// Uid of what it was about.
    pub uid: String,
    /// The content that was in force then.
    pub content: Option<ContentHash>,
    /// What was true at the edge.
    pub state: Option<State>,
}

/// A report that has no verdict yet.
#[derive(Debug)]
struct Unanswered {
    seq: u64,
    uid: String,
    /// Its object is gone, though there may be another one under its name.
    gone: bool,
}

/// One object that is to be written.
#[derive(Debug, Default)]
struct Object {
    /// Highest unanswered report per key, not in a write yet.
    waiting: BTreeMap<EntryKey, Unanswered>,
    /// Those of the write under way; none: no write is.
    writing: Option<BTreeMap<EntryKey, Unanswered>>,
    /// The facts that the status will say by that write.
    saying: Option<u64>,
    /// When it must be written.
    due: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub struct Book {
    node: Target,
    /// Those that have something to be written.
    objects: BTreeMap<Target, Object>,
    /// Hashes names and facts, with a key that nobody knows: nobody can make two with one hash.
    hashes: RandomState,
    /// Those that are written, by name.
    said: HashMap<Name, Said>,
    /// Last reports on workloads and devices as they came, by name.
    told: HashMap<Name, Box<[u8]>>,
    /// Highest number of a report.
    seq: u64,
    /// The node's status was composed last when all of so many answered entries stood as they should.
    settled: Option<usize>,
    /// The node's status was composed last while something was on its way, or might have been.
    delivering: bool,
    /// Devices whose status was composed while what is desired was on its way to the agent.
    awaited: BTreeSet<ObjectKey>,
    /// What the agent said of the machine.
    pub machine: Option<wire::NodeState>,
    /// Reports overtaken before they were written.
    pub coalesced: u64,
}

/// Names an entry in little space: a hash of its key.
type Name = u64;

impl Book {
    /// An empty book of a node.
    #[must_use]
    pub fn new(node: Arc<str>) -> Self {
        Self {
            node: Target::Node(node),
            objects: BTreeMap::new(),
            hashes: RandomState::new(),
            said: HashMap::new(),
            told: HashMap::new(),
            seq: 0,
            settled: None,
            delivering: false,
            awaited: BTreeSet::new(),
            machine: None,
            coalesced: 0,
        }
    }

    /// Takes a report; its object is written at once, or as soon as the write under way has ended.
    pub fn report(&mut self, report: Reported, now: Instant) {
        let Reported { key, uid, content, seq, state } = report;
        let mut target = self.node.clone();
        let mut node_changed = true;
        match (key.kind, state) {
            (_, Some(State::Node(state))) => self.machine = Some(state),
            (EntryKind::Workload, Some(state @ State::Workload(_))) => {
                self.tell(&key, Told { uid: uid.clone(), content, state: Some(state) });
            }
            (EntryKind::Device, Some(state @ State::Device(_))) => {
                target = Target::Device(ObjectKey::new(&key.namespace, &key.name));
                let told = Told { uid: uid.clone(), content, state: Some(state) };
                // One that was created anew is another device, also when it stands as the one before it did.
                node_changed = self.told(&key).is_none_or(|before| before.summary() != told.summary());
                self.tell(&key, told);
            }
            // A state that does not fit its key says nothing; its verdict comes with the node's next write.
            (_, Some(_) | None) => {}
        }
        self.seq = seq.max(self.seq);
        let object = self.objects.entry(target.clone()).or_default();
        object.due = Some(now);
        if object.waiting.insert(key, Unanswered { seq, uid, gone: false }).is_some() {
            self.coalesced += 1;
        }
        if node_changed && target != self.node {
            self.news(now, false);
        }
    }

    fn name(&self, key: &EntryKey) -> Name {
        self.hashes.hash_one(key)
    }

    fn tell(&mut self, key: &EntryKey, told: Told) {
        self.told.insert(self.name(key), told.encode());
    }

    /// What the agent said of an entry last in this session.
    #[must_use]
    pub fn told(&self, key: &EntryKey) -> Option<Told> {
        Told::decode(self.told.get(&self.name(key))?)
    }

    /// Devices as reported, for the node's status, if that was of the Device there `is`.
    #[must_use]
    pub fn device(
        &self,
        key: &EntryKey,
        desired: Option<ContentHash>,
        is: impl Fn(&str) -> bool,
    ) -> Option<DeviceStands> {
        let told = self.told(key).filter(|told| is(&told.uid))?;
        let (_, connected, content) = told.summary();
        Some(DeviceStands { connected, applied: desired.is_some() && content == desired })
    }

    /// Where the node stands may have changed.
    pub fn news(&mut self, now: Instant, passing: bool) {
        let at = if passing { now + PASSING } else { now };
        let node = self.objects.entry(self.node.clone()).or_default();
        node.due = Some(node.due.map_or(at, |due| due.min(at)));
    }

    /// The agent has answered a delta and now has so many entries. Unless it refused something, that brings the
    /// node where its status says that it stands.
    pub fn acked(&mut self, answered: usize, refused: bool, now: Instant) {
        if refused || self.settled != Some(answered) {
            self.news(now, true);
        }
    }

    /// The node's status is composed now: with so many entries answered, all as they should be; none: not all are.
    pub fn composed(&mut self, settled: Option<usize>, delivering: bool) {
        self.settled = settled;
        self.delivering = delivering;
    }

    /// A device's conditions may have changed without a report.
    pub fn device_news(&mut self, key: &ObjectKey, now: Instant) {
        let at = now + PASSING;
        let device = self.objects.entry(Target::Device(key.clone())).or_default();
        device.due = Some(device.due.map_or(at, |due| due.min(at)));
    }

    /// A device's status is composed now, and says that what is desired is on its way.
    pub fn awaits(&mut self, key: &ObjectKey) {
        self.awaited.insert(key.clone());
    }

    /// The agent has all that it should have: what was on its way is there. Nobody reports again what the agent had
    /// all along, and was reported before the sets were compared; nor is anything answered where a change came to
    /// nothing while it waited.
    pub fn delivered(&mut self, now: Instant) {
        if std::mem::take(&mut self.delivering) {
            self.news(now, true);
        }
        for key in std::mem::take(&mut self.awaited) {
            self.device_news(&key, now);
        }
    }

    /// Forgets what left the node's set: all but these.
    pub fn retain<'a>(&mut self, kept: impl IntoIterator<Item = &'a EntryKey>) {
        let hashes = &self.hashes;
        let name = |key: &EntryKey| hashes.hash_one(key);
        let kept: HashSet<Name> = kept.into_iter().map(name).collect();
        self.told.retain(|name, _| kept.contains(name));
        let (told, node) = (&self.told, name(&self.node.entry()));
        // The status of what was never reported on is read again.
        self.said.retain(|name, _| *name == node || told.contains_key(name));
        self.objects.retain(|target, object| {
            let busy = object.writing.is_some() || !object.waiting.is_empty();
            busy || *target == self.node || kept.contains(&name(&target.entry()))
        });
    }

    /// Up to `most` writes to begin now.
    pub fn jobs(&mut self, now: Instant, most: usize) -> Vec<Job> {
        let ready = self
            .objects
            .iter_mut()
            .filter(|(_, object)| object.writing.is_none() && object.due.is_some_and(|due| due <= now));
        ready
            .take(most)
            .map(|(target, object)| {
                object.due = None;
                object.writing = Some(std::mem::take(&mut object.waiting));
                Job { target: target.clone(), seq: self.seq }
            })
            .collect()
    }

    /// What the book keeps, in objects and entries: bounded by the node's set and what the agent has (I7).
    #[must_use]
    pub fn keeps(&self) -> [(&'static str, usize); 4] {
        [
            ("statuses to be written", self.objects.len()),
            ("statuses written", self.said.len()),
            ("reports told", self.told.len()),
            ("devices that await", self.awaited.len()),
        ]
    }

    /// When the next write is to begin.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.objects.values().filter(|object| object.writing.is_none()).filter_map(|object| object.due).min()
    }

    /// Looks whether the reports of a job are about what is in the node's set still: an object that was created
    /// anew under its name is another one. Of those that are gone the write says nothing. False: nobody can tell
    /// yet, so the job is put back.
    pub fn sort_out(
        &mut self,
        target: &Target,
        now: Instant,
        is_gone: impl Fn(&EntryKey, &str) -> Option<bool>,
    ) -> bool {
        let Some(object) = self.objects.get_mut(target) else { return true };
        let Some(writing) = &mut object.writing else { return true };
        let mut known = true;
        for (key, report) in writing.iter_mut() {
            match is_gone(key, &report.uid) {
                Some(gone) => report.gone = gone,
                None => known = false,
            }
        }
        if !known {
            let reports = object.writing.take().unwrap_or_default();
            object.put_back(reports, now);
        }
        known
    }

    /// Whether the status of a job's object says these facts already, by a write of this session after which nobody
    /// wrote: over what this session wrote the same facts give the same status again. `seen` is the object's
    /// resourceVersion as its watch has brought it.
    pub fn says(&mut self, target: &Target, facts: impl Hash, seen: Option<u64>) -> bool {
        let facts = self.hashes.hash_one(facts);
        if let Some(object) = self.objects.get_mut(target) {
            object.saying = Some(facts);
        }
        let said = self.said.get(&self.name(&target.entry()));
        said.is_some_and(|said| said.facts == facts && seen.is_none_or(|seen| seen <= said.revision))
    }

    /// A write ended: the verdicts on the reports in it.
    pub fn written(&mut self, target: &Target, written: &Written, now: Instant) -> Vec<wire::Verdict> {
        let Some(object) = self.objects.get_mut(target) else { return Vec::new() };
        let saying = object.saying.take();
        match (written.code, &written.known, saying) {
            (Some(Code::Written), Some(known), Some(facts)) => {
                let said = Said { revision: known.revision(), facts };
                self.said.insert(self.hashes.hash_one(target.entry()), said);
            }
            // It said so before.
            (Some(Code::Written), ..) => {}
            _ => {
                self.said.remove(&self.hashes.hash_one(target.entry()));
            }
        }
        let mut verdicts = Vec::new();
        let mut missing = BTreeMap::new();
        for (key, report) in object.writing.take().unwrap_or_default() {
            let code = if report.gone { Some(Code::Gone) } else { written.code };
            match code {
                // What was overtaken meanwhile is answered with the newer one.
                _ if object.waiting.contains_key(&key) => {}
                None => drop(missing.insert(key, report)),
                Some(code) => {
                    let reason = if report.gone { "" } else { written.reason };
                    verdicts.push(verdict((&key).into(), report.seq, code, reason));
                }
            }
        }
        if !missing.is_empty() {
            object.put_back(missing, now);
        }
        if object.waiting.is_empty() && object.due.is_none() {
            self.objects.remove(target);
        }
        if self.objects.is_empty() {
            // An empty tree keeps a node.
            self.objects = BTreeMap::new();
        }
        verdicts
    }
}

impl Object {
    /// Reports that nobody can answer yet are looked at again later.
    fn put_back(&mut self, reports: BTreeMap<EntryKey, Unanswered>, now: Instant) {
        self.due = Some(now + LATER);
        for (key, report) in reports {
            self.waiting.entry(key).or_insert(report);
        }
    }
}

impl Told {
    /// What a node's status says of a device: of which one, whether it answers, and in which content.
    fn summary(&self) -> (&str, bool, Option<ContentHash>) {
        let connected = matches!(&self.state, Some(State::Device(state)) if state.connected);
        (&self.uid, connected, self.content)
    }

    /// As it came, but for its key: that is its name.
    fn encode(self) -> Box<[u8]> {
        let content_hash = self.content.map(|content| content.0.to_vec()).unwrap_or_default();
        let report = wire::EntryReport { key: None, uid: self.uid, content_hash, seq: 0, state: self.state };
        report.encode_to_vec().into_boxed_slice()
    }

    fn decode(report: &[u8]) -> Option<Self> {
        let report = wire::EntryReport::decode(report).ok()?;
        let content = report.content_hash.try_into().ok().map(ContentHash);
        Some(Self { uid: report.uid, content, state: report.state })
    }
}
