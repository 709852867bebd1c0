//! Puts the EdgeApplication controller together and runs it while this replica leads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt as _};
use selvedge_crds::EdgeApplication;
use selvedge_operator::controller::{Change, Controller, Metrics, Watched};
use selvedge_operator::lease::{Election, lead};
use selvedge_operator::process::Process;
use selvedge_operator::{BoxError, events::Events};
use tokio_util::sync::CancellationToken;

use super::fleet::Fleet;
use super::namespaces::{Namespaces, REFERENCES};
use super::observe::NodeView;
use super::{EdgeApplications, MANAGER, apply::APPLICATION_LABEL};
use crate::metrics::prefix;
use crate::raw::Raw;
use crate::spacing::Spacing;

/// Adds the controller to `process`.
///
/// # Errors
/// When the metrics cannot be registered.
pub fn run(process: &mut Process) -> Result<(), BoxError> {
    let election = Election {
        namespace: process.namespace.clone(),
        name: MANAGER.to_owned(),
        identity: process.identity.clone(),
        annotations: BTreeMap::new(),
    };
    let leader = Leader {
        client: process.client.clone(),
        namespace: process.namespace.clone(),
        identity: process.identity.clone(),
        applications: Metrics::new(prefix::EDGEAPPLICATION, &process.registry)?,
        namespaces: Metrics::new(prefix::NAMESPACE, &process.registry)?,
    };
    let (client, token) = (process.client.clone(), process.tasks.token());
    process.tasks.spawn("EdgeApplication controller", async move {
        Ok(lead(client, election, token.clone(), || leader.work(token)).await?)
    });
    Ok(())
}

struct Leader {
    client: Client,
    namespace: String,
    identity: String,
    applications: Metrics,
    namespaces: Metrics,
}

impl Leader {
    async fn work(self, token: CancellationToken) -> Result<(), BoxError> {
        let client = &self.client;
        let watched = Watched::<Raw<EdgeApplication>>::all(client.clone());
        watched.served().await;
        let nodes = Watched::<NodeView>::all(client.clone());
        nodes.served().await;

        let controller = Controller::new(watched, self.applications);
        let fleet = Arc::new(Mutex::new(Fleet::default()));
        let counted = fleet.clone();
        let controller = controller.folds(nodes, move |change: Change<NodeView>| {
            let mut fleet = counted.lock().unwrap_or_else(PoisonError::into_inner);
            let touched = match change {
                Change::Is(node) => fleet.is(node.into()),
                Change::Gone(node) => fleet.gone(&node.name),
            };
            touched.into_iter().map(|key| ObjectRef::new(&key.name).within(&key.namespace))
        });
        let applications = controller.store();
        let (controller, namespaces) = controller.caches(
            Watched::<PartialObjectMeta<Namespace>>::all(client.clone()),
            move |namespace| {
                let name = namespace.name_any();
                let all = applications.state().into_iter();
                all.filter(|a| a.namespace() == name).map(|a| ObjectRef::from_obj(&*a)).collect::<Vec<_>>()
            },
        );
        let revisions = Watched::<ControllerRevision>::all(client.clone()).labels(APPLICATION_LABEL);
        let (controller, revisions) = controller.caches(revisions, |revision| {
            let namespace = revision.namespace().unwrap_or_default();
            revision.labels().get(APPLICATION_LABEL).map(|name| ObjectRef::new(name).within(&namespace))
        });
        let reconciler = Arc::new(EdgeApplications {
            applications: controller.store(),
            fleet,
            spacing: Spacing::default(),
            client: client.clone(),
            events: Arc::new(Events::new(client.clone(), MANAGER, &self.identity)),
            namespaces,
            revisions,
        });
        let references = Watched::<PartialObjectMeta<RoleBinding>>::all(client.clone())
            .fields(&format!("metadata.name={REFERENCES}"));
        let all = Watched::<PartialObjectMeta<Namespace>>::all(client.clone());
        let (rights, bindings) = Controller::new(all, self.namespaces)
            .caches(references, |binding| binding.namespace().map(|namespace| ObjectRef::new(&namespace)));
        let keeper =
            Arc::new(Namespaces { client: client.clone(), hub_namespace: self.namespace.clone(), bindings });
        tokio::join!(controller.run(reconciler, token.clone()), rights.run(keeper, token));
        Ok(())
    }
}
