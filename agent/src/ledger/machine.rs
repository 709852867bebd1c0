//! The ledger's state machine: what this node is told, durably, and what follows from it.
//!
//! In: messages of the hub and the start of a session. Out: answers to the hub, and the keys whose
//! version in force changed. Every change is one committed transaction before anything is answered or
//! published; a machine that is opened again on its store goes on where that left off. No clock, no
//! randomness, no sockets: the agent drives it over SQLite, simulated agents over memory.

use std::collections::BTreeMap;

use selvedge_model::{ContentHash, Digest, EntryKey, EntryKind, OnDelete, SessionId, Watermark};
use selvedge_protocol::{
    ENCODINGS, HELLO_REFUSALS, InflateError, PROTOCOL_MAX, PROTOCOL_MIN, SET_BYTES, SET_ENTRIES,
    agent::{self as wire, to_agent::Message as FromHub, to_hub::Message as ToHub},
    convert, inflate,
};

use super::{
    draft::Draft,
    entry::{self, Entry},
    inventory,
    row::{Answered, Batch, Meta, Refusal, Row, RowKey, Slot, Store, StoreError, Version},
};

/// How long the hub is asked to wait when a commit failed.
const RETRY_AFTER_MS: u64 = 5_000;

/// What follows from one message.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Answers, in order.
    pub answers: Vec<ToHub>,
    /// Keys whose version in force changed.
    pub changed: Vec<RowKey>,
    /// The session must end, and why.
    pub close: Option<String>,
    /// Why nothing was committed, for the log.
    pub unwritable: Option<StoreError>,
}

/// The ledger of one node over a [`Store`].
#[derive(Debug)]
pub struct Machine<S> {
    store: S,
    meta: Meta,
    rows: BTreeMap<RowKey, Row>,
    session: Option<Session>,
    lost: usize,
}

/// The session that the machine speaks in.
#[derive(Debug)]
struct Session {
    id: SessionId,
    welcomed: bool,
    synced: bool,
    last_answered: Option<u64>,
}

