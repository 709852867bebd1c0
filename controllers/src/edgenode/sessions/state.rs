//! All sessions as a plain value: reports in, orders and touched nodes out. Time comes in as an argument.

use std::collections::{BTreeMap, HashMap, VecDeque};

use jiff::{SignedDuration, Timestamp};
use selvedge_model::SessionId;
use selvedge_protocol::controller::{self as wire, ToReplica, to_replica::Message};

/// A node whose sessions are superseded while they live more often than this in [`A_WHILE`] is borne by two
/// machines: one alone ends its session before it begins another, or loses it once in a while (sync rule 9).
const TOO_OFTEN: usize = 3;
/// See [`TOO_OFTEN`].
const A_WHILE: SignedDuration = SignedDuration::from_secs(60);
/// So long two machines count as such after the last of it. Hubs slow them to a turn a minute, so that this
/// never ends before the next one.
const DUPLICATE: SignedDuration = SignedDuration::from_secs(300);

/// A machine that asked to come in asks again within a minute: after this it has gone.
const WAITS: SignedDuration = SignedDuration::from_secs(300);

/// What a change asks for.
#[derive(Debug, Default, PartialEq)]
pub struct Effects {
    /// Messages to replicas, by pod name.
    pub orders: Vec<(String, ToReplica)>,
    /// Names of nodes whose presence may have changed.
    pub touched: Vec<String>,
}

/// Whether a node has a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// A replica holds one.
    Connected {
        /// Pod name of the replica.
        replica: String,
        /// Serial number of the certificate, lower-case hex.
        serial: String,
    },
    /// No replica that we hear holds one.
    Absent {
        /// Since when; at most since this state was made.
        since: Timestamp,
    },
}

/// The sessions of all replicas.
#[derive(Debug)]
pub struct Sessions {
    started: Timestamp,
    replicas: BTreeMap<String, Replica>,
    nodes: HashMap<String, Node>,
    /// Name to (uid, has joined) of every EdgeNode.
    known: HashMap<String, (String, bool)>,
    /// By name of a known EdgeNode: a machine of one before it that asks to come in, and when it did last.
    waiting: HashMap<String, (String, Timestamp)>,
    last_order: u64,
}

#[derive(Debug)]
struct Replica {
    /// Number of its newest stream: what comes by an older one is dropped.
    stream: u64,
    /// None while the stream is up; else since when nothing says that the replica lives.
    doubted: Option<Timestamp>,
    /// Orders that it has not answered: number to uid.
    unanswered: BTreeMap<u64, (String, Timestamp)>,
}

/// Sessions of one uid.
#[derive(Debug)]
struct Node {
    name: String,
    /// The newest session ever seen: older ones are superseded, also after it has ended.
    newest: SessionId,
    /// By replica.
    held: BTreeMap<String, Held>,
    absent_since: Timestamp,
    /// Why no session is admitted.
    shut: Option<String>,
    /// When live sessions were superseded, the last few.
    superseded: VecDeque<Timestamp>,
    /// Two machines bear it: until when that counts.
    duplicate: Option<Timestamp>,
}

#[derive(Debug)]
struct Held {
    session: SessionId,
    serial: String,
}

