//! Any history of changes, partial syncs, repeated and late frames, full disks, upgrades and crashes
//! keeps the invariants (docs/concepts/sync.md), and one whole sync makes the node right.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{prelude::*, sample::Index};
use selvedge_model::{ContentHash, EntryKind};
use selvedge_protocol::agent::{self as wire, to_agent::Message as FromHub, to_hub::Message as ToHub};
use serde_json::json;

use super::{
    CLUSTER, Machine, MemoryStore, Offer, RowKey, answered, begin, config_map, deltas, device, device_body,
    digest_of, key, open, workload, workload_body,
};

/// One step of a history.
#[derive(Clone, Debug)]
pub enum Step {
    /// A device, an entry of an unknown kind, or one that cannot be decoded gets a value.
    Set { slot: usize, value: u8, recreate: bool },
    /// A workload gets a version, whose ConfigMap is there or not.
    Deploy { slot: usize, value: u8, referenced: bool },
    /// It goes.
    Delete { slot: usize },
    /// The hub sends up to `frames` deltas of `chunk` changes each.
    Sync { chunk: usize, frames: usize },
    /// A frame of the past arrives once more.
    Replay { frame: Index },
    /// The disk is full from here on, or has room again.
    Disk { full: bool },
    /// The agent dies and comes back, maybe as another version.
    Crash { upgrade: bool },
}

/// Histories of the whole length of a test.
pub fn histories() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..4usize, any::<u8>(), any::<bool>())
            .prop_map(|(slot, value, recreate)| Step::Set { slot, value: value % 4, recreate }),
        3 => (4..6usize, any::<u8>(), any::<bool>())
            .prop_map(|(slot, value, referenced)| Step::Deploy { slot, value: value % 4, referenced }),
        1 => (0..6usize).prop_map(|slot| Step::Delete { slot }),
        4 => (1..4usize, 0..5usize).prop_map(|(chunk, frames)| Step::Sync { chunk, frames }),
        2 => any::<Index>().prop_map(|frame| Step::Replay { frame }),
        1 => any::<bool>().prop_map(|full| Step::Disk { full }),
        2 => any::<bool>().prop_map(|upgrade| Step::Crash { upgrade }),
    ];
    proptest::collection::vec(step, 1..60)
}

/// The hub, the node, and what was ever true between them.
struct World {
    machine: Machine<MemoryStore>,
    objects: BTreeMap<usize, Offer>,
    /// Which ConfigMaps there are, by slot of the workload that names them.
    maps: BTreeMap<usize, (RowKey, Offer)>,
    revision: u64,
    version: u32,
    frames: Vec<wire::Delta>,
    ever: BTreeSet<(RowKey, ContentHash)>,
    /// Highest source revision that was in force, by key and uid.
    newest: BTreeMap<(RowKey, String), u64>,
    watermark: u64,
}

fn slot_key(slot: usize) -> RowKey {
    match slot {
        0 | 1 => device(&format!("device-{slot}")),
        2 => key(77, "stranger", ""),
        3 => device("sometimes-wrong"),
        slot => workload(&format!("workload-{slot}")),
    }
}

impl World {
    fn new() -> Self {
        Self {
            machine: open(MemoryStore::default()),
            objects: BTreeMap::new(),
            maps: BTreeMap::new(),
            revision: 0,
            version: 1,
            frames: Vec::new(),
            ever: BTreeSet::new(),
            newest: BTreeMap::new(),
            watermark: 0,
        }
    }

    fn wanted(&self) -> BTreeMap<RowKey, Offer> {
        let objects = self.objects.iter().map(|(slot, offer)| (slot_key(*slot), offer.clone()));
        objects.chain(self.maps.values().cloned()).collect()
    }

