//! One live session: the state machine driven over its socket, its reports written.
//!
//! In: frames, wake-ups of the inbox, time, ends of status writes. Out: frames, status writes, the end. It
//! decides nothing that the machine or the book could decide.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use selvedge_model::{EntryKey, EntryKind};
use selvedge_protocol::agent::{
    self as wire, refused::Code, to_agent::Message as ToAgent, to_hub::Message as ToHub,
};
use selvedge_protocol::{HEARTBEAT, decode, encode};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::Door;
use super::admit::Ended;
use super::socket::Socket;
use crate::clock;
use crate::faults::Fault;
use crate::hub::Hub;
use crate::index::Part;
use crate::lag::Lag;
use crate::metrics::Metrics;
use crate::removals::Parting;
use crate::resyncs::Turn;
use crate::session::{Closed, Output, Session, Sync};
use crate::sessions::Inbox;
use crate::share::Share;
use crate::status::{Book, Target, Written};

/// Two heartbeats lost, and a little for a slow link.
pub(super) const SILENCE: Duration = Duration::from_secs(2 * HEARTBEAT.as_secs() + 1);
/// Agents of a drained replica come back over this time, so that the others are not flooded.
const SPREAD_MS: std::ops::Range<u64> = 0..1_000;
/// A drained session ends within this, whatever is in flight: well before the process does.
const DRAIN: Duration = Duration::from_secs(5);
/// The controller's word that a node is shut out is carried out when the watch has not told why within this.
const TOLD_BY_WATCH: Duration = Duration::from_secs(1);
/// Agents come back over this time when a new epoch begins: the whole fleet may.
const EPOCH_SPREAD_MS: std::ops::Range<u64> = 0..10_000;
/// Of two machines with one identity, the one that was superseded comes back after this long: the two take
/// turns by the minute, and neither turns the hub into a wheel.
const DUPLICATE_MS: u64 = 60_000;

/// Runs a session that was admitted, to its end.
pub(super) async fn live(
    socket: &mut Socket,
    session: Box<Session>,
    inbox: Arc<Inbox>,
    door: &Door,
) -> Ended {
    let hub = &door.hub;
    let book = Book::new(session.node().clone());
    let mut drive = Drive {
        hub: hub.clone(),
        session,
        inbox,
        book,
        writes: JoinSet::new(),
        held: BTreeMap::new(),
        drained_by: None,
        turn: Turn::None,
        obstacle: None,
        duplicate: None,
        lag: Lag::default(),
        share: Share::new(&hub.metrics),
        told_held: false,
        orphan: false,
    };
    let ended = drive.run(socket, door).await;
    let session = &drive.session;
    match ended.fault() {
        None => {
            tracing::info!(node = %session.node(), session = %session.id(), reason = %ended, "session ended")
        }
        // Its line in the log is the fault's, once a minute.
        Some(_) => {
            tracing::debug!(node = %session.node(), session = %session.id(), reason = %ended, "session ended");
        }
    }
    if matches!(drive.obstacle, Some(Sync::AheadOfCluster { .. })) {
        hub.metrics.paused.dec();
    }
    for (kind, held) in &drive.held {
        hub.removals.hold(*kind, *held, 0);
    }
    hub.sessions.close(session.uid(), session.id());
    ended
}

/// A session with what it takes to run it.
pub(super) struct Drive {
    pub(super) hub: Arc<Hub>,
    /// Boxed: a future has room for it in each place that it passes through.
    pub(super) session: Box<Session>,
    inbox: Arc<Inbox>,
    pub(super) book: Book,
    pub(super) writes: JoinSet<(Target, Written)>,
    /// Entries that the guard counts as held by this session.
    held: BTreeMap<EntryKind, usize>,
    drained_by: Option<Instant>,
    /// To compare its set.
    turn: Turn,
    /// What stood in the way when it was last looked at.
    obstacle: Option<Sync>,
    /// Two machines bear the node's identity: until when that counts.
    pub(super) duplicate: Option<Instant>,
    /// How long its changes take.
    lag: Lag,
    /// Its part of the hub's gauges.
    share: Share,
    /// People were told that removals of it wait.
    told_held: bool,
    /// Its EdgeNode is not there or shuts it out, and what to tell it is not known yet.
    orphan: bool,
}

