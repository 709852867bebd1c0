//! The EdgeApplication controller: revisions, `status.rollout`, and how the nodes stand.
//!
//! In: EdgeApplications, their revisions, namespaces, and what EdgeNodes report. Out: ControllerRevisions,
//! the status from which alone the hub takes revisions, and the hub's rights in namespaces that take part.

mod apply;
mod fleet;
mod namespaces;
mod observe;
mod plan;
mod run;
mod status;
mod tally;
mod validate;

#[cfg(test)]
mod tests;

pub use run::run;

use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use selvedge_crds::EdgeApplication;
use selvedge_operator::clock;
use selvedge_operator::controller::{Class, Classified, Next, Reconciler};
use selvedge_operator::events::Events;
use selvedge_operator::status::StatusError;

use self::apply::{StepError, carry_out};
use self::fleet::{Asks, Fleet, Key};
use self::observe::{Observed, Revision};
use self::plan::{Plan, Step, decide, plan};
use crate::raw::Raw;
use crate::spacing::Spacing;
use crate::{second, written};

/// Field manager of what this controller applies, and its name.
const MANAGER: &str = "edgeapplication-controller";

/// Reconciles EdgeApplications.
pub struct EdgeApplications {
    client: Client,
    events: Arc<Events>,
    /// Shared with the watch of nodes, which keeps it.
    fleet: Arc<Mutex<Fleet>>,
    spacing: Spacing<Key>,
    /// Those that exist.
    applications: Store<Raw<EdgeApplication>>,
    namespaces: Store<PartialObjectMeta<Namespace>>,
    revisions: Store<ControllerRevision>,
}

/// A reconcile of an EdgeApplication failed.
#[derive(Debug, thiserror::Error)]
pub enum EdgeApplicationError {
    /// A step failed.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The status cannot be written.
    #[error(transparent)]
    Status(#[from] StatusError),
}

impl Classified for EdgeApplicationError {
    fn class(&self) -> Class {
        Class::Transient
    }

    fn variant(&self) -> &'static str {
        match self {
            Self::Step(StepError::Exists { .. }) => "exists",
            Self::Step(StepError::Api { .. }) => "step",
            Self::Status(_) => "status",
        }
    }
}

impl Reconciler for EdgeApplications {
    type Object = Raw<EdgeApplication>;
    type Error = EdgeApplicationError;

    async fn reconcile(&self, application: &Raw<EdgeApplication>) -> Result<Next, EdgeApplicationError> {
        let key = Key::new(application.namespace(), application.name());
        let generation = application.metadata.generation;
        if let Some(wait) = self.spacing.wait(&key, generation, clock::now()) {
            return Ok(Next::After(wait));
        }
        let observed = self.observe(application);
        let decided = decide(&observed);
        let plan = {
            let mut fleet = self.fleet.lock().unwrap_or_else(PoisonError::into_inner);
            let namespace = observed.in_namespace.labels.clone();
            let asks = Asks { selector: decided.selector.clone(), namespace };
            plan(&observed, decided, fleet.tally(&key, &observed.uid, &asks))
        };
        let revisions = Api::namespaced(self.client.clone(), &observed.namespace);
        for step in &plan.steps {
            carry_out(&revisions, application, step).await?;
        }
        let status = status::status(&observed, &plan, generation, second());
        let applications = Api::namespaced(self.client.clone(), &observed.namespace);
        let result = selvedge_operator::status::write(&applications, application, &status).await;
        if matches!(result, Ok(true)) {
            self.spacing.wrote(key, generation, clock::now(), rand::random());
            self.say(application, &observed, &plan).await;
        }
        Ok(written(result, None)?)
    }

    async fn gone(&self, application: &ObjectRef<Raw<EdgeApplication>>) {
        // It may have been created anew before this was heard.
        if self.applications.get(application).is_none() {
            let key = Key::new(application.namespace.as_deref().unwrap_or_default(), &application.name);
            self.spacing.forget(&key);
            self.fleet.lock().unwrap_or_else(PoisonError::into_inner).forget(&key);
        }
    }
}

impl EdgeApplications {
    fn observe(&self, application: &Raw<EdgeApplication>) -> Observed {
        let (namespace, name) = (application.namespace(), application.name());
        let in_namespace = self.namespaces.get(&ObjectRef::new(namespace));
        let ours = |revision: &Arc<ControllerRevision>| {
            revision.metadata.namespace.as_deref() == Some(namespace)
                && revision.owner_references().iter().any(|owner| owner.uid == application.uid())
        };
        Observed {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: application.uid().to_owned(),
            spec: application.spec.clone(),
            status: application.status(),
            in_namespace: in_namespace.map(|it| observe::Namespace::of(it.labels())).unwrap_or_default(),
            revisions: self.revisions.state().iter().filter(|r| ours(r)).map(|r| Revision::of(r)).collect(),
        }
    }

    async fn say(&self, application: &Raw<EdgeApplication>, observed: &Observed, plan: &Plan) {
        let about = application.object_ref(&());
        if plan.current != observed.status.current_revision {
            let made = plan.steps.iter().any(|step| matches!(step, Step::Create { .. }));
            let note = format!("{} revision {}", if made { "made" } else { "went back to" }, plan.current);
            self.events.normal(&about, "Revision", "Rollout", note).await;
        }
    }
}
