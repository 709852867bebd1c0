//! What happens in a history. Times are milliseconds since the rig began; keys are texts as
//! [`selvedge_model::EntryKey`] displays them, such as `Device/shop/boiler`.

use std::fmt;
use std::sync::Arc;

use selvedge_model::{ContentHash, SessionId};

/// A name, key or uid.
pub type Name = Arc<str>;

/// One machine that runs an agent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Agent {
    /// The EdgeNode that its certificate names.
    pub node: Name,
    /// 0, or the number of a machine that runs from a copy of this node's disk.
    pub copy: u32,
}

impl Agent {
    /// The one agent of a node.
    #[must_use]
    pub fn of(node: &str) -> Self {
        Self { node: node.into(), copy: 0 }
    }
}

impl fmt::Display for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.copy {
            0 => f.write_str(&self.node),
            copy => write!(f, "{}, copy {copy}", self.node),
        }
    }
}

/// One entry as an agent has answered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its key.
    pub key: Name,
    /// Uid of its source object.
    pub uid: Name,
    /// Its content.
    pub hash: ContentHash,
}

/// One version that is in force at an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// Uid of its source object.
    pub uid: Name,
    /// resourceVersion of its source object; 0: not known in this epoch.
    pub source: u64,
    /// Workload: its ControllerRevision; else empty.
    pub revision: Name,
    /// Its content.
    pub hash: ContentHash,
}

/// What a node should have under a key when everything is at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// One of these, as uid and content. More than one: a late node may be on any of them.
    OneOf(Vec<(Name, ContentHash)>),
    /// It exists but cannot be resolved: whatever is there stays.
    Held,
}

/// How a report ended (sync rule 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stands in the API.
    Written,
    /// A newer session has written.
    Superseded,
    /// The key is not in the node's set.
    Gone,
    /// The API server refused it.
    Refused,
}

/// See the crate for when each is to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// From now on this content may be at a node. Caches of different kinds lag differently: record every
    /// content that can be resolved from versions of its sources that ever were.
    Desired {
        /// Which node; none: every node.
        node: Option<Name>,
        /// Under which key.
        key: Name,
        /// Uid of its source object. Uids of one key follow each other in the order of their first
        /// `Desired`.
        uid: Name,
        /// The content.
        hash: ContentHash,
    },
    /// From now on an entry of this uid may be taken away from a node.
    Withdrawn {
        /// Which node; none: every node.
        node: Option<Name>,
        /// Under which key.
        key: Name,
        /// Uid of its source object.
        uid: Name,
    },
    /// The source of entries under this key is gone, and that takes nothing from any node: its CRD was deleted. What
    /// was said of it is about nothing.
    Vanished {
        /// Under which key.
        key: Name,
    },
    /// From now on the revision of this workload changes only on nodes where it was [`Event::Passed`].
    Paced {
        /// Which workload.
        key: Name,
    },
    /// A node may go to this revision: it was live when its position was passed, or it is admitted.
    Passed {
        /// Which node.
        node: Name,
        /// Which workload.
        key: Name,
        /// Its ControllerRevision.
        revision: Name,
    },
    /// An agent starts under another version: what it had refused it forgets.
    Upgraded {
        /// Which agent.
        agent: Agent,
    },
    /// All is at rest, and nothing that is desired changes from now on: whatever starts anew, in whatever version.
    Settled {
        /// Node and key of what may change all the same.
        but: Vec<(Name, Name)>,
    },
    /// An agent opened its ledger.
    Booted {
        /// Which agent.
        agent: Agent,
        /// The ledger is new, lost or a copy: nothing is expected of it.
        fresh: bool,
        /// Everything that it has answered.
        rows: Vec<Row>,
    },
    /// An agent's epoch rose: revisions and uids count from a new beginning there.
    Epoch {
        /// Which agent.
        agent: Agent,
        /// The epoch.
        epoch: u64,
    },
    /// A session was admitted.
    Began {
        /// Which agent.
        agent: Agent,
        /// Its session.
        session: SessionId,
    },
    /// A session ended, as one side sees it.
    Ended {
        /// Which agent.
        agent: Agent,
        /// Its session.
        session: SessionId,
        /// Why.
        why: Name,
    },
    /// A delta left the hub: for the record.
    Sent {
        /// To which node.
        node: Name,
        /// In which session.
        session: SessionId,
        /// Its number.
        nonce: u64,
    },
    /// A session came to keep more of something than before.
    Kept {
        /// Of which node.
        node: Name,
        /// Which session.
        session: SessionId,
        /// Of what.
        what: Name,
        /// How much.
        count: usize,
        /// No more than the node's set and what its agent has account for.
        most: usize,
    },
    /// A delta was acknowledged.
    Answered {
        /// By which agent.
        agent: Agent,
        /// In which session.
        session: SessionId,
        /// Number of the delta.
        nonce: u64,
        /// What it brought, accepted or refused.
        rows: Vec<Row>,
        /// What it took away: key and uid.
        removed: Vec<(Name, Name)>,
    },
    /// A version came into force.
    InForce {
        /// At which agent.
        agent: Agent,
        /// Under which key.
        key: Name,
        /// Which version.
        version: InForce,
    },
    /// Nothing is in force under a key any more.
    OutOfForce {
        /// At which agent.
        agent: Agent,
        /// Under which key.
        key: Name,
    },
    /// Runtime or driver really did it.
    Applied {
        /// At which node.
        node: Name,
        /// Under which key.
        key: Name,
        /// Which content.
        hash: ContentHash,
    },
    /// A report left an agent.
    Reported {
        /// In which session.
        session: SessionId,
        /// On which key.
        key: Name,
        /// Number of the report.
        seq: u64,
        /// What it says, as a number that rises with each state of the key over all machines of the node,
        /// and that can be found again in the status.
        says: u64,
    },
    /// A report was answered.
    Verdict {
        /// Which node.
        node: Name,
        /// In which session.
        session: SessionId,
        /// On which key.
        key: Name,
        /// Number of the report.
        seq: u64,
        /// How it ended.
        verdict: Verdict,
    },
    /// A status was written. A write that says something about several keys is one event each.
    Status {
        /// Of which node.
        node: Name,
        /// What it speaks of.
        key: Name,
        /// Uid of the object that bears the status.
        object: Name,
        /// The session whose reports it tells.
        session: SessionId,
        /// [`Event::Reported::says`] of the state that stands there now; 0: none.
        says: u64,
        /// The status says that one of these contents is in force; empty: it says nothing of the kind.
        claims: Vec<ContentHash>,
    },
    /// All is quiet, and time enough has passed.
    Rest {
        /// At which agent.
        agent: Agent,
        /// Its session; none: it found no hub.
        session: Option<SessionId>,
        /// What its node should have.
        wanted: Vec<(Name, Wanted)>,
        /// What it has answered.
        rows: Vec<Row>,
        /// What it said last of each key that it has, as [`Event::Reported::says`].
        said: Vec<(Name, u64)>,
    },
    /// All is quiet, and a status still tells that something is on its way.
    Lingers {
        /// Of which node.
        node: Name,
        /// The condition's reason and message.
        what: String,
    },
    /// The API server's objects are what they were some time ago: who wrote them last counts anew.
    Restored,
    /// A process or machine died: for the record.
    Crashed {
        /// Which.
        who: Name,
    },
    /// Anything else that explains a history: for the record.
    Noted {
        /// What.
        what: String,
    },
}