impl Drive {
    async fn run(&mut self, socket: &mut Socket, door: &Door) -> Ended {
        match self.go(socket, door).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn go(&mut self, socket: &mut Socket, door: &Door) -> Result<std::convert::Infallible, Ended> {
        let mut heard = clock::now();
        let mut beat = heard + HEARTBEAT;
        let outputs = self.proceed();
        self.follow(outputs, socket).await?;
        loop {
            self.look();
            for (target, written) in self.begin_writes() {
                self.written(target, written, socket).await?;
            }
            let waits = self.session.waits() || self.orphan;
            if !self.inbox.waits.swap(waits, Ordering::Relaxed) && waits {
                // What it waits for may have come before anybody could know that it waits.
                let outputs = self.proceed();
                self.follow(outputs, socket).await?;
                self.part(socket).await?;
            }
            self.inbox.unmarked.store(self.session.is_unmarked(), Ordering::Relaxed);
            let due = [
                Some(beat),
                Some(heard + SILENCE),
                self.session.due(),
                self.write_due(),
                self.drained_by,
                self.duplicate,
                self.orphan.then(|| clock::now() + TOLD_BY_WATCH),
            ];
            let due = due.into_iter().flatten().min().unwrap_or(beat);
            tokio::select! {
                frame = socket.next() => {
                    heard = clock::now();
                    let frame = frame?;
                    let bytes = frame.len();
                    let message = decode::<wire::ToHub>(frame)?.message;
                    self.hub.metrics.received(message.as_ref(), bytes);
                    let outputs = match message {
                        Some(message) => self.receive(message),
                        // Of a later version, which can do without an answer of this one.
                        None => vec![Output::Fault(Fault::UnknownMessage)],
                    };
                    self.follow(outputs, socket).await?;
                }
                () = self.inbox.wake.notified() => {
                    let outputs = self.touched()?;
                    self.follow(outputs, socket).await?;
                    self.part(socket).await?;
                }
                Some(written) = self.writes.join_next(), if !self.writes.is_empty() => {
                    let (target, written) = written.map_err(|_| Ended::Said("a status write panicked"))?;
                    self.written(target, written, socket).await?;
                }
                () = self.turn.come() => {
                    let outputs = self.admitted();
                    self.follow(outputs, socket).await?;
                }
                () = door.drain.cancelled(), if self.drained_by.is_none() => {
                    self.drained_by = Some(clock::now() + DRAIN);
                    let outputs = self.session.drain();
                    self.follow(outputs, socket).await?;
                }
                () = sleep_until(due.into()) => {}
            }
            if self.orphan {
                self.part(socket).await?;
            }
            let now = clock::now();
            if now >= heard + SILENCE {
                return Err(Ended::Silent);
            }
            if now >= beat {
                beat = now + HEARTBEAT;
                let heartbeat = wire::Heartbeat { unix_ms: clock::unix_ms() };
                send(&self.hub.metrics, socket, ToAgent::Heartbeat(heartbeat)).await?;
            }
            if self.drained_by.is_some_and(|by| by <= now) {
                self.follow(vec![Output::Close(Closed::Drained)], socket).await?;
            }
            if self.session.due().is_some_and(|due| due <= now) {
                let outputs = self.proceed();
                self.follow(outputs, socket).await?;
            }
        }
    }

    fn proceed(&mut self) -> Vec<Output> {
        self.hub.look(clock::now(), |view| self.session.proceed(view))
    }

    fn admitted(&mut self) -> Vec<Output> {
        self.hub.look(clock::now(), |view| self.session.admitted(view))
    }

    /// What became of the session beside what it said.
    fn look(&mut self) {
        let now = clock::now();
        self.share.set(self.session.dirty(), |kind| self.session.held_back(kind));
        self.tell_held(now);
        if self.session.is_quiet() {
            self.lag.settled();
            self.book.delivered(now);
        }
        if !self.session.is_resyncing() {
            self.turn = Turn::None;
        }
        if self.duplicate.is_some_and(|until| until <= now) {
            self.duplicate = None;
            self.book.news(now, false);
        }
        let obstacle = self.session.obstacle();
        if obstacle != self.obstacle {
            self.book.news(now, true);
            let paused = |obstacle: Option<Sync>| matches!(obstacle, Some(Sync::AheadOfCluster { .. }));
            let change = i64::from(paused(obstacle)) - i64::from(paused(self.obstacle));
            self.hub.metrics.paused.add(change);
            self.obstacle = obstacle;
            if paused(obstacle) {
                tracing::warn!(node = %self.session.node(), "the node has seen more than there is: paused");
                self.hub.sessions.pause(self.session.uid(), self.session.epoch());
            }
        }
    }

    fn tell_held(&mut self, now: Instant) {
        let why = self.session.held_for_people();
        if let Some(why) = why.filter(|_| !self.told_held) {
            let held = EntryKind::ALL.map(|kind| (kind, self.session.held_back(kind)));
            let held: Vec<_> = held.into_iter().filter(|(_, count)| *count > 0).collect();
            let (node, uid) = (self.session.node(), self.session.uid());
            self.hub.notices.removals_held(node, uid, why, &held, now);
        }
        self.told_held = why.is_some();
    }

    fn receive(&mut self, message: ToHub) -> Vec<Output> {
        let hub = self.hub.clone();
        let now = clock::now();
        let ack = match &message {
            ToHub::Ack(ack) => {
                if let Some(took) = self.lag.acked(ack, now) {
                    hub.metrics.delivered.observe(took.as_secs_f64());
                }
                Some(ack.refused.clone())
            }
            _ => None,
        };
        let outputs = hub.look(clock::now(), |view| self.session.receive(message, view));
        if let Some(refused) = ack {
            let any_refused = !refused.is_empty();
            let keys = refused.into_iter().filter_map(|refusal| EntryKey::try_from(refusal.key?).ok());
            for key in keys.filter(|key| key.kind == EntryKind::Device) {
                self.book.device_news(&crate::index::ObjectKey::new(&key.namespace, &key.name), now);
            }
            self.count_held();
            let answered = EntryKind::ALL.into_iter().map(|kind| self.session.holds(kind)).sum();
            self.book.acked(answered, any_refused, now);
        }
        outputs
    }

    fn touched(&mut self) -> Result<Vec<Output>, Ended> {
        let pending = self.inbox.take();
        if pending.duplicate.is_some() {
            self.duplicate = pending.duplicate;
            self.book.news(clock::now(), false);
        }
        if pending.superseded {
            return Ok(vec![Output::Send(ToAgent::Refused(wire::Refused {
                code: Code::Superseded.into(),
                message: "a newer session of this node lives".into(),
                newest: self.hub.sessions.newest(self.session.uid()).map(Into::into),
                retry_after_ms: if self.duplicate.is_some() { DUPLICATE_MS } else { 0 },
            }))]);
        }
        let now = clock::now();
        for part in &pending.parts {
            if let Part::Device(key) = part {
                self.book.device_news(key, now);
            }
        }
        if !pending.parts.is_empty() {
            self.book.news(now, true);
        }
        if let Some(since) = pending.since {
            self.lag.touched(since);
        }
        Ok(self.hub.look(clock::now(), |view| self.session.touch(pending.parts, pending.raises, view)))
    }

    /// Ends the session if its EdgeNode does not admit it any more.
    async fn part(&mut self, socket: &mut Socket) -> Result<(), Ended> {
        let Some(last) = self.refusal() else { return Ok(()) };
        send(&self.hub.metrics, socket, last).await?;
        Err(Ended::Said("the EdgeNode does not admit it any more"))
    }

    /// Whether the session must end because of its EdgeNode.
    fn refusal(&mut self) -> Option<ToAgent> {
        let (uid, now) = (self.session.uid(), clock::now());
        self.orphan = false;
        let refuse = |code: Code, message: &str| {
            let message = message.to_owned();
            Some(ToAgent::Refused(wire::Refused {
                code: code.into(),
                message,
                newest: None,
                retry_after_ms: 5_000,
            }))
        };
        if self.hub.sessions.newest(uid).is_some_and(|newest| newest > self.session.id()) {
            return refuse(Code::Superseded, "a newer session of this node lives");
        }
        let index = self.hub.index();
        match index.node(self.session.node()) {
            Some(node) if node.uid != *uid => refuse(Code::OtherUid, "the EdgeNode was created anew"),
            Some(node) if node.denied => refuse(Code::Denied, "the EdgeNode has spec.denied"),
            Some(_) => match self.hub.sessions.denied_at(uid) {
                None => None,
                // It was deleted or has spec.denied: the watch says which, and a deletion is a Farewell.
                Some(denied) if now < denied + TOLD_BY_WATCH => {
                    self.orphan = true;
                    None
                }
                Some(_) => refuse(Code::Denied, "the EdgeNode is shut out"),
            },
            None if !index.is_synced() => None,
            None => match self.hub.removals.parting(uid, now) {
                Parting::Farewell => {
                    Some(ToAgent::Farewell(wire::Farewell { reason: "the EdgeNode was deleted".into() }))
                }
                Parting::TryLater => refuse(Code::TryLater, "no EdgeNode with this name is known any more"),
                Parting::Wait => {
                    self.orphan = true;
                    None
                }
            },
        }
    }

    async fn follow(&mut self, outputs: Vec<Output>, socket: &mut Socket) -> Result<(), Ended> {
        let now = clock::now();
        for output in outputs {
            match output {
                Output::Send(message) => {
                    if let ToAgent::Delta(delta) = &message {
                        self.lag.sent(delta);
                    }
                    if matches!(message, ToAgent::InSync(_)) {
                        self.count_held();
                        self.hub.sessions.resume(self.session.uid());
                        self.book.news(now, false);
                    }
                    let end = matches!(message, ToAgent::Refused(_));
                    send(&self.hub.metrics, socket, message).await?;
                    if end {
                        return Err(Ended::Said("superseded"));
                    }
                }
                Output::Report(report) => {
                    let content = report.content.as_ref();
                    let took = content.and_then(|content| self.lag.reported(&report.key, &content.0, now));
                    if let Some(took) = took {
                        self.hub.metrics.applied.observe(took.as_secs_f64());
                    }
                    self.book.report(report, now);
                }
                Output::Poke(resources) => {
                    if !resources.is_empty() {
                        self.hub.metrics.watermark_waits.inc();
                    }
                    self.hub.pokes.poke(&resources);
                    self.hub.cluster_wanted.notify_one();
                }
                Output::Admit(bytes) => self.turn = self.hub.resyncs.queue(bytes),
                Output::Resynced => self.hub.metrics.resyncs.inc(),
                Output::Fault(fault) => self.hub.faults.note(self.session.node(), fault, now),
                Output::Close(closed) => return Err(self.close(closed, socket).await),
            }
        }
        Ok(())
    }

    async fn close(&mut self, closed: Closed, socket: &mut Socket) -> Ended {
        let spread = if closed == Closed::NewEpoch { EPOCH_SPREAD_MS } else { SPREAD_MS };
        let goodbye = |reason: &str, behind| wire::Goodbye {
            reason: reason.to_owned(),
            retry_after_ms: rand::rng().random_range(spread),
            behind,
        };
        let (message, why) = match closed {
            Closed::NoAnswer => (None, "a question was not answered in time"),
            Closed::Broken(fault) => return Ended::Broken(fault),
            Closed::Redirected => (
                Some(goodbye("this replica is behind what the node has seen", true)),
                "sent to another replica",
            ),
            Closed::NotReady => {
                (Some(goodbye("this replica has not read the cluster yet", false)), "not ready")
            }
            Closed::NewEpoch => (Some(goodbye("a new epoch began", false)), "a new epoch began"),
            Closed::Drained => (Some(goodbye("this replica ends", false)), "drained"),
        };
        match message.map(ToAgent::Goodbye) {
            Some(message) => match send(&self.hub.metrics, socket, message).await {
                Ok(()) => Ended::Said(why),
                Err(ended) => ended,
            },
            None => Ended::Said(why),
        }
    }

    fn count_held(&mut self) {
        for kind in [EntryKind::Workload, EntryKind::Device] {
            let after = self.session.holds(kind);
            let before = self.held.insert(kind, after).unwrap_or(0);
            self.hub.removals.hold(kind, before, after);
        }
    }
}

pub(super) async fn send(metrics: &Metrics, socket: &mut Socket, message: ToAgent) -> Result<(), Ended> {
    let message = wire::ToAgent { message: Some(message) };
    let frame = encode(&message);
    if let Some(message) = &message.message {
        metrics.sent(message, frame.len());
    }
    Ok(socket.send(frame).await?)
}
