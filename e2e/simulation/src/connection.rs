//! Connections between agents and hubs: messages in order and late, cuts that each side learns of in its own
//! time, and the shipped greeting at the hub's door.

use std::collections::BTreeMap;
use std::sync::Arc;

use selvedge_history::{Event, Verdict};
use selvedge_hub::session::Session;
use selvedge_hub::session::greeting::{Admission, greet};
use selvedge_hub::sessions::Seen;
use selvedge_model::{HISTORY, SessionId};
use selvedge_protocol::agent::{
    Hello, Verdicts, to_agent::Message as ToAgent, to_hub::Message as ToHub, verdict::Code,
};

use crate::agent::CLUSTER;
use crate::seat::{Follows, Seat};
use crate::world::{Do, World};

/// A side that hears nothing learns in this time that the other is gone: two heartbeats, and a little.
const SILENCE: (u64, u64) = (15_000, 32_000);

/// Messages beside deltas and verdicts that may be on their way to a slow agent: each follows an answer of it, or ends
/// the session.
const MESSAGES: usize = 4;

/// One connection.
pub struct Connection {
    /// Place of its agent, and that one's life.
    pub agent: usize,
    /// See `agent`.
    pub life: u32,
    /// Its replica, and that one's life.
    pub replica: usize,
    /// See `replica`.
    pub replica_life: u32,
    /// The session that the agent speaks in.
    pub id: SessionId,
    /// The hub's side of the session.
    pub seat: Option<Seat>,
    /// Whether each side believes in it.
    pub hub_open: bool,
    /// See `hub_open`.
    pub agent_open: bool,
    /// When the last message of each direction arrives: they stay in order.
    down_at: u64,
    up_at: u64,
    /// What would arrive later is lost.
    down_until: u64,
    up_until: u64,
    /// When the session is asked next.
    timer: u64,
    /// Deltas and other messages on their way to the agent; verdicts are not counted, of which each answers a report.
    on_way: (usize, usize),
    /// The most that was kept for the session so far, by what.
    kept: BTreeMap<&'static str, usize>,
}

impl World {
    /// An agent dials some replica.
    pub fn dial(&mut self, agent: usize, life: u32) {
        let caller = &self.agents[agent];
        if caller.life != life || caller.connection.is_some() || self.parked.contains_key(&agent) {
            return;
        }
        let replica = self.rng.index(self.replicas.len());
        let place = &self.replicas[replica];
        if place.hub.is_none() {
            let wait = self.rng.range(200, 3_000);
            return self.after(wait, Do::Dial(agent, life));
        }
        let replica_life = place.life;
        let nonce = self.rng.next();
        let (id, hello) = self.agents[agent].hello(nonce);
        let number = self.number();
        let (forever, never) = (u64::MAX, 0);
        self.connections.insert(
            number,
            Connection {
                agent,
                life,
                replica,
                replica_life,
                id,
                seat: None,
                hub_open: true,
                agent_open: true,
                down_at: self.now,
                up_at: self.now,
                down_until: forever,
                up_until: forever,
                timer: never,
                on_way: (0, 0),
                kept: BTreeMap::new(),
            },
        );
        self.agents[agent].connection = Some(number);
        let latency = self.latency();
        self.after(latency, Do::Hello(number, Box::new(hello)));
    }

    fn latency(&mut self) -> u64 {
        self.rng.range(1, self.plan.latency)
    }

