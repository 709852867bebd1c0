//! One session with one agent, as a state machine without IO (sync rules 4 to 8, 11).
//!
//! In: messages of the agent, parts of the node's set that were touched, permission of time. Out: messages
//! to the agent, reports to be written, and why the session ends. It holds what the agent has answered and
//! which parts are dirty, never a history: a slow agent costs its dirty keys.
//!
//! ```text
//!  Waiting ─ digests equal ─► Live ─ touched ─► Delta ─ Ack ─► Live
//!     │                        ▲                  └ Resync ─► Comparing
//!     └ differ ─► Behind? ─► Queued ─► Comparing (rows, or bucket digests and then rows)
//!  any ─ proof of a restore ─► Paused ─ new epoch ─► closed, to be welcomed in it
//!  any ─► Draining (finish what is in flight) ─► closed
//! ```

mod compare;
mod counts;
mod delta;
pub mod greeting;
pub mod limit;
mod report;
mod restore;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use selvedge_model::{ContentHash, Digest, EntryKey, RowHash, SessionId, Watermark};
use selvedge_protocol::agent::{self as wire, to_agent::Message as ToAgent, to_hub::Message as ToHub};
use selvedge_protocol::convert;

use crate::faults::Fault;
use crate::index::{Index, Part, Pins, Resource, Slots};
use crate::removals::Gate;
use compare::Comparing;
pub use counts::{Entry, Standing, Sync};
use delta::InFlight;
use limit::Room;
pub use report::{Reported, verdict};

/// Keys that are not known yet are waited for this long after a Hello (sync rule 2).
const KNOWN_WITHIN: Duration = Duration::from_secs(5);
/// A replica that is behind the agent's watermark sends it on after this long (sync rule 7).
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(5);
/// So often an agent is sent on before it stays where it is.
const MAX_REDIRECTS: u32 = 2;
/// Resyncs in a row that are answered at once (sync rule 6).
const MAX_RESYNCS: u32 = 3;
/// After those: doubled with each further one, up to the most.
const FIRST_MISMATCH_WAIT: Duration = Duration::from_secs(30);
const MOST_MISMATCH_WAIT: Duration = Duration::from_secs(300);
/// An agent may ask to be left alone for at most this long, so that a wrong clock there costs little.
const MOST_RETRY_WAIT: Duration = Duration::from_secs(60);

/// What a session looks at whenever it decides.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// What is desired.
    pub index: &'a Index,
    /// Whether a removal may be sent now.
    pub gate: &'a dyn Gate,
    /// The time now.
    pub now: Instant,
}

/// What follows.
#[derive(Debug)]
pub enum Output {
    /// To the agent.
    Send(ToAgent),
    /// A report on a key of the node's set: to be written, then answered with a verdict.
    Report(Reported),
    /// These resources must catch up, and what the cluster says of itself: somebody waits.
    Poke(Vec<Resource>),
    /// Counted: the agent asked to compare again.
    Resynced,
    /// A comparison of a set of about so many bytes waits for its turn: see [`Session::admitted`].
    Admit(u64),
    /// The agent sent what it should not: counted, and the session goes on.
    Fault(Fault),
    /// The session ends.
    Close(Closed),
}

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// A question was not answered in time.
    NoAnswer,
    /// Sent to another replica.
    Redirected,
    /// The caches are not filled: another replica, or later.
    NotReady,
    /// Drained.
    Drained,
    /// A new epoch began, which the agent hears in its next Welcome.
    NewEpoch,
    /// The agent is broken.
    Broken(Fault),
}

/// One entry as the agent has answered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    uid: Arc<str>,
    content: ContentHash,
    row: RowHash,
    /// Workload: the ControllerRevision.
    revision: Arc<str>,
}

/// An entry that the agent cannot use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    content: ContentHash,
    /// CamelCase.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Refusal {
    /// Of one entry, as an agent names it; none: it cannot be told of which.
    fn of(said: wire::Refusal) -> Option<(EntryKey, Self)> {
        let key = EntryKey::try_from(said.key?).ok()?;
        let content = convert::content_hash("content hash", &said.content_hash).ok()?;
        Some((key, Self { content, reason: said.reason, message: said.message }))
    }
}

