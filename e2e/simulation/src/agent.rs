//! One machine with an agent: the shipped ledger and reported set over a simulated disk.
//!
//! In: messages of its hub, crashes, time for the runtime to apply. Out: messages to its hub, and events of
//! what it answered, has in force, applied and reported.

use std::collections::BTreeMap;

use selvedge_agent::ledger::{Machine, MemoryStore, Row as LedgerRow, RowKey};
use selvedge_agent::report::{Book, Note};
use selvedge_history::{Agent as Id, Event, InForce, Name, Row};
use selvedge_model::{ContentHash, EntryKey, EntryKind, SessionId};
use selvedge_protocol::agent::{
    DeviceState, EntryReport, NodeState, Phase, PropertyState, Report, WorkloadState, entry_report::State,
    to_agent::Message as FromHub, to_hub::Message as ToHub,
};

/// The cluster of all histories.
pub const CLUSTER: &str = "c";

/// Which version of the agent runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// Told apart by this.
    pub number: u64,
    /// It is the version before: it names no encodings.
    pub before: bool,
}

/// What survives a crash.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    ledger: MemoryStore,
    reports: BTreeMap<RowKey, EntryReport>,
}

/// Why a session ends from the agent's side, and what it does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Ends {
    /// Dial again after so many milliseconds; `behind`: the hub was.
    Redial {
        /// When; none: when it likes.
        after: Option<u64>,
        /// Counted as one more redirect.
        behind: bool,
    },
}

/// What one step led to.
#[derive(Debug, Default)]
pub struct Step {
    /// Messages for the hub.
    pub up: Vec<ToHub>,
    /// The session ends.
    pub ends: Option<Ends>,
    /// Entries that came into force: to be applied.
    pub apply: Vec<(EntryKey, ContentHash)>,
    /// For the record.
    pub events: Vec<Event>,
}

/// See the module.
#[derive(Debug)]
pub struct Agent {
    /// Which machine.
    pub id: Id,
    /// What runs.
    pub version: Version,
    /// Rises with each start.
    pub life: u32,
    /// The connection, while there is one.
    pub connection: Option<u64>,
    /// Its session, once it was welcomed.
    pub session: Option<SessionId>,
    /// Redirects in a row.
    pub redirects: u32,
    /// Frozen until then: it takes nothing from its socket.
    pub stuck_until: u64,
    machine: Machine<MemoryStore>,
    book: Book,
    saved: BTreeMap<RowKey, EntryReport>,
    shown: BTreeMap<RowKey, InForce>,
    epoch: u64,
    said: BTreeMap<RowKey, u64>,
}

impl Agent {
    /// Starts an agent on a disk; `fresh`: what was answered before is not expected there.
    pub fn boot(id: Id, version: Version, life: u32, disk: Disk, fresh: bool) -> (Self, Step) {
        let machine = open(disk.ledger, version);
        let book = Book::open(machine.meta().boots, disk.reports.values().cloned().collect());
        let epoch = machine.meta().watermark.epoch;
        let mut agent = Self {
            id,
            version,
            life,
            connection: None,
            session: None,
            redirects: 0,
            stuck_until: 0,
            machine,
            book,
            saved: disk.reports,
            shown: BTreeMap::new(),
            epoch,
            said: BTreeMap::new(),
        };
        let mut step = Step::default();
        step.events.push(Event::Booted { agent: agent.id.clone(), fresh, rows: agent.rows() });
        agent.show(&mut step);
        (agent, step)
    }

    /// What is on its disk now.
    pub fn disk(&mut self) -> Disk {
        Disk { ledger: self.machine.store().clone(), reports: self.saved.clone() }
    }

    /// Its disk is full, or has room again.
    pub fn fill(&mut self, full: bool) {
        self.machine.store().full = full;
    }

