//! One session at a hub: the shipped session, inbox and book, driven as the transport drives them.
//!
//! In: messages of the agent, wake-ups, time, ends of writes. Out: messages to the agent, writes that begin,
//! pokes, and the end. What the transport does with sockets and tasks is the world's affair here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt as _;
use selvedge_hub::hub::Hub;
use selvedge_hub::index::{ObjectKey, Part, Resource};
use selvedge_hub::resyncs::Turn;
use selvedge_hub::session::{Closed, Output, Session, Sync};
use selvedge_hub::sessions::Inbox;
use selvedge_hub::status::{self, Begun, Book, Job, Target, Work, Written};
use selvedge_model::{EntryKey, EntryKind, HISTORY};
use selvedge_protocol::agent::{
    self as wire, refused::Code, to_agent::Message as ToAgent, to_hub::Message as ToHub,
};

use crate::stock::DEVICES;

/// As the transport has it: status writes at once of one session.
const WRITES: usize = 8;
/// Beside the entries of its set a node costs its own status and the part of its workloads.
const BESIDE: usize = 2;

/// What follows from a step.
#[derive(Default)]
pub struct Follows {
    /// To the agent.
    pub down: Vec<ToAgent>,
    /// Resources that must catch up.
    pub pokes: Vec<Resource>,
    /// The session has ended.
    pub closed: bool,
}

/// See the module.
pub struct Seat {
    hub: Arc<Hub>,
    /// The hub is of the version before.
    older: bool,
    session: Session,
    inbox: Arc<Inbox>,
    book: Book,
    held: BTreeMap<EntryKind, usize>,
    writes: usize,
    /// To compare its set.
    turn: Turn,
    /// What stood in the way when it was last looked at.
    obstacle: Option<Sync>,
}