#[derive(Debug)]
enum State {
    Waiting {
        until: Instant,
    },
    Behind {
        until: Instant,
    },
    /// The comparison of so many bytes waits for its turn among the sessions of this replica.
    Queued {
        bytes: u64,
    },
    Comparing(Comparing),
    /// Digests do not come to match: another try later.
    Mismatch {
        until: Instant,
    },
    Live,
    /// The agent has seen more than there is: a restore. Reports are taken, nothing is sent.
    Paused,
    Draining,
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    node: Arc<str>,
    uid: Arc<str>,
    id: SessionId,
    redirects: u32,
    /// Whether the agent reads deflated bodies.
    inflates: bool,
    room: Room,
    /// In which the agent was welcomed.
    epoch: u64,
    began: Instant,
    paused_before: bool,
    state: State,
    /// Of the agent, as last answered.
    digest: Digest,
    watermark: Watermark,
    /// The watermark is the agent's own: it answered it in this session. A delta then names what has risen alone.
    agent_has_watermark: bool,
    /// When the watermark became what it is: what is asked later is not older.
    marked: Instant,
    /// Proofs of a restore that what was answered has been compared since.
    restores: u64,
    /// When the caches were last asked to catch up.
    poked: Option<Instant>,
    /// How many marks had been read when something was sent last; none: the agent bears a mark later than that.
    unmarked: Option<u64>,
    answered: BTreeMap<EntryKey, Answered>,
    refused: BTreeMap<EntryKey, Refusal>,
    /// Removals that the gate holds back.
    kept: BTreeMap<EntryKey, &'static str>,
    pins: Pins,
    /// Which nodes are late was found out.
    pinned: bool,
    dirty: BTreeSet<Part>,
    /// What the next complete sync raises the watermark by.
    raises: BTreeMap<Resource, u64>,
    /// The dirty parts come from a comparison and not from events.
    compared: bool,
    /// The agent must be told that it is in sync even if nothing differs.
    announce: bool,
    in_flight: Option<InFlight>,
    retry_at: Option<Instant>,
    resyncs: u32,
    /// Bytes that may still be sent of a comparison; 0: it has ended.
    allowance: u64,
    nonce: u64,
    /// Reports on keys that may be in the set as newer replicas know it.
    waiting_reports: BTreeMap<EntryKey, wire::EntryReport>,
}

impl Session {
    /// A session that was admitted; `hello` has been checked by [`greeting::greet`].
    #[must_use]
    pub fn new(node: Arc<str>, uid: Arc<str>, hello: greeting::Greeted, now: Instant) -> Self {
        Self {
            node,
            uid,
            id: hello.session,
            redirects: hello.redirects,
            inflates: hello.inflates,
            room: Room::of(hello.limits),
            epoch: hello.epoch,
            began: now,
            paused_before: false,
            state: State::Waiting { until: now + KNOWN_WITHIN },
            digest: hello.digest,
            watermark: hello.watermark,
            agent_has_watermark: false,
            marked: now,
            restores: 0,
            poked: None,
            unmarked: None,
            answered: BTreeMap::new(),
            refused: hello.refused.into_iter().filter_map(Refusal::of).collect(),
            kept: BTreeMap::new(),
            pins: Pins::new(),
            pinned: false,
            dirty: BTreeSet::new(),
            raises: BTreeMap::new(),
            compared: false,
            announce: false,
            in_flight: None,
            retry_at: None,
            resyncs: 0,
            allowance: 0,
            // Unique within the session is enough: the agent drops deltas of other sessions.
            nonce: 0,
            waiting_reports: BTreeMap::new(),
        }
    }

    /// Name of the node.
    #[must_use]
    pub fn node(&self) -> &Arc<str> {
        &self.node
    }

    /// Uid of the EdgeNode that the certificate names.
    #[must_use]
    pub fn uid(&self) -> &Arc<str> {
        &self.uid
    }

    /// Which session of the node.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// A message of the agent.
    pub fn receive(&mut self, message: ToHub, view: View<'_>) -> Vec<Output> {
        let mut out = Vec::new();
        if self.answers_nothing(&message) {
            // Also when an answer comes late; what was asked then was asked again.
            out.push(Output::Fault(Fault::ForeignNonce));
        }
        match message {
            ToHub::Inventory(inventory) => self.inventory(inventory, view, &mut out),
            ToHub::Ack(ack) => self.acked(ack, view),
            ToHub::Retry(retry) => self.retried(&retry, view),
            ToHub::Resync(resync) => self.resync(&resync, view, &mut out),
            ToHub::Report(report) => self.reported(report.entries, view, &mut out),
            // Heartbeats are the transport's; streams are not opened by this hub.
            ToHub::Heartbeat(_) | ToHub::Stream(_) => {}
            ToHub::Hello(_) => out.push(Output::Close(Closed::Broken(Fault::HelloAgain))),
        }
        self.step(view, &mut out);
        out
    }

    /// Whether it answers a delta that is not in flight.
    fn answers_nothing(&self, message: &ToHub) -> bool {
        let nonce = match message {
            ToHub::Ack(ack) => ack.nonce,
            ToHub::Retry(retry) => retry.nonce,
            ToHub::Resync(resync) => resync.nonce,
            _ => return false,
        };
        self.in_flight.as_ref().is_none_or(|delta| delta.nonce != nonce)
    }

