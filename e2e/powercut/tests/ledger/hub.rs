//! What a hub and the agent's other tasks do to a ledger, made from a seed: one step is one commit.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::{Rng, RngExt as _};
use selvedge_agent::ledger::{Machine, Row, RowKey, Store, StoreError};
use selvedge_model::{ContentHash, Digest, EntryKind, SessionId, canonical_json};
use selvedge_protocol::agent::{
    self as wire, DeviceState, EntryReport, entry_report::State, to_agent::Message as FromHub,
    to_hub::Message as ToHub,
};
use serde_json::json;

pub const CLUSTER: &str = "cluster-1";
/// Few, so that they change often.
const DEVICES: u32 = 12;
/// A page of SQLite is 4 KiB: bodies are inside a page, over some, and over many.
const LARGEST_BODY: usize = 24 * 1024;

/// One step.
#[derive(Clone, Debug)]
pub enum Step {
    /// A session begins.
    Hello { nonce: u64 },
    /// The hub greets, maybe in a new epoch.
    Welcome { epoch: u64 },
    /// The hub sends a change.
    Delta(Box<wire::Delta>),
    /// The hub knows a newer session.
    Stale { counter: u64 },
    /// The hub tells the time.
    Time { unix: u64 },
    /// The report task saves: reports without a verdict, and those that have theirs.
    Reports(Vec<(RowKey, Option<EntryReport>)>),
}

/// The hub's side of a history.
#[derive(Clone, Debug, Default)]
pub struct Hub {
    session: Option<SessionId>,
    revision: u64,
    nonce: u64,
    time: u64,
}

impl Hub {
    /// A session is needed anew after each start of the agent.
    pub fn agent_started(&mut self) {
        self.session = None;
    }

    /// The next step, for a node that holds `rows`.
    pub fn next<S: Store>(&mut self, machine: &Machine<S>, random: &mut impl Rng) -> Step {
        self.nonce += 1;
        let meta = machine.meta();
        if self.session.is_none() {
            return Step::Hello { nonce: self.nonce };
        }
        match random.random_range(0..20) {
            0 => Step::Hello { nonce: self.nonce },
            1 => Step::Welcome { epoch: meta.watermark.epoch + u64::from(random.random_ratio(1, 4)) },
            2 => Step::Stale { counter: meta.session_counter + random.random_range(0..5) },
            3 => {
                self.time += random.random_range(1..1000);
                Step::Time { unix: self.time }
            }
            4..8 => Step::Reports((0..random.random_range(1..4)).map(|_| self.report(random)).collect()),
            _ => Step::Delta(Box::new(self.delta(machine.rows(), meta.digest, meta.watermark.epoch, random))),
        }
    }

    /// Plays a step; gives what the hub is answered.
    pub fn play<S: Store>(
        &mut self,
        machine: &mut Machine<S>,
        step: &Step,
    ) -> Result<Vec<ToHub>, StoreError> {
        let message = match step {
            Step::Hello { nonce } => {
                let (session, hello) = machine.hello(*nonce, 0)?;
                self.session = Some(session);
                // Into its session at once: greeting it in the same epoch commits nothing.
                machine.receive(session, welcome(machine.meta().watermark.epoch))?;
                return Ok(vec![ToHub::Hello(hello)]);
            }
            Step::Welcome { epoch } => welcome(*epoch),
            Step::Delta(delta) => FromHub::Delta((**delta).clone()),
            Step::Stale { counter } => FromHub::Refused(wire::Refused {
                code: wire::refused::Code::Stale.into(),
                newest: Some(wire::Session { counter: *counter, nonce: 0 }),
                ..Default::default()
            }),
            Step::Time { unix } => {
                machine.note_time(*unix)?;
                return Ok(Vec::new());
            }
            Step::Reports(_) => return Ok(Vec::new()),
        };
        let session = self.session.expect("a step without a session");
        Ok(machine.receive(session, message)?.answers)
    }

    fn report(&mut self, random: &mut impl Rng) -> (RowKey, Option<EntryReport>) {
        let key = device(random.random_range(0..DEVICES));
        self.nonce += 1;
        let state =
            DeviceState { message: filler(random.random_range(0..3000), random), ..Default::default() };
        let report = EntryReport {
            key: Some((&key).into()),
            seq: self.nonce,
            state: Some(State::Device(state)),
            ..Default::default()
        };
        (key, random.random_ratio(2, 3).then_some(report))
    }

    fn delta(
        &mut self,
        rows: &BTreeMap<RowKey, Row>,
        base: Digest,
        epoch: u64,
        random: &mut impl Rng,
    ) -> wire::Delta {
        let mut digest = base;
        let mut delta =
            wire::Delta { nonce: self.nonce, base_digest: base.to_bytes().to_vec(), ..Default::default() };
        let chosen: std::collections::BTreeSet<u32> =
            (0..random.random_range(1..5)).map(|_| random.random_range(0..DEVICES)).collect();
        for key in chosen.into_iter().map(device) {
            self.revision += 1;
            let answered = rows.get(&key).and_then(|row| row.answered.as_ref());
            if let Some(answered) = answered {
                digest = digest.minus(answered.row_hash(&key));
                if random.random_ratio(1, 4) {
                    let uid = answered.version.uid.clone();
                    delta.removes.push(wire::Remove { key: Some((&key).into()), uid });
                    continue;
                }
            }
            let upsert = self.upsert(&key, random);
            let hash = ContentHash(upsert.content_hash.as_slice().try_into().unwrap());
            digest = digest.plus(key.row_hash(&upsert.uid, &hash));
            delta.upserts.push(upsert);
        }
        delta.target_digest = digest.to_bytes().to_vec();
        if random.random_ratio(1, 2) {
            let revisions = [("devices".to_owned(), self.revision)].into();
            delta.watermark = Some(wire::Watermark { cluster_id: CLUSTER.into(), epoch, revisions });
        }
        delta
    }

    fn upsert(&self, key: &RowKey, random: &mut impl Rng) -> wire::Upsert {
        let filler = filler(random.random_range(0..LARGEST_BODY) >> random.random_range(0..8), random);
        let body = match random.random_range(0..8) {
            // Refused, and answered all the same.
            0 => json!({ "protocol": filler }),
            _ => json!({ "protocol": { "modbus": { "tcp": { "host": filler } } } }),
        };
        let body = Bytes::from(canonical_json(&body));
        wire::Upsert {
            key: Some(key.into()),
            uid: "uid".into(),
            source_revision: self.revision,
            content_hash: ContentHash::of_canonical(&body).0.to_vec(),
            encoding: wire::Encoding::Json.into(),
            body,
            ..Default::default()
        }
    }
}

/// One letter over and over, so that a page torn between two bodies shows.
fn filler(len: usize, random: &mut impl Rng) -> String {
    char::from(random.random_range(b'a'..=b'z')).to_string().repeat(len)
}

fn device(number: u32) -> RowKey {
    RowKey {
        kind: EntryKind::Device.number(),
        namespace: "shop".into(),
        name: format!("device-{number}"),
        version: String::new(),
    }
}

pub fn welcome(epoch: u64) -> FromHub {
    FromHub::Welcome(wire::Welcome { cluster_id: CLUSTER.into(), epoch, ..Default::default() })
}