    /// A Hello arrives at the hub's door: one of the version before knows neither encodings nor marks.
    pub fn hello(&mut self, number: u64, hello: ToHub) {
        let (now, instant) = (self.now, self.instant());
        let Some(connection) = self.connections.get(&number) else { return };
        let place = &self.replicas[connection.replica];
        let there = place.life == connection.replica_life && now <= connection.up_until;
        let (Some(hub), ToHub::Hello(hello)) = (place.hub.clone().filter(|_| there), hello) else {
            return self.hub_closes(number);
        };
        let (id, replica, older) = (connection.id, connection.replica, place.older);
        let hello = if older { as_before(hello) } else { hello };
        let agent = self.agents[connection.agent].id.clone();
        let uid: Arc<str> = format!("{}-uid", agent.node).into();
        let greeted = {
            let index = hub.index();
            greet(
                hello,
                &Admission {
                    node: index.node(&agent.node),
                    uid: &uid,
                    newest: hub.sessions.newest(&uid),
                    synced: index.is_synced(),
                    denied: hub.sessions.denied_at(&uid).is_some(),
                    outdated: false,
                    deaf: hub.hearing.is_deaf(self.instant()),
                    cluster_id: CLUSTER,
                    epoch: hub.index().reached().epoch,
                    unix_ms: 0,
                },
            )
        };
        let (greeted, welcome) = match greeted {
            Ok(greeted) => greeted,
            Err(refused) => {
                self.send_down(number, ToAgent::Refused(refused));
                return self.hub_closes(number);
            }
        };
        let node = agent.node.clone();
        let seen = Seen { node: node.clone(), uid: uid.clone(), id, serial: "".into(), closed: false };
        let Some(inbox) = hub.sessions.open(seen) else { return self.hub_closes(number) };
        let mut session = Session::new(node.clone(), uid.clone(), greeted, instant);
        if hub.sessions.is_paused(&uid, session.epoch()) {
            session = session.paused_before();
        }
        let seat = Seat::new(hub, older, session, inbox);
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.seat = Some(seat);
        }
        self.record(Event::Began { agent, session: id });
        self.send_down(number, ToAgent::Welcome(welcome));
        if !self.plan.no_controller {
            for other in (0..self.replicas.len()).filter(|other| *other != replica) {
                let after = self.rng.range(10, 3_000);
                self.after(after, Do::Supersede(other, uid.to_string(), id));
            }
        }
        let after = self.rng.range(100, 2_000);
        self.after(after, Do::Connected(node.to_string()));
        self.with_seat(number, Seat::proceed);
        // An older session of this node may have been superseded here.
        self.looked_at(replica);
    }

    /// The controller tells a replica of a newer session elsewhere.
    pub fn supersede(&mut self, replica: usize, uid: &str, session: SessionId) {
        if let Some(hub) = &self.replicas[replica].hub {
            hub.sessions.supersede(uid, session);
        }
        self.looked_at(replica);
    }

    /// A message of the agent arrives at the hub.
    pub fn up(&mut self, number: u64, message: ToHub) {
        let now = self.now;
        let Some(connection) = self.connections.get(&number) else { return };
        if connection.hub_open && now <= connection.up_until {
            self.with_seat(number, |seat, instant| seat.receive(message, instant));
        }
    }

    /// A session has something to do.
    pub fn timer(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.timer = 0;
        self.with_seat(number, Seat::proceed);
    }

    fn with_seat(&mut self, number: u64, act: impl FnOnce(&mut Seat, std::time::Instant) -> Follows) {
        let instant = self.instant();
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let Some(seat) = connection.seat.as_mut().filter(|_| connection.hub_open) else { return };
        let follows = act(seat, instant);
        self.follow(number, follows);
    }

    /// Does what a step of a session led to.
    pub fn follow(&mut self, number: u64, follows: Follows) {
        let Some(connection) = self.connections.get(&number) else { return };
        let replica = connection.replica;
        for message in follows.down {
            self.send_down(number, message);
        }
        for resource in follows.pokes {
            self.poke(replica, &resource);
        }
        if follows.closed {
            self.hub_closes(number);
        } else {
            self.begin_writes(number);
            self.set_timer(number);
        }
        self.ask_crds(replica);
        self.ask_cluster(replica);
        self.ask_references(replica);
        self.weigh(number);
    }

    /// Looks what is kept for a session, and tells what is more than before (I7).
    fn weigh(&mut self, number: u64) {
        let now = self.instant();
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let Some(seat) = &connection.seat else { return };
        let at_agent = self.agents[connection.agent].rows().len();
        let (deltas, others) = connection.on_way;
        let mut kept = seat.keeps(now);
        kept.extend([("deltas on their way", deltas, 1), ("other messages on their way", others, MESSAGES)]);
        let (node, session) = (seat.session().node().clone(), connection.id);
        let mut more = Vec::new();
        for (what, count, most) in kept {
            // What an agent has and the caches do not know is not known of a session before the sets are compared.
            let most = if what == "reports that wait" { most + at_agent } else { most };
            let known = connection.kept.entry(what).or_default();
            if count > *known {
                *known = count;
                let (node, what) = (node.clone(), what.into());
                more.push(Event::Kept { node, session, what, count, most });
            }
        }
        self.record_all(more);
    }

    /// A message has arrived at the agent, or was lost.
    pub fn arrived(&mut self, number: u64, message: &ToAgent) {
        let connection = self.connections.get_mut(&number);
        if let Some(count) = connection.and_then(|connection| counted(&mut connection.on_way, message)) {
            *count = count.saturating_sub(1);
        }
    }

    /// Asks for a timer when the session wants one.
    pub fn set_timer(&mut self, number: u64) {
        let Some(due) = self.connections.get(&number).and_then(|c| c.seat.as_ref()?.due()) else { return };
        let due = self.millis(due).max(self.now + 1);
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if connection.timer == 0 || due < connection.timer {
            connection.timer = due;
            self.at(due, Do::Timer(number));
        }
    }

    /// A message to the agent leaves the hub.
    pub fn send_down(&mut self, number: u64, message: ToAgent) {
        let latency = self.latency();
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.down_at = connection.down_at.max(self.now + latency);
        let (at, session, agent) = (connection.down_at, connection.id, connection.agent);
        let node = self.agents[agent].id.node.clone();
        match &message {
            ToAgent::Delta(delta) => self.record(Event::Sent { node, session, nonce: delta.nonce }),
            ToAgent::Verdicts(verdicts) => self.tell(&node, session, verdicts),
            _ => {}
        }
        if let Some(connection) = self.connections.get_mut(&number)
            && let Some(count) = counted(&mut connection.on_way, &message)
        {
            *count += 1;
        }
        self.at(at, Do::Down(number, Box::new(message)));
    }

    fn tell(&mut self, node: &selvedge_history::Name, session: SessionId, verdicts: &Verdicts) {
        for verdict in &verdicts.verdicts {
            let key = verdict.key.clone().and_then(|key| selvedge_agent::ledger::RowKey::try_from(key).ok());
            let Some(key) = key else { continue };
            let said = match verdict.code() {
                Code::Written => Verdict::Written,
                Code::Superseded => Verdict::Superseded,
                Code::Gone => Verdict::Gone,
                Code::Refused | Code::Unspecified => Verdict::Refused,
            };
            let (node, key, seq) = (node.clone(), key.to_string().into(), verdict.seq);
            self.record(Event::Verdict { node, session, key, seq, verdict: said });
        }
    }

    /// A message to the hub leaves the agent.
    pub fn send_up(&mut self, number: u64, message: ToHub) {
        let latency = self.latency();
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.up_at = connection.up_at.max(self.now + latency);
        let at = connection.up_at;
        self.at(at, Do::Up(number, Box::new(message)));
    }

    /// Whether a message that is due now still reaches the agent.
    pub fn reaches_agent(&self, number: u64) -> bool {
        self.connections.get(&number).is_some_and(|connection| {
            connection.agent_open
                && self.now <= connection.down_until
                && self.agents[connection.agent].life == connection.life
        })
    }

    /// The hub ends a connection in order: what it said before still arrives.
    pub fn hub_closes(&mut self, number: u64) {
        self.hub_leaves(number, "closed by the hub");
        if let Some(connection) = self.connections.get(&number) {
            let at = connection.down_at + 1;
            self.at(at, Do::AgentLearns(number));
        }
    }

    /// The agent ends a connection in order.
    pub fn agent_closes(&mut self, number: u64) {
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.agent_open = false;
            let at = connection.up_at + 1;
            self.at(at, Do::HubLearns(number));
        }
    }

    /// The hub's side finds that the connection is gone.
    pub fn hub_learns(&mut self, number: u64) {
        self.hub_leaves(number, "lost");
        self.forget(number);
    }

    /// The agent's side finds that the connection is gone.
    pub fn agent_learns(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if std::mem::replace(&mut connection.agent_open, false) {
            let (agent, life) = (connection.agent, connection.life);
            if self.agents[agent].life == life {
                self.agents[agent].redirects = 0;
                self.redial(agent, None);
            }
        }
        self.forget(number);
    }

    fn hub_leaves(&mut self, number: u64, why: &str) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.hub_open = false;
        let (agent, session) = (connection.agent, connection.id);
        if let Some(mut seat) = connection.seat.take() {
            seat.close();
            let agent = self.agents[agent].id.clone();
            let node = agent.node.to_string();
            self.record(Event::Ended { agent, session, why: why.into() });
            self.after(30_000, Do::Connected(node));
        }
    }

    fn forget(&mut self, number: u64) {
        if self.connections.get(&number).is_some_and(|one| !one.hub_open && !one.agent_open) {
            self.connections.remove(&number);
        }
    }

    /// A connection breaks: in each direction what is on its way is lost from some point on, and each side
    /// learns of it at once, or by silence.
    pub fn cut(&mut self, number: u64) {
        let most = self.plan.latency * 2;
        let (down, up) = (self.rng.below(most), self.rng.below(most));
        let learns = |world: &mut Self, at: u64| match world.rng.chance(50) {
            true => at + 1,
            false => world.rng.range(SILENCE.0, SILENCE.1),
        };
        let (agent, hub) = (learns(self, down), learns(self, up));
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.down_until = now + down;
        connection.up_until = now + up;
        self.after(agent, Do::AgentLearns(number));
        self.after(hub, Do::HubLearns(number));
    }
}

/// What a hub of the version before reads of a Hello.
fn as_before(mut hello: Hello) -> Hello {
    hello.encodings.clear();
    if let Some(watermark) = &mut hello.watermark {
        watermark.revisions.remove(HISTORY);
    }
    hello
}

/// The count that a message belongs to.
fn counted<'a>(on_way: &'a mut (usize, usize), message: &ToAgent) -> Option<&'a mut usize> {
    match message {
        ToAgent::Delta(_) => Some(&mut on_way.0),
        ToAgent::Verdicts(_) => None,
        _ => Some(&mut on_way.1),
    }
}