    /// Begins a session.
    pub fn hello(&mut self, nonce: u64) -> (SessionId, ToHub) {
        let redirects = self.redirects;
        match self.machine.hello(nonce, redirects) {
            Ok((id, mut hello)) => {
                if self.version.before {
                    hello.encodings.clear();
                }
                (id, ToHub::Hello(hello))
            }
            Err(error) => unreachable!("a simulated disk is never damaged: {error}"),
        }
    }

    /// The session ended.
    pub fn ended(&mut self) {
        self.connection = None;
        self.session = None;
    }

    /// A message of the hub in session `id`.
    pub fn receive(&mut self, id: SessionId, message: FromHub) -> Step {
        let mut step = Step::default();
        let mut delta = None;
        match &message {
            FromHub::Verdicts(verdicts) => {
                verdicts.verdicts.iter().for_each(|verdict| self.book.verdict(verdict));
                return step;
            }
            FromHub::Refused(refused) => {
                let after = (refused.retry_after_ms > 0).then_some(refused.retry_after_ms);
                step.ends = Some(Ends::Redial { after, behind: false });
            }
            FromHub::Goodbye(goodbye) => {
                let after = Some(goodbye.retry_after_ms);
                step.ends = Some(Ends::Redial { after, behind: goodbye.behind });
                return step;
            }
            FromHub::Welcome(_) => {
                self.session = Some(id);
                self.book.session();
            }
            FromHub::Delta(sent) => delta = Some(sent.clone()),
            _ => {}
        }
        let outcome = match self.machine.receive(id, message) {
            Ok(outcome) => outcome,
            Err(error) => unreachable!("a simulated disk is never damaged: {error}"),
        };
        if outcome.close.is_some() {
            step.ends = Some(Ends::Redial { after: None, behind: false });
        }
        let acked = outcome.answers.iter().any(|answer| matches!(answer, ToHub::Ack(_)));
        if let Some(delta) = delta.filter(|_| acked) {
            let row = |upsert: &selvedge_protocol::agent::Upsert| {
                let key = RowKey::try_from(upsert.key.clone()?).ok()?;
                let hash = ContentHash(upsert.content_hash.clone().try_into().ok()?);
                Some(Row { key: key.to_string().into(), uid: upsert.uid.as_str().into(), hash })
            };
            let removed = |remove: &selvedge_protocol::agent::Remove| {
                let key = RowKey::try_from(remove.key.clone()?).ok()?;
                Some((key.to_string().into(), remove.uid.as_str().into()))
            };
            step.events.push(Event::Answered {
                agent: self.id.clone(),
                session: id,
                nonce: delta.nonce,
                rows: delta.upserts.iter().filter_map(row).collect(),
                removed: delta.removes.iter().filter_map(removed).collect(),
            });
        }
        step.up = outcome.answers;
        self.show(&mut step);
        step
    }

    /// Runtime or driver have done it, if it is still what they should do: `says` is the state that they
    /// report.
    pub fn applied(&mut self, key: &EntryKey, hash: ContentHash, says: u64) -> Vec<Event> {
        let row = RowKey::from(key);
        let Some(version) = self.shown.get(&row).filter(|version| version.hash == hash) else {
            return Vec::new();
        };
        let state = match key.kind {
            EntryKind::Device => State::Device(DeviceState {
                connected: true,
                properties: vec![PropertyState {
                    name: "level".into(),
                    reported: says.to_string(),
                    read_unix_ms: 1,
                    ..PropertyState::default()
                }],
                ..DeviceState::default()
            }),
            EntryKind::Workload => State::Workload(WorkloadState {
                phase: Phase::Running.into(),
                message: says.to_string(),
                revision: version.revision.to_string(),
                ..WorkloadState::default()
            }),
            EntryKind::NodeSettings => {
                State::Node(NodeState { kernel: says.to_string(), ..NodeState::default() })
            }
            EntryKind::ConfigMap | EntryKind::Secret => return Vec::new(),
        };
        let content_hash = hash.0.to_vec();
        let uid = version.uid.to_string();
        self.book.note(Note { key: row.clone(), uid, content_hash, state });
        self.said.insert(row.clone(), says);
        vec![Event::Applied { node: self.id.node.clone(), key: row.to_string().into(), hash }]
    }