    fn step(&mut self, step: &Step) {
        self.revision += 1;
        let revision = self.revision;
        let uid = |world: &Self, slot: usize, recreate: bool| match world.objects.get(&slot) {
            Some(offer) if !recreate => offer.uid.clone(),
            _ => format!("uid-{revision}"),
        };
        match step {
            Step::Set { slot, value, recreate } => {
                let body = match slot {
                    3 if value % 2 == 1 => json!({"protocol": value}),
                    _ => device_body(&format!("host-{value}")),
                };
                let offer = Offer::new(&uid(self, *slot, *recreate), revision, &body);
                self.objects.insert(*slot, offer);
            }
            Step::Deploy { slot, value, referenced } => {
                let (name, version) = (format!("map-{slot}"), format!("v{value}"));
                let body = workload_body(&format!("r{value}"), &name, &version);
                self.objects.insert(*slot, Offer::new(&uid(self, *slot, false), revision, &body));
                self.maps.remove(slot);
                if *referenced {
                    let data = Offer::new("map", revision, &json!({"data": {"v": version}}));
                    self.maps.insert(*slot, (config_map(&name, &version), data));
                }
            }
            Step::Delete { slot } => {
                self.objects.remove(slot);
                self.maps.remove(slot);
            }
            Step::Sync { chunk, frames } => self.sync(*chunk, *frames),
            Step::Replay { frame } if !self.frames.is_empty() => {
                let frame = self.frames[frame.index(self.frames.len())].clone();
                let session = begin(&mut self.machine);
                self.machine.receive(session, FromHub::Delta(frame)).unwrap();
            }
            Step::Replay { .. } => {}
            Step::Disk { full } => self.machine.store().full = *full,
            Step::Crash { upgrade } => {
                self.version += u32::from(*upgrade);
                let store = self.machine.store().clone();
                self.machine = Machine::open(store, &self.version.to_string(), CLUSTER).unwrap();
            }
        }
        let wanted = self.wanted();
        self.ever.extend(wanted.iter().map(|(key, offer)| (key.clone(), offer.hash())));
    }

    fn sync(&mut self, chunk: usize, frames: usize) {
        let session = begin(&mut self.machine);
        for delta in deltas(&self.machine, &self.wanted(), chunk, self.revision).into_iter().take(frames) {
            self.frames.push(delta.clone());
            let outcome = self.machine.receive(session, FromHub::Delta(delta)).unwrap();
            match &outcome.answers[..] {
                [ToHub::Ack(_)] => {}
                [ToHub::Retry(_)] if self.machine.store().full => return,
                other => panic!("{other:?}"),
            }
            self.check();
        }
    }

    fn check(&mut self) {
        let machine = &mut self.machine;
        assert_eq!(machine.meta().digest, digest_of(machine), "the digest is that of the rows");
        let watermark = machine.meta().watermark.revision("devices");
        assert!(watermark >= self.watermark, "the watermark never goes back");
        self.watermark = watermark;
        for (key, row) in machine.rows() {
            let Some(version) = &row.in_force else { continue };
            assert!(self.ever.contains(&(key.clone(), version.hash)), "I3: {key} was never desired");
            let newest = self.newest.entry((key.clone(), version.uid.clone())).or_default();
            assert!(version.source_revision >= *newest, "I1: {key} went back");
            *newest = version.source_revision;
            for reference in &version.references {
                let held = machine.rows().get(reference).is_some_and(|row| row.in_force.is_some());
                assert!(held, "{key} is in force without {reference}");
            }
        }
        // What was answered is what a machine finds that is opened on the same disk now.
        let version = machine.meta().agent_version.clone();
        let mut again = Machine::open(machine.store().clone(), &version, CLUSTER).unwrap();
        assert_eq!(again.rows(), machine.rows(), "I4: nothing acknowledged is lost");
        for (key, row) in machine.rows().clone() {
            let entry = again.entry(&key).unwrap();
            assert_eq!(entry.is_some(), row.in_force.is_some(), "{key} has its body");
        }
    }

    /// A whole sync on a disk with room.
    fn settle(&mut self) {
        self.machine.store().full = false;
        self.step(&Step::Sync { chunk: 2, frames: usize::MAX });
        self.check();
        let wanted = self.wanted();
        let expected: BTreeMap<_, _> =
            wanted.iter().map(|(key, offer)| (key.clone(), (offer.uid.clone(), offer.hash()))).collect();
        assert_eq!(answered(&self.machine), expected, "I2: the answered set is the desired set");
        for (key, row) in self.machine.rows() {
            let Some(answer) = &row.answered else { continue };
            let current = row.in_force.as_ref().is_some_and(|version| version.hash == answer.version.hash);
            let waits = key.kind == EntryKind::Workload.number()
                && answer.version.references.iter().any(|reference| !wanted.contains_key(reference));
            assert!(current || answer.refused.is_some() || waits, "{key} is not in force");
            assert_eq!(row.pending, !current && answer.refused.is_none(), "{key}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn any_history_keeps_the_invariants(history in histories()) {
        let mut world = World::new();
        for step in &history {
            world.step(step);
            world.check();
        }
        world.settle();
    }
}

#[test]
#[should_panic(expected = "I4")]
fn the_checker_notices_an_answer_before_its_commit() {
    let mut world = World::new();
    world.machine.store().forgetful = true;
    world.step(&Step::Set { slot: 0, value: 1, recreate: false });
    world.settle();
}