    /// Parts of the node's set that an event touched, with the event's resource and revision.
    pub fn touch(
        &mut self,
        parts: BTreeSet<Part>,
        raises: BTreeMap<Resource, u64>,
        view: View<'_>,
    ) -> Vec<Output> {
        if parts.contains(&Part::Workloads) {
            // Now, and not only when something is offered: rollout state that is lost and rebuilt while an answer
            // is on its way passes nobody.
            self.refresh_pins(view);
        }
        if matches!(self.state, State::Live) {
            for part in parts {
                if self.concerns(&part, view.index) {
                    self.dirty.insert(part);
                } else {
                    self.dirty.remove(&part);
                }
            }
            for (resource, revision) in raises {
                let known = self.raises.entry(resource).or_default();
                *known = revision.max(*known);
            }
        }
        self.proceed(view)
    }

    /// Whether a part is of the node's set, or of what the agent has or is about to have. A device that comes and goes
    /// while a delta is on its way is neither (I7).
    fn concerns(&self, part: &Part, index: &Index) -> bool {
        let Part::Device(key) = part else { return true };
        let entry = crate::index::device_entry(key);
        index.is_placed(&self.node, key)
            || self.answered.contains_key(&entry)
            || self.in_flight.iter().flat_map(InFlight::keys).any(|sent| *sent == entry)
    }

    /// A delta is on its way no more: what only it brought is of no concern.
    fn forget_gone(&mut self, index: &Index) {
        let dirty = std::mem::take(&mut self.dirty);
        self.dirty = dirty.into_iter().filter(|part| self.concerns(part, index)).collect();
    }

    /// Goes on after time has passed, or caches or the gate have moved.
    pub fn proceed(&mut self, view: View<'_>) -> Vec<Output> {
        let mut out = Vec::new();
        if !self.kept.is_empty() && matches!(self.state, State::Live) {
            // The gate may have opened.
            let kept: Vec<_> = self.kept.keys().map(part_of).collect();
            self.dirty.extend(kept);
        }
        self.step(view, &mut out);
        out
    }

    /// Sends nothing new; ends when what is in flight was answered.
    pub fn drain(&mut self) -> Vec<Output> {
        self.state = State::Draining;
        if self.in_flight.is_none() { vec![Output::Close(Closed::Drained)] } else { Vec::new() }
    }

