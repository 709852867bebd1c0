//! One boot of one simulated machine: the agent's own ledger and report book over a disk in memory, and what
//! is applied at once.
//!
//! In: messages of a hub, boots and crashes. Out: answers and reports. No sockets, no waiting. What the real
//! agent keeps on its disk is kept by [`Disk`]; what it has in memory ends with the [`Life`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use selvedge_agent::ledger::{Entry, Machine, MemoryStore, RowKey, StoreError};
use selvedge_agent::node::AGENT_VERSION;
use selvedge_agent::report::{Book, Note};
use selvedge_history::{Agent, Event, InForce, Row, Verdict};
use selvedge_model::{ContentHash, DeviceEntry, EntryKey, EntryKind, SessionId};
use selvedge_protocol::agent::{
    self as wire, entry_report::State, to_agent::Message as FromHub, to_hub::Message as ToHub, verdict::Code,
};

use crate::clock;
use crate::fleet::Fleet;

/// Reports of one frame, as the real agent's.
const REPORTS_A_FRAME: usize = 128;

/// What outlives a crash.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    ledger: MemoryStore,
    reports: BTreeMap<RowKey, wire::EntryReport>,
}

/// Who lives.
#[derive(Clone, Debug)]
pub struct Who {
    /// Which machine.
    pub agent: Agent,
    /// Uid of its EdgeNode.
    pub uid: Arc<str>,
    /// Its cluster.
    pub cluster: Arc<str>,
    /// Numbers states over all machines of this node: shows in reports and statuses, so that each can be
    /// found again.
    pub says: Arc<AtomicU64>,
}

/// See the module.
pub struct Life {
    who: Who,
    fleet: Arc<Fleet>,
    ledger: Machine<MemoryStore>,
    book: Book,
    saved: BTreeMap<RowKey, wire::EntryReport>,
    session: SessionId,
    /// By how much its clock is wrong, milliseconds.
    pub skew: i64,
}

/// What follows from a message.
#[derive(Debug, Default)]
pub struct Step {
    /// Answers, in order.
    pub answers: Vec<ToHub>,
    /// The session must end, and why.
    pub close: Option<String>,
}

impl Life {
    /// Boots from a disk; `fresh`: nobody expects anything to be on it.
    ///
    /// # Errors
    /// [`StoreError`] when the disk does not hold what this node once knew.
    pub fn boot(who: Who, fleet: Arc<Fleet>, disk: Disk, fresh: bool) -> Result<Self, StoreError> {
        let ledger = Machine::open(disk.ledger, AGENT_VERSION, &who.cluster)?;
        let book = Book::open(ledger.meta().boots, disk.reports.values().cloned().collect());
        let session = SessionId::default();
        let mut life = Self { who, fleet, ledger, book, saved: disk.reports, session, skew: 0 };
        life.fleet.record.tell(|| Event::Booted {
            agent: life.who.agent.clone(),
            fresh,
            rows: rows(&life.ledger),
        });
        let state = wire::NodeState {
            agent_version: AGENT_VERSION.to_owned(),
            arch: "amd64".into(),
            os: "linux".into(),
            kernel: "simulated".into(),
            runtime: "simulated://1".into(),
            cpu_millis: 2000,
            memory_bytes: 1 << 30,
            storage_bytes: 8 << 30,
            notice: life.saying(),
            ..wire::NodeState::default()
        };
        let key = RowKey::from(&EntryKey::node_settings());
        let uid = life.who.uid.to_string();
        life.book.note(Note { key, uid, content_hash: Vec::new(), state: State::Node(state) });
        let keys: Vec<RowKey> = life.ledger.rows().keys().cloned().collect();
        // A machine that went on has in force what it had; a fresh one shows what it begins with.
        life.apply(&keys, fresh)?;
        Ok(life)
    }

    /// Power and process go; what was saved stays.
    #[must_use]
    pub fn crash(mut self) -> Disk {
        Disk { ledger: std::mem::take(self.ledger.store()), reports: self.saved }
    }

    /// A copy of the disk as it is.
    #[must_use]
    pub fn copy(&mut self) -> Disk {
        Disk { ledger: self.ledger.store().clone(), reports: self.saved.clone() }
    }

    /// Who this is.
    #[must_use]
    pub const fn who(&self) -> &Who {
        &self.who
    }