    /// Reports that are due, while a session is up.
    pub fn report(&mut self) -> Step {
        let mut step = Step::default();
        let Some(session) = self.session else { return step };
        let entries = self.book.take(128);
        for entry in &entries {
            let Some(key) = entry.key.clone().and_then(|key| RowKey::try_from(key).ok()) else { continue };
            let (key, seq, says) = (key.to_string().into(), entry.seq, says(entry.state.as_ref()));
            step.events.push(Event::Reported { session, key, seq, says });
        }
        if !entries.is_empty() {
            step.up.push(ToHub::Report(Report { entries }));
        }
        step
    }

    /// Makes reports durable.
    pub fn save(&mut self) {
        if self.machine.store().full {
            return;
        }
        for (key, report) in self.book.unsaved() {
            match report {
                Some(report) => self.saved.insert(key, report),
                None => self.saved.remove(&key),
            };
        }
    }

    /// Everything that it has answered.
    pub fn rows(&self) -> Vec<Row> {
        let row = |(key, row): (&RowKey, &LedgerRow)| {
            let version = &row.answered.as_ref()?.version;
            Some(Row { key: key.to_string().into(), uid: version.uid.as_str().into(), hash: version.hash })
        };
        self.machine.rows().iter().filter_map(row).collect()
    }

    /// What is in force of a key.
    pub fn in_force(&self, key: &Name) -> Option<&InForce> {
        self.shown.iter().find(|(shown, _)| *shown.to_string() == **key).map(|(_, version)| version)
    }

    /// What it said last of what is in force still, and what that is.
    pub fn said(&self) -> impl Iterator<Item = (Name, &InForce, u64)> {
        let there = self.said.iter().filter_map(|(key, says)| Some((key, self.shown.get(key)?, *says)));
        there.map(|(key, version, says)| (key.to_string().into(), version, says))
    }

    /// Tells what changed in what is in force.
    fn show(&mut self, step: &mut Step) {
        let epoch = self.machine.meta().watermark.epoch;
        if epoch > self.epoch {
            self.epoch = epoch;
            step.events.push(Event::Epoch { agent: self.id.clone(), epoch });
        }
        let now: BTreeMap<RowKey, InForce> = self
            .machine
            .rows()
            .iter()
            .filter_map(|(key, row)| {
                let version = row.in_force.as_ref()?;
                Some((
                    key.clone(),
                    InForce {
                        uid: version.uid.as_str().into(),
                        source: version.source_revision,
                        revision: version.revision.as_str().into(),
                        hash: version.hash,
                    },
                ))
            })
            .collect();
        for (key, version) in &now {
            let before = self.shown.get(key);
            if before == Some(version) {
                continue;
            }
            let name = key.to_string().into();
            step.events.push(Event::InForce { agent: self.id.clone(), key: name, version: version.clone() });
            if before.is_none_or(|before| (&before.uid, before.hash) != (&version.uid, version.hash)) {
                step.apply.extend(key.entry_key().map(|key| (key, version.hash)));
            }
        }
        for key in self.shown.keys().filter(|key| !now.contains_key(key)) {
            step.events.push(Event::OutOfForce { agent: self.id.clone(), key: key.to_string().into() });
        }
        let machine = &self.machine;
        self.book.retain(|key| machine.rows().contains_key(key));
        self.shown = now;
    }
}

fn open(store: MemoryStore, version: Version) -> Machine<MemoryStore> {
    match Machine::open(store, &version.number.to_string(), CLUSTER) {
        Ok(machine) => machine,
        Err(error) => unreachable!("a simulated disk is never damaged: {error}"),
    }
}

fn says(state: Option<&State>) -> u64 {
    let text = match state {
        Some(State::Device(device)) => device.properties.first().map(|property| property.reported.as_str()),
        Some(State::Workload(workload)) => Some(workload.message.as_str()),
        Some(State::Node(node)) => Some(node.kernel.as_str()),
        None => None,
    };
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}