/// Why a delta is not taken; the hub then compares inventories.
#[derive(Debug, PartialEq, Eq)]
struct Mismatch(&'static str);

const MALFORMED: Mismatch = Mismatch("Malformed");

impl<S: Store> Machine<S> {
    /// Opens the ledger of `cluster_id`. Under another version of the agent than last time refusals are
    /// forgotten, so that refused entries are offered again; so are Secrets whose key is lost.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when the rows do not add up to the digest or belong to another cluster;
    /// what the store says when it cannot be read.
    pub fn open(mut store: S, agent_version: &str, cluster_id: &str) -> Result<Self, StoreError> {
        let loaded = store.load()?;
        let (mut meta, rows) = (loaded.meta, loaded.rows);
        let digest: Digest = rows
            .iter()
            .filter_map(|(key, row)| row.answered.as_ref().map(|answered| answered.row_hash(key)))
            .collect();
        if digest != meta.digest {
            return Err(StoreError::Damaged("its rows do not add up to its digest".into()));
        }
        let known = &mut meta.watermark.cluster_id;
        if known.is_empty() {
            cluster_id.clone_into(known);
        } else if known != cluster_id {
            return Err(StoreError::Damaged(format!("it is of cluster {known}, this node of {cluster_id}")));
        }
        meta.boots += 1;
        let mut next = meta.clone();
        let mut draft = Draft::new(&rows, digest);
        if next.agent_version != agent_version {
            rows.keys().for_each(|key| draft.forget_refusal(key));
            agent_version.clone_into(&mut next.agent_version);
        }
        let lost = lost(&mut store, &rows)?;
        lost.iter().for_each(|key| draft.forget(key));
        next.digest = draft.digest();
        let batch = Batch { meta: Some(next), rows: draft.into_changes() };
        let mut machine = Self { store, meta, rows, session: None, lost: lost.len() };
        match machine.store.commit(&batch) {
            Ok(()) => drop(machine.adopt(batch)),
            // A full disk must not keep the node from running what it has. Rows in memory are never ahead
            // of those on disk, so refusals are forgotten by a later start.
            Err(StoreError::Unwritable(_)) => {}
            Err(damaged) => return Err(damaged),
        }
        Ok(machine)
    }

    /// Begins a session: the counter rises, durably where the disk allows it (else `Stale` heals it).
    ///
    /// # Errors
    /// [`StoreError::Damaged`] alone.
    pub fn hello(&mut self, nonce: u64, redirects: u32) -> Result<(SessionId, wire::Hello), StoreError> {
        self.raise_counter(self.meta.session_counter + 1)?;
        let id = SessionId { counter: self.meta.session_counter, nonce };
        self.session = Some(Session { id, welcomed: false, synced: false, last_answered: None });
        let hello = wire::Hello {
            session: Some(id.into()),
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            cluster_id: self.meta.watermark.cluster_id.clone(),
            watermark: Some((&self.meta.watermark).into()),
            digest: self.meta.digest.to_bytes().to_vec(),
            redirects,
            entries: self.answered().count() as u64,
            encodings: ENCODINGS.map(Into::into).to_vec(),
            max_entries: SET_ENTRIES,
            max_bytes: SET_BYTES,
            refused: self.refused().take(HELLO_REFUSALS).collect(),
        };
        Ok((id, hello))
    }

    /// What was answered, and cannot be used.
    fn refused(&self) -> impl Iterator<Item = wire::Refusal> {
        self.rows.iter().filter_map(|(key, row)| {
            let answered = row.answered.as_ref()?;
            Some(refusal(key, answered.version.hash, answered.refused.as_ref()?))
        })
    }

    /// Takes one message of session `id`. A message of any other session is dropped: it was on its way
    /// when that session ended.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] alone; a disk that cannot be written now is an answer (`Retry`).
    pub fn receive(&mut self, id: SessionId, message: FromHub) -> Result<Outcome, StoreError> {
        let Some(session) = self.session.as_mut().filter(|session| session.id == id) else {
            return Ok(Outcome::default());
        };
        match message {
            FromHub::Welcome(welcome) => self.welcome(&welcome),
            FromHub::Refused(refused) if refused.code() == wire::refused::Code::Stale => {
                let newest = refused.newest.map_or(0, |newest| newest.counter);
                self.raise_counter(newest.max(self.meta.session_counter))?;
                Ok(Outcome::default())
            }
            _ if !session.welcomed => Ok(Outcome::default()),
            FromHub::InSync(_) => {
                session.synced = true;
                self.complete()
            }
            FromHub::Compare(compare) => {
                session.synced = false;
                let answers = inventory::answer(&compare.buckets, || self.answered());
                Ok(Outcome { answers, ..Outcome::default() })
            }
            // The same delta again: its answer is on the way.
            FromHub::Delta(delta) if session.last_answered == Some(delta.nonce) => Ok(Outcome::default()),
            FromHub::Delta(delta) => self.delta(delta),
            FromHub::Farewell(_) => self.farewell(),
            _ => Ok(Outcome::default()),
        }
    }

    /// Stores a time that is known to have passed, Unix seconds (identity rule 10). Never goes back.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] alone.
    pub fn note_time(&mut self, unix: u64) -> Result<(), StoreError> {
        if unix <= self.meta.latest_time {
            return Ok(());
        }
        let meta = Meta { latest_time: unix, ..self.meta.clone() };
        self.commit_meta(meta)
    }

    /// All rows, answered or only in force.
    pub fn rows(&self) -> &BTreeMap<RowKey, Row> {
        &self.rows
    }

    /// How many Secrets could not be opened at start, because their key is lost.
    pub fn lost(&self) -> usize {
        self.lost
    }

    /// Everything that is not a row.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Whether the hub of the present session said that the set is whole and current.
    pub fn synced(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.synced)
    }

    /// The entry that is in force under `key`, decoded.
    ///
    /// # Errors
    /// [`StoreError`] when the body cannot be read or is not what was once accepted.
    pub fn entry(&mut self, key: &RowKey) -> Result<Option<Entry>, StoreError> {
        let Some(body) = self.store.body(key, Slot::InForce)? else { return Ok(None) };
        match Entry::decode(key, &body) {
            Ok(entry) => Ok(Some(entry)),
            Err(refusal) => Err(StoreError::Damaged(format!("{key}: {}", refusal.message))),
        }
    }

    /// The store, to look at it or to close it.
    pub fn store(&mut self) -> &mut S {
        &mut self.store
    }

    fn answered(&self) -> impl Iterator<Item = (&RowKey, &Answered)> {
        self.rows.iter().filter_map(|(key, row)| row.answered.as_ref().map(|answered| (key, answered)))
    }

    fn welcome(&mut self, welcome: &wire::Welcome) -> Result<Outcome, StoreError> {
        let known = &self.meta.watermark;
        if welcome.cluster_id != known.cluster_id {
            let close = format!(
                "the hub is of cluster {:?}, this node of {:?}",
                welcome.cluster_id, known.cluster_id
            );
            return Ok(Outcome { close: Some(close), ..Outcome::default() });
        }
        if let Some(session) = &mut self.session {
            session.welcomed = true;
        }
        let mut batch = Batch::default();
        if welcome.epoch > known.epoch {
            let watermark = Watermark {
                epoch: welcome.epoch,
                cluster_id: known.cluster_id.clone(),
                revisions: BTreeMap::new(),
            };
            batch.meta = Some(Meta { watermark, ..self.meta.clone() });
            // The rows stay, but their revisions count from another beginning now.
            batch.rows =
                self.rows.iter().map(|(key, row)| (key.clone(), Some(without_revisions(row)))).collect();
        } else {
            return Ok(Outcome::default());
        }
        self.commit_or_close(batch)
    }

    fn complete(&mut self) -> Result<Outcome, StoreError> {
        if self.meta.complete && !self.meta.stopped {
            return Ok(Outcome::default());
        }
        let meta = Meta { complete: true, stopped: false, ..self.meta.clone() };
        self.commit_or_close(Batch { meta: Some(meta), rows: BTreeMap::new() })
    }

    fn farewell(&mut self) -> Result<Outcome, StoreError> {
        let settings = RowKey::from(&EntryKey::node_settings());
        match self.entry(&settings)? {
            Some(Entry::NodeSettings(settings)) if settings.on_delete == OnDelete::Stop => {
                // Nobody says it again: a full disk must not make it unheard, though it lasts until a restart only.
                self.commit_meta(Meta { stopped: true, ..self.meta.clone() })?;
            }
            _ => {}
        }
        Ok(Outcome::default())
    }

    fn delta(&mut self, mut delta: wire::Delta) -> Result<Outcome, StoreError> {
        let mut outcome = Outcome::default();
        let inflated = inflate(&mut delta).map_err(|InflateError| MALFORMED);
        let (batch, refused) = match inflated.and_then(|()| self.judge(&delta)) {
            Ok(judged) => judged,
            Err(Mismatch(reason)) => {
                let reason = reason.to_owned();
                outcome.answers.push(ToHub::Resync(wire::Resync { nonce: delta.nonce, reason }));
                return Ok(outcome);
            }
        };
        match self.store.commit(&batch) {
            Ok(()) => {}
            Err(StoreError::Unwritable(why)) => {
                let retry = wire::Retry { nonce: delta.nonce, reason: why.clone(), after_ms: RETRY_AFTER_MS };
                outcome.answers.push(ToHub::Retry(retry));
                outcome.unwritable = Some(StoreError::Unwritable(why));
                return Ok(outcome);
            }
            Err(damaged) => return Err(damaged),
        }
        outcome.changed = self.adopt(batch);
        if let Some(session) = &mut self.session {
            session.last_answered = Some(delta.nonce);
            session.synced = delta.watermark.is_some();
        }
        outcome.answers.push(ToHub::Ack(wire::Ack { nonce: delta.nonce, refused }));
        Ok(outcome)
    }

    /// What a delta would do, or why it does not fit.
    fn judge(&self, delta: &wire::Delta) -> Result<(Batch, Vec<wire::Refusal>), Mismatch> {
        let digest = |field, bytes| convert::digest(field, bytes).map_err(|_| MALFORMED);
        if digest("base digest", &delta.base_digest)? != self.meta.digest {
            return Err(Mismatch("BaseDigest"));
        }
        let mut meta = self.meta.clone();
        if let Some(offered) = &delta.watermark {
            raise(&mut meta.watermark, offered)?;
            (meta.complete, meta.stopped) = (true, false);
        }
        let mut draft = Draft::new(&self.rows, self.meta.digest);
        let mut refused = Vec::new();
        for remove in &delta.removes {
            let key = remove.key.clone().ok_or(MALFORMED)?;
            draft.remove(&key.try_into().map_err(|_| MALFORMED)?, &remove.uid);
        }
        for upsert in &delta.upserts {
            let key: RowKey = upsert.key.clone().ok_or(MALFORMED)?.try_into().map_err(|_| MALFORMED)?;
            let hash = convert::content_hash("content hash", &upsert.content_hash).map_err(|_| MALFORMED)?;
            if is_older(draft.row(&key), upsert) {
                return Err(Mismatch("OlderRevision"));
            }
            let (answered, refusal) = answer(&key, hash, upsert);
            let body = refusal.is_none().then(|| upsert.body.clone());
            refused.extend(refusal);
            draft.upsert(&key, answered, body);
        }
        draft.settle();
        meta.digest = draft.digest();
        if digest("target digest", &delta.target_digest)? != meta.digest {
            return Err(Mismatch("TargetDigest"));
        }
        Ok((Batch { meta: Some(meta), rows: draft.into_changes() }, refused))
    }

    fn raise_counter(&mut self, counter: u64) -> Result<(), StoreError> {
        self.commit_meta(Meta { session_counter: counter, ..self.meta.clone() })
    }

    /// Commits meta; when the disk cannot be written now, it holds in memory alone.
    fn commit_meta(&mut self, meta: Meta) -> Result<(), StoreError> {
        let batch = Batch { meta: Some(meta), rows: BTreeMap::new() };
        match self.store.commit(&batch) {
            Ok(()) | Err(StoreError::Unwritable(_)) => {
                self.adopt(batch);
                Ok(())
            }
            Err(damaged) => Err(damaged),
        }
    }

    /// Commits; when the disk cannot be written now, the session ends and the next one tries again.
    fn commit_or_close(&mut self, batch: Batch) -> Result<Outcome, StoreError> {
        match self.store.commit(&batch) {
            Ok(()) => Ok(Outcome { changed: self.adopt(batch), ..Outcome::default() }),
            Err(StoreError::Unwritable(why)) => Ok(Outcome {
                close: Some(format!("the ledger cannot be written: {why}")),
                ..Outcome::default()
            }),
            Err(damaged) => Err(damaged),
        }
    }

    /// Takes a committed batch into memory; gives the keys whose version in force changed.
    fn adopt(&mut self, batch: Batch) -> Vec<RowKey> {
        if let Some(meta) = batch.meta {
            self.meta = meta;
        }
        let in_force = |row: &Row| row.in_force.as_ref().map(|version| (version.uid.clone(), version.hash));
        let mut changed = Vec::new();
        for (key, change) in batch.rows {
            let before = self.rows.get(&key).and_then(in_force);
            if before != change.as_ref().and_then(|change| in_force(&change.row)) {
                changed.push(key.clone());
            }
            match change {
                Some(change) => self.rows.insert(key, change.row),
                None => self.rows.remove(&key),
            };
        }
        changed
    }
}