    /// Begins a session.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn hello(&mut self, nonce: u64, redirects: u32) -> Result<wire::Hello, StoreError> {
        let (session, hello) = self.ledger.hello(nonce, redirects)?;
        self.session = session;
        Ok(hello)
    }

    /// The hub took the session: everything is said again.
    pub fn began(&mut self) {
        self.book.session();
        let (agent, session) = (&self.who.agent, self.session);
        self.fleet.record.tell(|| Event::Began { agent: agent.clone(), session });
    }

    /// The session.
    #[must_use]
    pub const fn session(&self) -> SessionId {
        self.session
    }

    /// Whether the hub said that the set is whole and current.
    #[must_use]
    pub fn synced(&self) -> bool {
        self.ledger.synced()
    }

    /// Everything that was answered.
    #[must_use]
    pub fn answered(&self) -> Vec<Row> {
        rows(&self.ledger)
    }

    /// What it said last of each key, by the number in it.
    #[must_use]
    pub fn said(&self) -> Vec<(selvedge_history::Name, u64)> {
        let reports = self.book.snapshot().0;
        reports.iter().map(|report| (name(report.key.as_ref()), says(report.state.as_ref()))).collect()
    }

    /// Takes a message.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn receive(&mut self, message: FromHub) -> Result<Step, StoreError> {
        if let FromHub::Verdicts(verdicts) = &message {
            verdicts.verdicts.iter().for_each(|verdict| self.verdict(verdict));
            return Ok(Step::default());
        }
        let delta = match &message {
            FromHub::Delta(delta) => Some(Delta::of(delta)),
            _ => None,
        };
        let epoch = self.ledger.meta().watermark.epoch;
        let outcome = self.ledger.receive(self.session, message)?;
        let now = self.ledger.meta().watermark.epoch;
        if now > epoch {
            let agent = &self.who.agent;
            self.fleet.record.tell(|| Event::Epoch { agent: agent.clone(), epoch: now });
        }
        if let Some(delta) = delta
            && outcome.answers.iter().any(|answer| matches!(answer, ToHub::Ack(_)))
        {
            self.fleet.arrived(&delta.revisions);
            let (agent, session) = (&self.who.agent, self.session);
            self.fleet.record.tell(|| delta.answered(agent.clone(), session));
        }
        if outcome.answers.iter().any(|answer| matches!(answer, ToHub::Resync(_))) {
            self.fleet.counters.resyncs.fetch_add(1, Ordering::Relaxed);
        }
        self.apply(&outcome.changed, true)?;
        Ok(Step { answers: outcome.answers, close: outcome.close })
    }

    /// Reports that wait to be sent.
    pub fn reports(&mut self) -> Option<wire::Report> {
        let entries = self.book.take(REPORTS_A_FRAME);
        for report in &entries {
            let session = self.session;
            self.fleet.record.tell(|| Event::Reported {
                session,
                key: name(report.key.as_ref()),
                seq: report.seq,
                says: says(report.state.as_ref()),
            });
        }
        self.fleet.counters.reports.fetch_add(entries.len() as u64, Ordering::Relaxed);
        (!entries.is_empty()).then_some(wire::Report { entries })
    }

    /// Makes durable what was reported and has no verdict.
    pub fn save(&mut self) {
        for (key, report) in self.book.unsaved() {
            match report {
                Some(report) => self.saved.insert(key, report),
                None => self.saved.remove(&key),
            };
        }
    }

    /// The machine's clock.
    #[must_use]
    pub fn unix_ms(&self) -> i64 {
        clock::unix_ms() + self.skew
    }

    fn verdict(&mut self, verdict: &wire::Verdict) {
        self.book.verdict(verdict);
        self.fleet.counters.verdicts.fetch_add(1, Ordering::Relaxed);
        let ended = match verdict.code() {
            Code::Written => Verdict::Written,
            Code::Superseded => Verdict::Superseded,
            Code::Gone => Verdict::Gone,
            Code::Refused => Verdict::Refused,
            Code::Unspecified => return,
        };
        let (node, session) = (&self.who.agent.node, self.session);
        self.fleet.record.tell(|| Event::Verdict {
            node: node.clone(),
            session,
            key: name(verdict.key.as_ref()),
            seq: verdict.seq,
            verdict: ended,
        });
    }

    /// What came into force is applied at once.
    fn apply(&mut self, keys: &[RowKey], news: bool) -> Result<(), StoreError> {
        let mut left = false;
        for key in keys {
            let version = self.ledger.rows().get(key).and_then(|row| row.in_force.clone());
            let agent = &self.who.agent;
            let Some(version) = version else {
                left = true;
                if news {
                    let record = &self.fleet.record;
                    record.tell(|| Event::OutOfForce { agent: agent.clone(), key: key.to_string().into() });
                }
                continue;
            };
            if news {
                self.fleet.record.tell(|| Event::InForce {
                    agent: agent.clone(),
                    key: key.to_string().into(),
                    version: InForce {
                        uid: version.uid.as_str().into(),
                        source: version.source_revision,
                        revision: version.revision.as_str().into(),
                        hash: version.hash,
                    },
                });
            }
            let state = match key.known_kind() {
                Some(EntryKind::Workload) => State::Workload(wire::WorkloadState {
                    phase: wire::Phase::Running.into(),
                    revision: version.revision.clone(),
                    message: self.saying(),
                    ..wire::WorkloadState::default()
                }),
                Some(EntryKind::Device) => match self.ledger.entry(key)? {
                    Some(Entry::Device(device)) => State::Device(self.driven(&device)),
                    _ => continue,
                },
                _ => continue,
            };
            self.fleet.record.tell(|| Event::Applied {
                node: self.who.agent.node.clone(),
                key: key.to_string().into(),
                hash: version.hash,
            });
            let content_hash = version.hash.0.to_vec();
            self.book.note(Note { key: key.clone(), uid: version.uid, content_hash, state });
        }
        if left {
            let (node, rows) = (RowKey::from(&EntryKey::node_settings()), self.ledger.rows());
            self.book.retain(|key| *key == node || rows.contains_key(key));
        }
        Ok(())
    }

    /// A device that does what it is told and shows a number that no other state of it ever shows.
    fn driven(&self, device: &DeviceEntry) -> wire::DeviceState {
        let checked = self.fleet.record.is_checked();
        let says = if checked { self.who.says.fetch_add(1, Ordering::Relaxed) + 1 } else { 0 };
        let read_unix_ms = self.unix_ms();
        let properties = device.properties.iter().map(|property| {
            let written = property.desired.as_ref().and_then(|value| serde_json::to_string(value).ok());
            let written = written.unwrap_or_default();
            let reported = if written.is_empty() { says.to_string() } else { written.clone() };
            let name = property.name.clone();
            wire::PropertyState { name, reported, read_unix_ms, written, error: String::new() }
        });
        let properties = properties.collect();
        wire::DeviceState { connected: true, properties, ..wire::DeviceState::default() }
    }

    /// A text that no other state of this node has. Where nobody checks, states are alike, as those of real
    /// machines mostly are.
    fn saying(&self) -> String {
        if !self.fleet.record.is_checked() {
            return String::new();
        }
        format!("{SAYING}{}", self.who.says.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// What a delta brings, kept while the ledger takes it.
struct Delta {
    nonce: u64,
    rows: Vec<(wire::Key, String, Vec<u8>)>,
    removed: Vec<(wire::Key, String)>,
    revisions: Vec<u64>,
}

impl Delta {
    fn of(delta: &wire::Delta) -> Self {
        let rows = delta.upserts.iter().filter_map(|upsert| {
            Some((upsert.key.clone()?, upsert.uid.clone(), upsert.content_hash.clone()))
        });
        let removed = delta.removes.iter().filter_map(|gone| Some((gone.key.clone()?, gone.uid.clone())));
        let revisions = delta.upserts.iter().map(|upsert| upsert.source_revision);
        let nonce = delta.nonce;
        Self { nonce, rows: rows.collect(), removed: removed.collect(), revisions: revisions.collect() }
    }

    fn answered(self, agent: Agent, session: SessionId) -> Event {
        let hash = |bytes: Vec<u8>| bytes.try_into().map_or(ContentHash([0; 32]), ContentHash);
        let rows = self.rows.into_iter().map(|(key, uid, bytes)| Row {
            key: name(Some(&key)),
            uid: uid.into(),
            hash: hash(bytes),
        });
        let removed = self.removed.into_iter().map(|(key, uid)| (name(Some(&key)), uid.into()));
        Event::Answered {
            agent,
            session,
            nonce: self.nonce,
            rows: rows.collect(),
            removed: removed.collect(),
        }
    }
}

/// Before the number of a state, where a text carries it.
const SAYING: &str = "state ";

/// The number in a text that a simulated agent made.
#[must_use]
pub fn said(text: &str) -> u64 {
    text.strip_prefix(SAYING).and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn says(state: Option<&State>) -> u64 {
    match state {
        Some(State::Node(state)) => said(&state.notice),
        Some(State::Workload(state)) => said(&state.message),
        Some(State::Device(state)) => {
            let free = state.properties.iter().find(|property| property.written.is_empty());
            free.and_then(|property| property.reported.parse().ok()).unwrap_or(0)
        }
        None => 0,
    }
}

fn name(key: Option<&wire::Key>) -> selvedge_history::Name {
    let key = key.cloned().and_then(|key| RowKey::try_from(key).ok());
    key.map(|key| key.to_string()).unwrap_or_default().into()
}

fn rows(ledger: &Machine<MemoryStore>) -> Vec<Row> {
    let answered = |(key, row): (&RowKey, &selvedge_agent::ledger::Row)| {
        let version = &row.answered.as_ref()?.version;
        Some(Row { key: key.to_string().into(), uid: version.uid.as_str().into(), hash: version.hash })
    };
    ledger.rows().iter().filter_map(answered).collect()
}
