//! The EdgeNode controller: join keys, certificates, and who is connected.
//!
//! In: EdgeNodes, certificate requests, the streams of hub replicas. Out: join Secrets, records on
//! EdgeNodes, signed certificates, `Connected`. It alone reads the CA key; it never talks to agents.
//!
//! ```text
//!  cluster ── authority       the CA, made once
//!  crds                       under which CRDs nodes have learned what they hold
//!  observe → validate → plan → apply → status      one EdgeNode
//!  signer                     one CertificateSigningRequest
//!  sessions                   the streams of hub replicas
//! ```

mod apply;
pub mod authority;
mod cluster;
mod crds;
mod history;
pub(crate) mod metrics;
mod observe;
mod plan;
pub mod record;
mod run;
pub mod sessions;
mod signer;
mod status;
mod validate;

#[cfg(test)]
mod tests;

pub use run::{Settings, run};

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource as _};
use selvedge_crds::EdgeNode;
use selvedge_operator::controller::{Class, Classified, Next, Reconciler};
use selvedge_operator::status::StatusError;
use selvedge_operator::{clock, events::Events};

use self::apply::{StepError, Targets, carry_out};
use self::authority::Authority;
use self::observe::{Observed, Waiting, secret_mark};
use self::plan::{Plan, Shown, Step, plan};
use self::sessions::Switchboard;
use self::sessions::state::Effects;
use crate::pace::Pace;
use crate::raw::Raw;
use crate::{second, written};

/// Field manager of what this controller applies, and its name.
const MANAGER: &str = "edgenode-controller";
/// Nodes that go offline in a second; fewer when more than half of all are affected: then the fault is
/// more likely ours than theirs (sync: what touches etcd).
const OFFLINE_RATE: u32 = 100;
const OFFLINE_RATE_WIDE: u32 = 10;

/// Reconciles EdgeNodes.
pub struct EdgeNodes {
    nodes: Api<Raw<EdgeNode>>,
    secrets: Api<Secret>,
    join_namespace: String,
    events: Arc<Events>,
    authority: Arc<Authority>,
    switchboard: Arc<Switchboard>,
    /// Hub addresses, separated by spaces.
    hubs: String,
    grace: Duration,
    pace: Mutex<Pace<String>>,
}

/// A reconcile of an EdgeNode failed.
#[derive(Debug, thiserror::Error)]
pub enum EdgeNodeError {
    /// Something of it cannot be read.
    #[error("cannot read the join Secret of EdgeNode {node}")]
    Observe {
        /// Its name.
        node: String,
        /// What the API server said.
        #[source]
        source: kube::Error,
    },
    /// A step failed.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The status cannot be written.
    #[error(transparent)]
    Status(#[from] StatusError),
}

impl Classified for EdgeNodeError {
    fn class(&self) -> Class {
        Class::Transient
    }

    fn variant(&self) -> &'static str {
        match self {
            Self::Observe { .. } => "observe",
            Self::Step(StepError::Conflict { .. }) => "conflict",
            Self::Step(_) => "step",
            Self::Status(_) => "status",
        }
    }
}

impl Reconciler for EdgeNodes {
    type Object = Raw<EdgeNode>;
    type Error = EdgeNodeError;

    async fn reconcile(&self, node: &Raw<EdgeNode>) -> Result<Next, EdgeNodeError> {
        let observed = self.observe(node).await?;
        self.tell_sessions(node, &observed).await;
        let mut plan = plan(&observed, self.grace);
        if let Some(step) = &plan.step {
            let targets = Targets { nodes: &self.nodes, secrets: &self.secrets, authority: &self.authority };
            let written = carry_out(&targets, node, &observed, step, rand::random()).await?;
            self.say(node, step).await;
            if written {
                return Ok(Next::Change);
            }
        }
        self.pace(node.uid(), &mut plan);
        let status = status::status(&observed, &plan, node.metadata.generation, &self.join_namespace);
        written(selvedge_operator::status::write(&self.nodes, node, &status).await, plan.again)
            .map_err(EdgeNodeError::from)
    }

    async fn gone(&self, node: &ObjectRef<Raw<EdgeNode>>) {
        self.switchboard.change(|sessions| sessions.forget(&node.name, clock::now())).await;
    }
}

impl EdgeNodes {
    async fn observe(&self, node: &Raw<EdgeNode>) -> Result<Observed, EdgeNodeError> {
        let now = second();
        let (presence, waiting) = self.switchboard.look(|sessions| {
            let waiting = sessions
                .waiting(node.name(), now)
                .map(|(uid, left)| Waiting { uid: uid.to_owned(), look: left.unsigned_abs() });
            (sessions.presence(node.uid()), waiting)
        });
        let mut observed = Observed::new(node, None, presence, waiting, &self.hubs, now);
        if observed.records.join.is_some() {
            let mark = secret_mark(&self.secrets, node.name()).await;
            observed.secret =
                mark.map_err(|source| EdgeNodeError::Observe { node: node.name().into(), source })?;
        }
        Ok(observed)
    }

    /// Lets the sessions know which EdgeNodes exist and which are denied.
    async fn tell_sessions(&self, node: &Raw<EdgeNode>, observed: &Observed) {
        let joined = observed.records.identity.current.is_some();
        let denied = observed.wanted.as_ref().is_ok_and(|wanted| wanted.denied);
        let (name, uid, now) = (node.name(), node.uid(), observed.now);
        let change = |sessions: &mut sessions::Sessions| {
            let mut effects = sessions.know(name, uid, joined, now);
            if denied {
                effects.orders.extend(sessions.shut(uid, "spec.denied is true", now).orders);
            } else {
                sessions.admit(uid);
            }
            // Its own reconcile is running: it need not be triggered.
            Effects { touched: Vec::new(), ..effects }
        };
        self.switchboard.change(change).await;
    }

    /// Holds an offline transition back until its slot.
    fn pace(&self, uid: &str, plan: &mut Plan) {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let key = uid.to_owned();
        let Shown::GoesOffline { .. } = plan.shown else { return pace.forget(&key) };
        let (connected, joined) = self.switchboard.look(sessions::Sessions::connected);
        let rate = if connected * 2 < joined { OFFLINE_RATE_WIDE } else { OFFLINE_RATE };
        if let Err(wait) = pace.go(&key, clock::now(), rate) {
            plan.shown = Shown::Unsure;
            plan.again = Some(plan.again.map_or(wait, |again| again.min(wait)));
        }
    }

    async fn say(&self, node: &Raw<EdgeNode>, step: &Step) {
        let (about, name) = (node.object_ref(&()), node.name());
        match step {
            Step::MakeKey { expires, .. } => {
                let secret = secret_name(name);
                let note =
                    format!("the join command is in Secret {}/{secret} until {expires}", self.join_namespace);
                self.events.normal(&about, "JoinKeyMade", "Join", note).await;
            }
            Step::Promote(records) => {
                let serial = records.identity.current.as_ref().map_or("", |c| c.serial.as_str());
                let note = format!("a machine joined with certificate {serial}");
                self.events.normal(&about, "Joined", "Join", note).await;
            }
            Step::Close(_) | Step::RemoveSecret => {
                self.events.normal(&about, "JoinKeyRemoved", "Join", "the join command is void").await;
            }
        }
    }
}

/// Name of the join Secret of a node.
#[must_use]
pub fn secret_name(node: &str) -> String {
    format!("{node}-join")
}