/// Secrets in force whose bodies cannot be opened.
fn lost<S: Store>(store: &mut S, rows: &BTreeMap<RowKey, Row>) -> Result<Vec<RowKey>, StoreError> {
    let secrets = rows
        .iter()
        .filter(|(key, row)| key.known_kind() == Some(EntryKind::Secret) && row.in_force.is_some());
    let mut lost = Vec::new();
    for (key, _) in secrets {
        if store.body(key, Slot::InForce)?.is_none() {
            lost.push(key.clone());
        }
    }
    Ok(lost)
}

/// Raises what is known by what a delta reflects. A resource that the delta does not name stays.
fn raise(known: &mut Watermark, offered: &wire::Watermark) -> Result<(), Mismatch> {
    if offered.cluster_id != known.cluster_id {
        return Err(Mismatch("OtherCluster"));
    }
    if offered.epoch < known.epoch {
        return Err(Mismatch("OlderWatermark"));
    }
    if offered.epoch > known.epoch {
        known.epoch = offered.epoch;
        known.revisions.clear();
    }
    if offered.revisions.iter().any(|(resource, revision)| *revision < known.revision(resource)) {
        return Err(Mismatch("OlderWatermark"));
    }
    offered.revisions.iter().for_each(|(resource, revision)| known.raise(resource, *revision));
    Ok(())
}