    /// When [`Self::proceed`] is due.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let state = match &self.state {
            State::Waiting { until } | State::Behind { until } | State::Mismatch { until } => Some(*until),
            State::Comparing(comparing) => Some(comparing.until),
            State::Queued { .. } | State::Live | State::Paused | State::Draining => None,
        };
        let pokes = matches!(self.state, State::Live) && !self.dirty.is_empty();
        let poke = self.poked.filter(|_| pokes).map(|at| at + CAUGHT_UP_WITHIN);
        let answer = self.in_flight.as_ref().map(|delta| delta.until);
        let retry = self.retry_at.filter(|_| !self.dirty.is_empty());
        [state, answer, retry, poke].into_iter().flatten().min()
    }

    /// Whether the agent's set is complete and nothing is on the way.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        matches!(self.state, State::Live) && self.dirty.is_empty() && self.in_flight.is_none()
    }

    /// Whether it waits for the caches or the gate to move.
    #[must_use]
    pub fn waits(&self) -> bool {
        !matches!(self.state, State::Live)
            || !self.kept.is_empty()
            || !self.waiting_reports.is_empty()
            || (!self.dirty.is_empty() && self.in_flight.is_none())
    }

    /// Whether the agent is to get a later mark of the cluster's history than it has.
    #[must_use]
    pub fn is_unmarked(&self) -> bool {
        self.unmarked.is_some()
    }

    fn step(&mut self, view: View<'_>, out: &mut Vec<Output>) {
        self.advance(view, out);
        if !self.waiting_reports.is_empty() && self.can_tell_gone(view) {
            let waiting = std::mem::take(&mut self.waiting_reports);
            self.reported(waiting.into_values().collect(), view, out);
        }
    }

    fn advance(&mut self, view: View<'_>, out: &mut Vec<Output>) {
        let now = view.now;
        if self.in_flight.as_ref().is_some_and(|delta| delta.until <= now) {
            return out.push(Output::Close(Closed::NoAnswer));
        }
        if self.is_of_an_older_epoch(view.index) {
            return out.push(Output::Close(Closed::NewEpoch));
        }
        if matches!(self.state, State::Live) && self.restores != view.index.restores() {
            // What was answered is of a history that is over; a delta in flight is answered first.
            if self.in_flight.is_none() && view.index.is_synced() {
                self.begin(&view.index.set(&self.node, &self.pins), view, out);
            }
            self.poked = None;
            return;
        }
        match &self.state {
            State::Waiting { until } => {
                let until = *until;
                let slots = view.index.set(&self.node, &self.pins);
                if !view.index.is_synced() {
                    if until <= now {
                        out.push(Output::Close(Closed::NotReady));
                    }
                } else if until <= now || !delta::any_unknown(&slots) {
                    self.begin(&slots, view, out);
                }
            }
            State::Behind { until } => {
                let until = *until;
                if !self.is_behind(view.index) {
                    self.compare(view, out);
                } else if self.is_ahead(view.index) {
                    self.pause();
                } else if until <= now && self.redirects < MAX_REDIRECTS {
                    out.push(Output::Close(Closed::Redirected));
                } else if until <= now {
                    // It stays, reports, and gets no delta until the caches have caught up.
                    self.fall_behind(view, out);
                }
            }
            State::Comparing(comparing) if comparing.until <= now => {
                out.push(Output::Close(Closed::NoAnswer))
            }
            State::Queued { .. } | State::Comparing(_) | State::Paused => {}
            State::Mismatch { until } => {
                if *until <= now {
                    self.compare(view, out);
                }
            }
            State::Live => self.offer(view, out),
            State::Draining => {
                if self.in_flight.is_none() {
                    out.push(Output::Close(Closed::Drained));
                }
            }
        }
    }

    /// Digest first: equal sets need one small frame, whatever the watermarks.
    fn begin(&mut self, slots: &Slots, view: View<'_>, out: &mut Vec<Output>) {
        self.room.measure(slots, |_| false, 0);
        let fits = slots.iter().filter(|(key, _)| !self.room.is_over(key));
        let rows: BTreeMap<_, _> =
            fits.filter_map(|(key, slot)| Some((key.clone(), delta::row(key, slot)?))).collect();
        let desired: Digest = rows.values().map(|row| row.row).collect();
        self.restores = view.index.restores();
        if desired == self.digest {
            self.answered = rows;
            self.forget_other_refusals();
            self.pinned = true;
            self.state = State::Live;
            self.dirty.clear();
            self.raises.clear();
            (self.compared, self.allowance) = (false, 0);
            self.unmarked = Some(view.index.marks());
            out.push(Output::Send(ToAgent::InSync(wire::InSync {})));
        } else if self.paused_before {
            self.pause();
        } else if matches!(self.state, State::Waiting { until } if until > view.now)
            && self.may_be_outdated(view.index)
        {
            if self.poked.replace(view.now).is_none() {
                out.push(Output::Poke(Vec::new()));
            }
        } else {
            self.compare(view, out);
        }
    }

    /// A refusal is of one content: what was answered since was accepted.
    fn forget_other_refusals(&mut self) {
        let answered = &self.answered;
        self.refused
            .retain(|key, refused| answered.get(key).is_some_and(|row| row.content == refused.content));
    }

    fn resync(&mut self, resync: &wire::Resync, view: View<'_>, out: &mut Vec<Output>) {
        if self.in_flight.as_ref().is_none_or(|delta| delta.nonce != resync.nonce) {
            return;
        }
        out.push(Output::Resynced);
        self.resyncs += 1;
        if self.resyncs <= MAX_RESYNCS {
            return self.compare(view, out);
        }
        self.come_to_nothing();
        self.allowance = 0;
        let doublings = (self.resyncs - MAX_RESYNCS - 1).min(8);
        let wait = (FIRST_MISMATCH_WAIT * 2_u32.pow(doublings)).min(MOST_MISMATCH_WAIT);
        self.state = State::Mismatch { until: view.now + wait };
    }

    fn retried(&mut self, retry: &wire::Retry, view: View<'_>) {
        if self.in_flight.as_ref().is_none_or(|delta| delta.nonce != retry.nonce) {
            return;
        }
        let Some(delta) = self.come_to_nothing() else { return };
        self.dirty.extend(delta.parts);
        self.forget_gone(view.index);
        self.compared |= delta.compared;
        let wait = Duration::from_millis(retry.after_ms).clamp(Duration::from_secs(1), MOST_RETRY_WAIT);
        self.retry_at = Some(view.now + wait);
    }
}

fn part_of(key: &EntryKey) -> Part {
    use selvedge_model::EntryKind;
    match key.kind {
        EntryKind::NodeSettings => Part::Settings,
        EntryKind::ConfigMap | EntryKind::Secret | EntryKind::Workload => Part::Workloads,
        EntryKind::Device => Part::Device(crate::index::ObjectKey::new(&key.namespace, &key.name)),
    }
}

#[cfg(test)]
mod tests;