impl Seat {
    /// A session that was admitted and opened.
    pub fn new(hub: Arc<Hub>, older: bool, session: Session, inbox: Arc<Inbox>) -> Self {
        let book = Book::new(session.node().clone());
        let (held, turn) = (BTreeMap::new(), Turn::None);
        Self { hub, older, session, inbox, book, held, writes: 0, turn, obstacle: None }
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// What is kept for it: of what, how much, and the most that the node's set and its agent account for (I7).
    pub fn keeps(&self, now: Instant) -> Vec<(&'static str, usize, usize)> {
        let most = self.hub.look(now, |view| self.session.reach(view)) + BESIDE;
        let session = self.session.keeps().map(|(what, count)| (what, count, most));
        // The status of a device that has left the set is looked at once more.
        let book = self.book.keeps().map(|(what, count)| (what, count, most + DEVICES.len()));
        session.into_iter().chain(book).collect()
    }

    /// Its end, as the hub keeps account of it.
    pub fn close(&mut self) {
        for (kind, held) in std::mem::take(&mut self.held) {
            self.hub.removals.hold(kind, held, 0);
        }
        self.hub.sessions.close(self.session.uid(), self.session.id());
    }

    /// Time has passed.
    pub fn proceed(&mut self, now: Instant) -> Follows {
        let hub = self.hub.clone();
        let outputs = hub.look(now, |view| self.session.proceed(view));
        self.follow(outputs, now)
    }

    /// A message of the agent.
    pub fn receive(&mut self, message: ToHub, now: Instant) -> Follows {
        let hub = self.hub.clone();
        let ack = match &message {
            ToHub::Ack(ack) => Some(ack.refused.clone()),
            _ => None,
        };
        let outputs = hub.look(now, |view| self.session.receive(message, view));
        if let Some(refused) = ack {
            let any_refused = !refused.is_empty();
            let keys = refused.into_iter().filter_map(|refusal| EntryKey::try_from(refusal.key?).ok());
            for key in keys.filter(|key| key.kind == EntryKind::Device) {
                self.book.device_news(&ObjectKey::new(&key.namespace, &key.name), now);
            }
            self.count_held();
            let answered = EntryKind::ALL.into_iter().map(|kind| self.session.holds(kind)).sum();
            self.book.acked(answered, any_refused, now);
        }
        self.follow(outputs, now)
    }

    /// Whether its inbox woke it since it was last asked.
    pub fn is_woken(&self) -> bool {
        self.inbox.wake.notified().now_or_never().is_some()
    }

    /// Looks at what gathered in its inbox.
    pub fn wake(&mut self, now: Instant) -> Follows {
        let pending = self.inbox.take();
        let newest = self.hub.sessions.newest(self.session.uid());
        if pending.superseded || newest.is_some_and(|newest| newest > self.session.id()) {
            let refused = ToAgent::Refused(wire::Refused {
                code: Code::Superseded.into(),
                message: "a newer session of this node lives".into(),
                newest: newest.map(Into::into),
                retry_after_ms: 0,
            });
            return Follows { down: vec![refused], closed: true, ..Follows::default() };
        }
        for part in &pending.parts {
            if let Part::Device(key) = part {
                self.book.device_news(key, now);
            }
        }
        if !pending.parts.is_empty() {
            self.book.news(now, true);
        }
        let hub = self.hub.clone();
        let outputs = hub.look(now, |view| self.session.touch(pending.parts, pending.raises, view));
        self.follow(outputs, now)
    }

    /// When it wants to be asked again.
    pub fn due(&self) -> Option<Instant> {
        let write = self.book.due().filter(|_| self.writes < WRITES);
        [self.session.due(), write].into_iter().flatten().min()
    }

    fn follow(&mut self, outputs: Vec<Output>, now: Instant) -> Follows {
        let mut follows = Follows::default();
        for output in outputs {
            match output {
                Output::Send(mut message) => {
                    if self.older {
                        self.say_as_before(&mut message);
                    }
                    if matches!(message, ToAgent::InSync(_)) {
                        self.count_held();
                        self.hub.sessions.resume(self.session.uid());
                        self.book.news(now, false);
                    }
                    follows.closed |= matches!(message, ToAgent::Refused(_));
                    follows.down.push(message);
                }
                Output::Report(report) => self.book.report(report, now),
                Output::Poke(resources) => {
                    follows.pokes.extend(resources);
                    self.hub.cluster_wanted.notify_one();
                }
                Output::Admit(bytes) => self.turn = self.hub.resyncs.queue(bytes),
                Output::Resynced | Output::Fault(_) => {}
                Output::Close(closed) => {
                    let goodbye = |behind| {
                        let reason = String::new();
                        ToAgent::Goodbye(wire::Goodbye { reason, retry_after_ms: 500, behind })
                    };
                    match closed {
                        Closed::Redirected => follows.down.push(goodbye(true)),
                        Closed::NotReady | Closed::Drained | Closed::NewEpoch => {
                            follows.down.push(goodbye(false));
                        }
                        _ => {}
                    }
                    follows.closed = true;
                }
            }
        }
        if !follows.closed && self.turn.come().now_or_never().is_some() {
            let hub = self.hub.clone();
            let outputs = hub.look(now, |view| self.session.admitted(view));
            let more = self.follow(outputs, now);
            follows.down.extend(more.down);
            follows.pokes.extend(more.pokes);
            follows.closed |= more.closed;
        }
        self.look(now);
        self.inbox.waits.store(self.session.waits(), std::sync::atomic::Ordering::Relaxed);
        self.inbox.unmarked.store(self.session.is_unmarked(), std::sync::atomic::Ordering::Relaxed);
        follows
    }

    /// The version before tells an agent its whole watermark, in which it writes no mark.
    fn say_as_before(&self, message: &mut ToAgent) {
        if let ToAgent::Delta(delta) = message
            && let Some(watermark) = &mut delta.watermark
            && let Some(whole) = self.session.offered()
        {
            *watermark = whole.into();
            watermark.revisions.remove(HISTORY);
        }
    }

    /// What became of the session beside what it said.
    fn look(&mut self, now: Instant) {
        if self.session.is_quiet() {
            self.book.delivered(now);
        }
        if !self.session.is_resyncing() {
            self.turn = Turn::None;
        }
        let obstacle = self.session.obstacle();
        if obstacle != self.obstacle {
            self.book.news(now, true);
            self.obstacle = obstacle;
            if matches!(obstacle, Some(Sync::AheadOfCluster { .. })) {
                self.hub.sessions.pause(self.session.uid(), self.session.epoch());
            }
        }
    }

    fn count_held(&mut self) {
        for kind in [EntryKind::Workload, EntryKind::Device] {
            let after = self.session.holds(kind);
            let before = self.held.insert(kind, after).unwrap_or(0);
            self.hub.removals.hold(kind, before, after);
        }
    }

    /// Writes that begin now; those of objects that left the set end at once.
    pub fn begin_writes(&mut self, now: Instant) -> (Vec<Work>, Vec<(Target, Written)>) {
        let (mut begun, mut ended) = (Vec::new(), Vec::new());
        if self.book.due().is_none_or(|due| due > now) {
            return (begun, ended);
        }
        for job in self.book.jobs(now, WRITES.saturating_sub(self.writes)) {
            self.writes += 1;
            match self.work(job, now) {
                Begun::Write(work) => begun.push(work),
                Begun::Ended(target, written) => ended.push((target, written)),
                Begun::Later => self.writes -= 1,
            }
        }
        (begun, ended)
    }

    /// What a job writes: the shipped function, with a time that stands still.
    fn work(&mut self, job: Job, now: Instant) -> Begun {
        let (hub, time) = (&self.hub, || jiff::Timestamp::UNIX_EPOCH);
        hub.look(now, |view| status::work(job, &mut self.book, &self.session, view, false, &hub.recall, time))
    }

    /// A write ended: what the agent is told.
    pub fn written(&mut self, target: &Target, written: Written, now: Instant) -> Follows {
        self.writes -= 1;
        let newer = written.newer;
        let mut follows = Follows::default();
        if let Some(known) = &written.known {
            self.hub.recall.keep(target, known, self.hub.index().term());
        }
        let verdicts = self.book.written(target, &written, now);
        if !verdicts.is_empty() {
            follows.down.push(ToAgent::Verdicts(wire::Verdicts { verdicts }));
        }
        if let Some(newer) = newer {
            follows.down.push(ToAgent::Refused(wire::Refused {
                code: Code::Stale.into(),
                message: format!("session {newer} has written a status already"),
                newest: Some(newer.into()),
                retry_after_ms: 0,
            }));
            follows.closed = true;
        }
        follows
    }
}