/// Whether what is offered is older than what the same object was answered with: I1, kept even against a
/// hub that is wrong about its own caches.
fn is_older(row: Option<&Row>, upsert: &wire::Upsert) -> bool {
    row.and_then(|row| row.answered.as_ref()).is_some_and(|answered| {
        answered.version.uid == upsert.uid && answered.version.source_revision > upsert.source_revision
    })
}

fn answer(key: &RowKey, hash: ContentHash, upsert: &wire::Upsert) -> (Answered, Option<wire::Refusal>) {
    let version = |references| Version {
        uid: upsert.uid.clone(),
        hash,
        source_revision: upsert.source_revision,
        revision: upsert.revision.clone(),
        references,
    };
    match entry::judge(key, &hash, upsert) {
        Ok(entry) => (Answered { version: version(entry.references(&key.namespace)), refused: None }, None),
        Err(why) => {
            let said = refusal(key, hash, &why);
            (Answered { version: version(Vec::new()), refused: Some(why) }, Some(said))
        }
    }
}

/// As the hub is told.
fn refusal(key: &RowKey, hash: ContentHash, why: &Refusal) -> wire::Refusal {
    let Refusal { reason, message } = why.clone();
    wire::Refusal { key: Some(key.into()), content_hash: hash.0.to_vec(), reason, message }
}

fn without_revisions(row: &Row) -> super::row::RowChange {
    let mut row = row.clone();
    if let Some(answered) = &mut row.answered {
        answered.version.source_revision = 0;
    }
    if let Some(version) = &mut row.in_force {
        version.source_revision = 0;
    }
    super::row::RowChange { row, ..Default::default() }
}
