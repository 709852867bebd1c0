//! The EdgeApplication controller: revisions, `status.rollout`, and how the nodes stand.
//!
//! In: EdgeApplications, their revisions, namespaces, and what EdgeNodes report. Out: ControllerRevisions,
//! the status from which alone the hub takes revisions, and the hub's rights in namespaces that take part.

mod apply;
mod namespaces;
mod observe;
mod plan;
mod run;
mod status;
mod validate;

#[cfg(test)]
mod tests;

pub use run::run;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use selvedge_crds::EdgeApplication;
use selvedge_operator::controller::{Class, Classified, Next, Reconciler};
use selvedge_operator::events::Events;
use selvedge_operator::status::StatusError;

use self::apply::{StepError, carry_out};
use self::observe::{Node, NodeView, Observed, Revision};
use self::plan::{Plan, Step, plan};
use crate::raw::Raw;
use crate::{second, written};

/// Field manager of what this controller applies, and its name.
const MANAGER: &str = "edgeapplication-controller";

/// Reconciles EdgeApplications.
pub struct EdgeApplications {
    client: Client,
    events: Arc<Events>,
    nodes: Store<NodeView>,
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
        let observed = self.observe(application);
        let plan = plan(&observed);
        let revisions = Api::namespaced(self.client.clone(), &observed.namespace);
        for step in &plan.steps {
            carry_out(&revisions, application, step).await?;
        }
        let status = status::status(&observed, &plan, application.metadata.generation, second());
        let applications = Api::namespaced(self.client.clone(), &observed.namespace);
        let result = selvedge_operator::status::write(&applications, application, &status).await;
        if matches!(result, Ok(true)) {
            self.say(application, &observed, &plan).await;
        }
        Ok(written(result, None)?)
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
        let mut nodes: Vec<_> =
            self.nodes.state().iter().map(|node| Node::of(node, namespace, name)).collect();
        nodes.sort_by(|one, other| one.name.cmp(&other.name));
        Observed {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: application.uid().to_owned(),
            spec: application.spec.clone(),
            status: application.status(),
            in_namespace: in_namespace.map(|it| observe::Namespace::of(it.labels())).unwrap_or_default(),
            revisions: self.revisions.state().iter().filter(|r| ours(r)).map(|r| Revision::of(r)).collect(),
            nodes,
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
