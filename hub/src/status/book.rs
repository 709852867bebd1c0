//! What one session has to write: latest wins per object, one write at a time per object.
//!
//! In: reports, news of where the node stands, ends of writes. Out: [`Job`]s to begin now, verdicts. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use selvedge_model::{ContentHash, EntryKey, EntryKind};
use selvedge_protocol::agent::{self as wire, entry_report::State};

use super::write::{Known, Written};
use crate::index::{DeviceStands, ObjectKey, device_entry};
use crate::session::{Reported, verdict};

/// A state that passes by itself in a moment (delivering, applying) is not written unless it stays.
const PASSING: Duration = Duration::from_secs(1);

/// An object whose status is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    /// Highest number of the reports in it.
    pub seq: u64,
    /// The object as last seen.
    pub known: Option<Known>,
}

/// One object.
#[derive(Debug, Default)]
struct Object {
    /// Highest unanswered report per key, not in a write yet.
    waiting: BTreeMap<EntryKey, u64>,
    /// Those of the write under way; none: no write is.
    writing: Option<BTreeMap<EntryKey, u64>>,
    /// When it must be written.
    due: Option<Instant>,
    known: Option<Known>,
    seq: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Book {
    node: Target,
    objects: BTreeMap<Target, Object>,
    /// What the agent said of the machine.
    pub machine: Option<wire::NodeState>,
    /// Workloads as reported in this session.
    pub workloads: BTreeMap<EntryKey, (wire::WorkloadState, Option<ContentHash>)>,
    /// Devices as reported in this session.
    pub devices: BTreeMap<EntryKey, (wire::DeviceState, Option<ContentHash>)>,
    /// Reports overtaken before they were written.
    pub coalesced: u64,
}

impl Book {
    /// An empty book of a node.
    #[must_use]
    pub fn new(node: Arc<str>) -> Self {
        Self {
            node: Target::Node(node),
            objects: BTreeMap::new(),
            machine: None,
            workloads: BTreeMap::new(),
            devices: BTreeMap::new(),
            coalesced: 0,
        }
    }

    /// Takes a report; its object is written at once, or as soon as the write under way has ended.
    pub fn report(&mut self, report: Reported, now: Instant) {
        let mut target = self.node.clone();
        let mut node_changed = true;
        match report.state {
            Some(State::Node(state)) => self.machine = Some(state),
            Some(State::Workload(state)) if report.key.kind == EntryKind::Workload => {
                self.workloads.insert(report.key.clone(), (state, report.content));
            }
            Some(State::Device(state)) if report.key.kind == EntryKind::Device => {
                target = Target::Device(ObjectKey::new(&report.key.namespace, &report.key.name));
                let summary = (state.connected, report.content);
                let before = self.devices.insert(report.key.clone(), (state, report.content));
                node_changed = before.is_none_or(|(state, content)| (state.connected, content) != summary);
            }
            // A state that does not fit its key says nothing; its verdict comes with the node's next write.
            Some(_) | None => {}
        }
        let object = self.objects.entry(target.clone()).or_default();
        object.seq = report.seq.max(object.seq);
        object.due = Some(now);
        if object.waiting.insert(report.key, report.seq).is_some() {
            self.coalesced += 1;
        }
        if node_changed && target != self.node {
            self.news(now, false);
        }
    }

    /// Where the node stands may have changed.
    pub fn news(&mut self, now: Instant, passing: bool) {
        let at = if passing { now + PASSING } else { now };
        let node = self.objects.entry(self.node.clone()).or_default();
        node.due = Some(node.due.map_or(at, |due| due.min(at)));
    }

    /// A device's conditions may have changed without a report.
    pub fn device_news(&mut self, key: &ObjectKey, now: Instant) {
        let at = now + PASSING;
        let device = self.objects.entry(Target::Device(key.clone())).or_default();
        device.due = Some(device.due.map_or(at, |due| due.min(at)));
    }

    /// Forgets what left the node's set.
    pub fn retain(&mut self, in_set: impl Fn(&EntryKey) -> bool) {
        self.workloads.retain(|key, _| in_set(key));
        self.devices.retain(|key, _| in_set(key));
        self.objects.retain(|target, object| match target {
            Target::Node(_) => true,
            Target::Device(_) => {
                object.writing.is_some() || !object.waiting.is_empty() || in_set(&target.entry())
            }
        });
    }

    /// Devices as reported, for the node's status.
    #[must_use]
    pub fn device(&self, key: &EntryKey, desired: Option<ContentHash>) -> Option<DeviceStands> {
        let (state, content) = self.devices.get(key)?;
        Some(DeviceStands { connected: state.connected, applied: desired.is_some() && *content == desired })
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
                Job { target: target.clone(), seq: object.seq, known: object.known.clone() }
            })
            .collect()
    }

    /// When the next write is to begin.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.objects.values().filter(|object| object.writing.is_none()).filter_map(|object| object.due).min()
    }

    /// A write ended: the verdicts on the reports in it.
    pub fn written(&mut self, target: &Target, written: Written) -> Vec<wire::Verdict> {
        let Some(object) = self.objects.get_mut(target) else { return Vec::new() };
        object.known = written.known;
        let done = object.writing.take().unwrap_or_default();
        let verdicts = done
            .into_iter()
            // What was overtaken meanwhile is answered with the newer one.
            .filter(|(key, _)| !object.waiting.contains_key(key))
            .map(|(key, seq)| verdict((&key).into(), seq, written.code, written.reason))
            .collect();
        if object.waiting.is_empty() && object.due.is_none() && object.known.is_none() {
            self.objects.remove(target);
        }
        verdicts
    }

    /// Objects that are being written, or will be.
    #[must_use]
    pub fn busy(&self) -> BTreeSet<&Target> {
        let busy =
            self.objects.iter().filter(|(_, object)| object.writing.is_some() || !object.waiting.is_empty());
        busy.map(|(target, _)| target).collect()
    }
}