impl Sessions {
    /// No sessions; nobody is missed before `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self {
            started: now,
            replicas: BTreeMap::new(),
            nodes: HashMap::new(),
            known: HashMap::new(),
            waiting: HashMap::new(),
            last_order: 0,
        }
    }

    /// A replica opened a stream. What it held before stays until its snapshot says otherwise.
    pub fn connect(&mut self, replica: &str, stream: u64) {
        let unanswered = BTreeMap::new();
        self.replicas.insert(replica.to_owned(), Replica { stream, doubted: None, unanswered });
    }

    /// Sessions that a replica reports: all that it has (`snapshot`), or what changed.
    pub fn report(&mut self, replica: &str, stream: u64, report: &wire::Sessions, now: Timestamp) -> Effects {
        let mut effects = Effects::default();
        if self.replicas.get(replica).is_none_or(|known| known.stream != stream) {
            return effects;
        }
        if report.snapshot {
            let reported = |uid: &str, held: &Held| {
                report.sessions.iter().any(|s| s.uid == uid && !s.closed && id(s) == held.session)
            };
            for (uid, node) in &mut self.nodes {
                if node.held.get(replica).is_some_and(|held| !reported(uid, held)) {
                    node.drop_held(replica, now, &mut effects);
                }
            }
        }
        for session in &report.sessions {
            if session.closed {
                self.close(replica, session, now, &mut effects);
            } else {
                self.open(replica, session, now, &mut effects);
            }
        }
        effects
    }

    /// The stream of a replica is lost. Its sessions count until somebody says that the replica is gone.
    pub fn lose(&mut self, replica: &str, stream: u64, now: Timestamp) -> Effects {
        let Some(known) = self.replicas.get_mut(replica).filter(|known| known.stream == stream) else {
            return Effects::default();
        };
        known.doubted = Some(now);
        known.unanswered.clear();
        let held = self.nodes.values().filter(|node| node.held.contains_key(replica));
        Effects { orders: Vec::new(), touched: held.map(|node| node.name.clone()).collect() }
    }

    /// Replicas without a stream.
    #[must_use]
    pub fn doubted(&self) -> Vec<String> {
        let doubted = self.replicas.iter().filter(|(_, replica)| replica.doubted.is_some());
        doubted.map(|(name, _)| name.clone()).collect()
    }

    /// A replica without a stream lives: its agents are not offline for that.
    pub fn confirm(&mut self, replica: &str, now: Timestamp) {
        if let Some(since) = self.replicas.get_mut(replica).and_then(|replica| replica.doubted.as_mut()) {
            *since = now;
        }
    }

    /// A replica without a stream is gone, and its sessions with it since it was last known to live.
    pub fn bury(&mut self, replica: &str) -> Effects {
        let mut effects = Effects::default();
        let Some(since) = self.replicas.get(replica).and_then(|replica| replica.doubted) else {
            return effects;
        };
        self.replicas.remove(replica);
        for node in self.nodes.values_mut() {
            node.drop_held(replica, since, &mut effects);
        }
        effects
    }

    /// A replica has carried out an order.
    pub fn done(&mut self, replica: &str, order: u64) {
        if let Some(replica) = self.replicas.get_mut(replica) {
            replica.unanswered.remove(&order);
        }
    }

    /// Orders given before `before` that are not carried out.
    #[must_use]
    pub fn overdue(&self, before: Timestamp) -> usize {
        let all = self.replicas.values().flat_map(|replica| replica.unanswered.values());
        all.filter(|(_, given)| *given < before).count()
    }

    /// An EdgeNode exists under this name. If another uid did before, that one is gone.
    pub fn know(&mut self, name: &str, uid: &str, joined: bool, now: Timestamp) -> Effects {
        let before = self.known.insert(name.to_owned(), (uid.to_owned(), joined));
        match before {
            Some((old, _)) if old != uid => {
                self.waiting.remove(name);
                self.shut(&old, "the EdgeNode was created again", now)
            }
            _ => Effects::default(),
        }
    }

    /// The EdgeNode of this name is gone.
    pub fn forget(&mut self, name: &str, now: Timestamp) -> Effects {
        self.waiting.remove(name);
        match self.known.remove(name) {
            Some((uid, _)) => self.shut(&uid, "the EdgeNode was deleted", now),
            None => Effects::default(),
        }
    }

    /// Ends the sessions of a uid on all replicas and lets them admit none. Saying it again is silent.
    pub fn shut(&mut self, uid: &str, reason: &str, now: Timestamp) -> Effects {
        let mut effects = Effects::default();
        let Some(node) = self.nodes.get_mut(uid) else { return effects };
        if node.shut.replace(reason.to_owned()).is_none() {
            let live = self.replicas.iter().filter(|(_, replica)| replica.doubted.is_none());
            for replica in live.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
                self.deny(&replica, uid, reason, now, &mut effects);
            }
        }
        self.drop_if_over(uid);
        effects
    }

    /// The EdgeNode of a uid is not denied (any more).
    pub fn admit(&mut self, uid: &str) {
        if let Some(node) = self.nodes.get_mut(uid) {
            node.shut = None;
        }
    }

    /// A machine that bears a known name from an EdgeNode with this uid, which is not the present one, asks to come in.
    pub fn wait(&mut self, name: &str, uid: &str, now: Timestamp) -> Effects {
        if self.known.get(name).is_none_or(|(known, _)| known == uid) {
            return Effects::default();
        }
        let before = self.waiting.insert(name.to_owned(), (uid.to_owned(), now));
        let is_news = before.is_none_or(|(before, at)| before != uid || now.duration_since(at) >= WAITS);
        Effects { orders: Vec::new(), touched: is_news.then(|| name.to_owned()).into_iter().collect() }
    }

    /// The uid in the certificate of a machine that waits outside, and how much longer it counts as waiting.
    #[must_use]
    pub fn waiting(&self, name: &str, now: Timestamp) -> Option<(&str, SignedDuration)> {
        let (uid, at) = self.waiting.get(name)?;
        let left = WAITS.checked_sub(now.duration_since(*at))?;
        left.is_positive().then_some((uid, left))
    }

    /// Whether a node has a session. For one that was never heard of: absent since the beginning.
    #[must_use]
    pub fn presence(&self, uid: &str) -> Presence {
        let Some(node) = self.nodes.get(uid) else { return Presence::Absent { since: self.started } };
        let live = |replica: &str| self.replicas.get(replica).is_some_and(|r| r.doubted.is_none());
        let newest = node.held.iter().filter(|(r, _)| live(r)).max_by_key(|(_, held)| held.session);
        if let Some((replica, held)) = newest {
            return Presence::Connected { replica: replica.clone(), serial: held.serial.clone() };
        }
        let doubted = node.held.keys().filter_map(|replica| self.replicas.get(replica)?.doubted).max();
        Presence::Absent { since: doubted.unwrap_or(node.absent_since) }
    }

    /// How many of the nodes that have joined are connected, and how many have joined.
    #[must_use]
    pub fn connected(&self) -> (usize, usize) {
        let joined = self.known.values().filter(|(_, joined)| *joined);
        let (mut here, mut all) = (0, 0);
        for (uid, _) in joined {
            all += 1;
            here += usize::from(matches!(self.presence(uid), Presence::Connected { .. }));
        }
        (here, all)
    }

    /// How many replicas have a stream.
    #[must_use]
    pub fn replicas(&self) -> usize {
        self.replicas.values().filter(|replica| replica.doubted.is_none()).count()
    }

    fn open(&mut self, replica: &str, session: &wire::Session, now: Timestamp, effects: &mut Effects) {
        let uid = session.uid.as_str();
        let node = self.nodes.entry(uid.to_owned()).or_insert_with(|| Node {
            name: session.node.clone(),
            newest: SessionId::default(),
            held: BTreeMap::new(),
            absent_since: now,
            shut: None,
            superseded: VecDeque::new(),
            duplicate: None,
        });
        effects.touched.push(node.name.clone());
        self.waiting.remove(&node.name);
        // What a replica held whose stream is lost has most likely ended with it: its agents only moved.
        let heard = |replica: &String| self.replicas.get(replica).is_some_and(|r| r.doubted.is_none());
        if id(session) > node.newest && node.held.keys().any(heard) {
            node.supersede(now);
        }
        node.newest = node.newest.max(id(session));
        let held = Held { session: id(session), serial: session.certificate_serial.clone() };
        node.held.insert(replica.to_owned(), held);
        if let Some(reason) = node.shut.clone() {
            return self.deny(replica, uid, &reason, now, effects);
        }
        let newest = node.newest;
        // Said before the order to end: who is told to end is told to stay away for a while.
        if let Some(until) = node.duplicate.filter(|until| *until > now) {
            for replica in node.held.keys().cloned().collect::<Vec<_>>() {
                self.tell_duplicate(&replica, uid, until, now, effects);
            }
        }
        let Some(node) = self.nodes.get(uid) else { return };
        let old = node.held.iter().filter(|(_, held)| held.session < newest);
        for replica in old.map(|(replica, _)| replica.clone()).collect::<Vec<_>>() {
            let supersede = |order| {
                let SessionId { counter, nonce } = newest;
                Message::Supersede(wire::Supersede { order, uid: uid.to_owned(), counter, nonce })
            };
            self.order(&replica, uid, now, supersede, effects);
        }
    }

    fn close(&mut self, replica: &str, session: &wire::Session, now: Timestamp, effects: &mut Effects) {
        if let Some(node) = self.nodes.get_mut(&session.uid) {
            // The end of a session that was replaced meanwhile says nothing.
            if node.held.get(replica).is_some_and(|held| held.session == id(session)) {
                node.drop_held(replica, now, effects);
            }
        }
        self.drop_if_over(&session.uid);
    }

    /// Nothing is remembered of a uid that is shut out and has no session: nodes come and go.
    fn drop_if_over(&mut self, uid: &str) {
        if self.nodes.get(uid).is_some_and(|node| node.shut.is_some() && node.held.is_empty()) {
            self.nodes.remove(uid);
        }
    }

    fn tell_duplicate(
        &mut self,
        replica: &str,
        uid: &str,
        until: Timestamp,
        now: Timestamp,
        effects: &mut Effects,
    ) {
        let seconds = u32::try_from(until.duration_since(now).as_secs()).unwrap_or(0);
        let uid_too = uid.to_owned();
        let duplicate = |order| Message::Duplicate(wire::Duplicate { order, uid: uid_too, seconds });
        self.order(replica, uid, now, duplicate, effects);
    }

    fn deny(&mut self, replica: &str, uid: &str, reason: &str, now: Timestamp, effects: &mut Effects) {
        let (to, why) = (uid.to_owned(), reason.to_owned());
        let deny = |order| Message::Deny(wire::Deny { order, uid: to, reason: why });
        self.order(replica, uid, now, deny, effects);
    }

    fn order(
        &mut self,
        replica: &str,
        uid: &str,
        now: Timestamp,
        message: impl FnOnce(u64) -> Message,
        effects: &mut Effects,
    ) {
        let Some(known) = self.replicas.get_mut(replica).filter(|known| known.doubted.is_none()) else {
            return;
        };
        self.last_order += 1;
        known.unanswered.insert(self.last_order, (uid.to_owned(), now));
        let message = Some(message(self.last_order));
        effects.orders.push((replica.to_owned(), ToReplica { message }));
    }
}

impl Node {
    /// A session was superseded while it lived.
    fn supersede(&mut self, now: Timestamp) {
        self.superseded.retain(|at| now.duration_since(*at) < A_WHILE);
        self.superseded.push_back(now);
        let too_often = self.superseded.len() > TOO_OFTEN;
        if too_often {
            self.superseded.pop_front();
        }
        if too_often || self.duplicate.is_some_and(|until| until > now) {
            self.duplicate = Some(now + DUPLICATE);
        }
    }

    fn drop_held(&mut self, replica: &str, now: Timestamp, effects: &mut Effects) {
        if self.held.remove(replica).is_some() {
            effects.touched.push(self.name.clone());
            if self.held.is_empty() {
                self.absent_since = now;
            }
        }
    }
}

fn id(session: &wire::Session) -> SessionId {
    SessionId { counter: session.counter, nonce: session.nonce }
}
