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
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use super::socket::{Socket, SocketError};
use super::{Door, Peer};
use crate::clock;
use crate::hub::Hub;
use crate::index::{Index, Part};
use crate::removals::Removal;
use crate::session::greeting::{Admission, greet};
use crate::session::{Closed, Output, Session, View};
use crate::sessions::{Inbox, Seen};
use crate::status::{self, Book, Job, Target, Work, Written};

/// The first frame is here within this.
const HELLO: Duration = Duration::from_secs(10);
/// Two heartbeats lost, and a little for a slow link.
const SILENCE: Duration = Duration::from_secs(2 * HEARTBEAT.as_secs() + 1);
/// Agents of a drained replica come back over this time, so that the others are not flooded.
const SPREAD_MS: std::ops::Range<u64> = 0..1_000;
/// A drained session ends within this, whatever is in flight: well before the process does.
const DRAIN: Duration = Duration::from_secs(5);
/// Status writes at once of one session: a node with many devices must not take the API server alone.
const WRITES: usize = 8;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("the agent was silent for {} s", SILENCE.as_secs())]
    Silent,
    #[error("the agent sent what is no message")]
    Malformed(#[from] selvedge_protocol::DecodeError),
    #[error("{0}")]
    Said(&'static str),
}

/// Runs a session from its first frame to its end.
pub async fn run(mut socket: Socket, peer: Peer, door: Door) {
    match timeout(HELLO, hello(&mut socket)).await {
        Ok(Ok(hello)) => {
            let greeted = Box::pin(admit(&mut socket, &peer, &door, hello)).await;
            if let Ok(Some((session, inbox))) = greeted {
                live(&mut socket, session, inbox, &door).await;
            }
        }
        Ok(Err(error)) => tracing::debug!(node = %peer.node, %error, "no Hello"),
        Err(_) => tracing::debug!(node = %peer.node, "no Hello in time"),
    }
    socket.close().await;
}

async fn hello(socket: &mut Socket) -> Result<wire::Hello, Ended> {
    match decode::<wire::ToHub>(socket.next().await?)?.message {
        Some(ToHub::Hello(hello)) => Ok(hello),
        _ => Err(Ended::Said("the first frame was no Hello")),
    }
}

async fn admit(
    socket: &mut Socket,
    peer: &Peer,
    door: &Door,
    hello: wire::Hello,
) -> Result<Option<(Session, Arc<Inbox>)>, Ended> {
    let hub = &door.hub;
    let Some(cluster) = hub.cluster.borrow().clone() else { return Ok(None) };
    let greeted = {
        let index = hub.index();
        greet(
            hello,
            &Admission {
                node: index.node(&peer.node),
                uid: &peer.uid,
                newest: hub.sessions.newest(&peer.uid),
                denied: hub.sessions.is_denied(&peer.uid),
                cluster_id: &cluster.id,
                epoch: cluster.epoch,
                unix_ms: clock::unix_ms(),
            },
        )
    };
    let (greeted, welcome) = match greeted {
        Ok(greeted) => greeted,
        Err(refused) => {
            let code = refused.code();
            hub.metrics.refused.with_label_values(&[reason(code)]).inc();
            tracing::info!(node = %peer.node, reason = reason(code), message = refused.message, "session refused");
            send(socket, ToAgent::Refused(refused)).await?;
            return Ok(None);
        }
    };
    let seen = Seen {
        node: peer.node.clone(),
        uid: peer.uid.clone(),
        id: greeted.session,
        serial: peer.serial.clone(),
        closed: false,
    };
    // Open before the first look at the index: no event falls in between.
    let Some(inbox) = hub.sessions.open(seen) else { return Ok(None) };
    let session = Session::new(peer.node.clone(), peer.uid.clone(), greeted, clock::now());
    tracing::info!(node = %peer.node, session = %session.id(), "session");
    if let Err(ended) = send(socket, ToAgent::Welcome(welcome)).await {
        hub.sessions.close(session.uid(), session.id());
        return Err(ended);
    }
    Ok(Some((session, inbox)))
}

async fn live(socket: &mut Socket, session: Session, inbox: Arc<Inbox>, door: &Door) {
    let hub = &door.hub;
    hub.metrics.sessions.inc();
    let book = Book::new(session.node().clone());
    let mut drive = Drive {
        hub: hub.clone(),
        session,
        inbox,
        book,
        writes: JoinSet::new(),
        held: BTreeMap::new(),
        drained_by: None,
    };
    let ended = drive.run(socket, door).await;
    let session = &drive.session;
    tracing::info!(node = %session.node(), session = %session.id(), reason = %ended, "session ended");
    for (kind, held) in &drive.held {
        hub.removals.hold(*kind, *held, 0);
    }
    hub.sessions.close(session.uid(), session.id());
    hub.metrics.sessions.dec();
}

struct Drive {
    hub: Arc<Hub>,
    session: Session,
    inbox: Arc<Inbox>,
    book: Book,
    writes: JoinSet<(Target, Written)>,
    /// Entries that the guard counts as held by this session.
    held: BTreeMap<EntryKind, usize>,
    drained_by: Option<Instant>,
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
            self.begin_writes();
            self.inbox.waits.store(self.session.waits(), Ordering::Relaxed);
            let due =
                [Some(beat), Some(heard + SILENCE), self.session.due(), self.write_due(), self.drained_by];
            let due = due.into_iter().flatten().min().unwrap_or(beat);
            tokio::select! {
                frame = socket.next() => {
                    heard = clock::now();
                    if let Some(message) = decode::<wire::ToHub>(frame?)?.message {
                        let outputs = self.receive(message);
                        self.follow(outputs, socket).await?;
                    }
                }
                () = self.inbox.wake.notified() => {
                    let outputs = self.touched()?;
                    self.follow(outputs, socket).await?;
                    if let Some(refused) = self.refusal() {
                        send(socket, refused).await?;
                        return Err(Ended::Said("the EdgeNode does not admit it any more"));
                    }
                }
                Some(written) = self.writes.join_next(), if !self.writes.is_empty() => {
                    self.written(written, socket).await?;
                }
                () = door.drain.cancelled(), if self.drained_by.is_none() => {
                    self.drained_by = Some(clock::now() + DRAIN);
                    let outputs = self.session.drain();
                    self.follow(outputs, socket).await?;
                }
                () = sleep_until(due.into()) => {}
            }
            let now = clock::now();
            if now >= heard + SILENCE {
                return Err(Ended::Silent);
            }
            if now >= beat {
                beat = now + HEARTBEAT;
                send(socket, ToAgent::Heartbeat(wire::Heartbeat { unix_ms: clock::unix_ms() })).await?;
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
        let hub = self.hub.clone();
        let index = hub.index();
        self.session.proceed(view(&index, &hub))
    }

    fn receive(&mut self, message: ToHub) -> Vec<Output> {
        let hub = self.hub.clone();
        let ack = match &message {
            ToHub::Ack(ack) => {
                hub.metrics.acks.inc();
                Some(ack.refused.clone())
            }
            _ => None,
        };
        let now = clock::now();
        let outputs = {
            let index = hub.index();
            self.session.receive(message, view(&index, &hub))
        };
        if let Some(refused) = ack {
            let keys = refused.into_iter().filter_map(|refusal| EntryKey::try_from(refusal.key?).ok());
            for key in keys.filter(|key| key.kind == EntryKind::Device) {
                self.book.device_news(&crate::index::ObjectKey::new(&key.namespace, &key.name), now);
            }
            self.count_held();
            self.book.news(now, true);
        }
        outputs
    }

    fn touched(&mut self) -> Result<Vec<Output>, Ended> {
        let pending = self.inbox.take();
        if pending.superseded {
            return Ok(vec![Output::Send(ToAgent::Refused(wire::Refused {
                code: Code::Superseded.into(),
                message: "a newer session of this node lives".into(),
                newest: self.hub.sessions.newest(self.session.uid()).map(Into::into),
                retry_after_ms: 0,
            }))]);
        }
        let hub = self.hub.clone();
        let now = clock::now();
        for part in &pending.parts {
            if let Part::Device(key) = part {
                self.book.device_news(key, now);
            }
        }
        if !pending.parts.is_empty() {
            self.book.news(now, true);
        }
        let index = hub.index();
        Ok(self.session.touch(pending.parts, pending.raises, view(&index, &hub)))
    }

    /// Whether the session must end because of its EdgeNode.
    fn refusal(&self) -> Option<ToAgent> {
        let (uid, now) = (self.session.uid(), clock::now());
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
            Some(node) if node.uid != *uid => {
                refuse(Code::TryLater, "the EdgeNode was created anew: join again")
            }
            Some(node) if node.denied => refuse(Code::Denied, "the EdgeNode has spec.denied"),
            Some(_) if self.hub.sessions.is_denied(uid) => refuse(Code::Denied, "the EdgeNode is shut out"),
            Some(_) => None,
            None if !index.is_synced() => None,
            // A deleted CRD is no farewell.
            None if self.hub.removals.farewell(uid, now) == Removal::Allowed => {
                Some(ToAgent::Farewell(wire::Farewell { reason: "the EdgeNode was deleted".into() }))
            }
            None => {
                self.inbox.waits.store(true, Ordering::Relaxed);
                None
            }
        }
    }

    async fn follow(&mut self, outputs: Vec<Output>, socket: &mut Socket) -> Result<(), Ended> {
        let now = clock::now();
        for output in outputs {
            match output {
                Output::Send(message) => {
                    if matches!(message, ToAgent::Delta(_)) {
                        self.hub.metrics.deltas.inc();
                    }
                    if matches!(message, ToAgent::InSync(_)) {
                        self.count_held();
                        self.book.news(now, false);
                    }
                    let end = matches!(message, ToAgent::Refused(_));
                    send(socket, message).await?;
                    if end {
                        return Err(Ended::Said("superseded"));
                    }
                }
                Output::Report(report) => self.book.report(report, now),
                Output::Poke(resources) => self.hub.pokes.poke(&resources),
                Output::Resynced => self.hub.metrics.resyncs.inc(),
                Output::Close(closed) => return Err(self.close(closed, socket).await),
            }
        }
        Ok(())
    }

    async fn close(&mut self, closed: Closed, socket: &mut Socket) -> Ended {
        let goodbye = |reason: &str, behind| wire::Goodbye {
            reason: reason.to_owned(),
            retry_after_ms: rand::rng().random_range(SPREAD_MS),
            behind,
        };
        let (message, why) = match closed {
            Closed::NoAnswer => (None, "a question was not answered in time"),
            Closed::BadFrame => (None, "the agent sent what the protocol does not know"),
            Closed::Redirected => (
                Some(goodbye("this replica is behind what the node has seen", true)),
                "sent to another replica",
            ),
            Closed::NotReady => {
                (Some(goodbye("this replica has not read the cluster yet", false)), "not ready")
            }
            Closed::Drained => (Some(goodbye("this replica ends", false)), "drained"),
        };
        match message.map(ToAgent::Goodbye) {
            Some(message) => match send(socket, message).await {
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

    fn write_due(&self) -> Option<Instant> {
        // With all hands full, the end of a write is what wakes.
        self.book.due().filter(|_| self.writes.len() < WRITES && self.hub.client.is_some())
    }

    fn begin_writes(&mut self) {
        let Some(client) = self.hub.client.clone() else { return };
        let now = clock::now();
        if self.book.due().is_none_or(|due| due > now) {
            return;
        }
        let free = WRITES.saturating_sub(self.writes.len());
        for job in self.book.jobs(now, free) {
            let (hub, client) = (self.hub.clone(), client.clone());
            match self.work(job) {
                Ok(work) => {
                    self.writes.spawn(async move {
                        let written = status::write(&hub, &client, &work).await;
                        (work.target, written)
                    });
                }
                Err(target) => {
                    // The object left the set between report and write.
                    let written = Written { code: wire::verdict::Code::Gone, reason: "", known: None };
                    self.writes.spawn(std::future::ready((target, written)));
                }
            }
        }
        let coalesced = std::mem::take(&mut self.book.coalesced);
        self.hub.metrics.status_coalesced.inc_by(coalesced);
    }

    /// What a job writes, of what is known now.
    fn work(&mut self, job: Job) -> Result<Work, Target> {
        let hub = self.hub.clone();
        let index = hub.index();
        let (uid, compose): (String, status::Compose) = match &job.target {
            Target::Node(_) => {
                let standing = self.session.standing(view(&index, &hub));
                self.book.retain(|key| standing.entries.contains_key(key));
                let devices = standing.entries.iter().filter(|(key, _)| key.kind == EntryKind::Device);
                let devices = devices
                    .map(|(key, entry)| {
                        let stands =
                            self.book.device(key, entry.desired).or_else(|| index.device_stands(key));
                        (key.clone(), stands.unwrap_or_default())
                    })
                    .collect();
                let facts = status::node::Facts {
                    standing,
                    machine: self.book.machine.clone(),
                    workloads: self.book.workloads.clone(),
                    devices,
                };
                let compose = move |current: &Value| {
                    status::node::compose(&facts, current, selvedge_operator::clock::now())
                };
                (self.session.uid().to_string(), Box::new(compose))
            }
            Target::Device(key) => {
                let entry_key = crate::index::device_entry(key);
                let entry = self.session.entry(&entry_key, view(&index, &hub));
                let (Some(entry), Some((uid, generation, body))) = (entry, index.device_source(key)) else {
                    return Err(job.target);
                };
                let facts = status::device::Facts {
                    entry,
                    body,
                    generation,
                    reported: self.book.devices.get(&entry_key).cloned(),
                };
                let compose = move |current: &Value| {
                    status::device::compose(&facts, current, selvedge_operator::clock::now())
                };
                (uid.to_string(), Box::new(compose))
            }
        };
        Ok(Work {
            target: job.target,
            uid,
            session: self.session.id(),
            seq: job.seq,
            known: job.known,
            compose,
        })
    }

    async fn written(
        &mut self,
        written: Result<(Target, Written), tokio::task::JoinError>,
        socket: &mut Socket,
    ) -> Result<(), Ended> {
        let (target, written) = written.map_err(|_| Ended::Said("a status write panicked"))?;
        let verdicts = self.book.written(&target, written);
        if verdicts.is_empty() {
            return Ok(());
        }
        send(socket, ToAgent::Verdicts(wire::Verdicts { verdicts })).await
    }
}

fn view<'a>(index: &'a Index, hub: &'a Hub) -> View<'a> {
    View { index, gate: &hub.removals, now: clock::now() }
}

async fn send(socket: &mut Socket, message: ToAgent) -> Result<(), Ended> {
    Ok(socket.send(encode(&wire::ToAgent { message: Some(message) })).await?)
}

/// For logs and metrics.
const fn reason(code: Code) -> &'static str {
    match code {
        Code::Unspecified => "unspecified",
        Code::Stale => "stale",
        Code::TryLater => "try_later",
        Code::Denied => "denied",
        Code::OtherCluster => "other_cluster",
        Code::Protocol => "protocol",
        Code::Superseded => "superseded",
    }
}
