//! Puts the EdgeNode controller together and runs it while this replica leads.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::channel::mpsc;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Secret;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, ResourceExt as _};
use prometheus::Registry;
use selvedge_crds::EdgeNode;
use selvedge_operator::controller::{Controller, Metrics, Watched};
use selvedge_operator::lease::{Election, lead};
use selvedge_operator::process::Process;
use selvedge_operator::{BoxError, clock, events::Events};
use tokio_util::sync::CancellationToken;

use super::sessions::{Server, Sessions, Switchboard};
use super::signer::{AGENT_SIGNER, HUB_SIGNER, Signer};
use super::{EdgeNodes, MANAGER, apply::NODE_LABEL, cluster, crds, history, metrics};
use crate::metrics::prefix;
use crate::pace::Pace;
use crate::raw::Raw;

/// On the Lease: where hub replicas dial the leader.
const ADDRESS_ANNOTATION: &str = "selvedge.dev/address";
/// Nodes that wait to be reconciled because of sessions; the streams wait when it is full.
const TRIGGERS: usize = 1024;

/// How the EdgeNode controller is configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where agents reach hubs: `https://host:port`.
    pub hub_endpoints: Vec<String>,
    /// Names in hubs' certificates.
    pub hub_names: Vec<String>,
    /// Namespace of join Secrets, which holds nothing else.
    pub join_namespace: String,
    /// Where it listens for hub replicas.
    pub replica_address: SocketAddr,
    /// Address of this pod, as hub replicas see it.
    pub pod_ip: IpAddr,
    /// A node without a session for this long is offline.
    pub grace: Duration,
    /// How long agents' certificates live.
    pub agent_life: Duration,
}

/// A setting that cannot work.
#[derive(Debug, thiserror::Error)]
#[error("--hub-endpoint {0:?} is not an address such as https://hub.example:8443")]
struct SettingsError(String);

/// Adds the controller to `process`.
///
/// # Errors
/// When a setting cannot work or the metrics cannot be registered.
pub fn run(process: &mut Process, settings: Settings) -> Result<(), BoxError> {
    let bad =
        |endpoint: &&String| !endpoint.starts_with("https://") || endpoint.contains(char::is_whitespace);
    if let Some(endpoint) = settings.hub_endpoints.iter().find(bad) {
        return Err(SettingsError(endpoint.clone()).into());
    }
    let address = SocketAddr::new(settings.pod_ip, settings.replica_address.port());
    let election = Election {
        namespace: process.namespace.clone(),
        name: MANAGER.to_owned(),
        identity: process.identity.clone(),
        annotations: BTreeMap::from([(ADDRESS_ANNOTATION.to_owned(), address.to_string())]),
    };
    let leader = Leader {
        client: process.client.clone(),
        namespace: process.namespace.clone(),
        identity: process.identity.clone(),
        nodes: Metrics::new(prefix::EDGENODE, &process.registry)?,
        signer: Metrics::new(prefix::SIGNER, &process.registry)?,
        hub_signer: Metrics::new(prefix::HUB_SIGNER, &process.registry)?,
        registry: process.registry.clone(),
        settings,
    };
    let (client, token) = (process.client.clone(), process.tasks.token());
    process.tasks.spawn("EdgeNode controller", async move {
        Ok(lead(client, election, token.clone(), || leader.work(token)).await?)
    });
    Ok(())
}

struct Leader {
    client: Client,
    namespace: String,
    identity: String,
    nodes: Metrics,
    signer: Metrics,
    hub_signer: Metrics,
    registry: Registry,
    settings: Settings,
}

impl Leader {
    async fn work(self, token: CancellationToken) -> Result<(), BoxError> {
        let client = &self.client;
        let authority =
            Arc::new(cluster::ensure(client, &self.namespace, self.settings.agent_life, clock::now()).await?);
        let events = Arc::new(Events::new(client.clone(), MANAGER, &self.identity));
        let (trigger, triggered) = mpsc::channel(TRIGGERS);
        let switchboard = Arc::new(Switchboard::new(Sessions::new(clock::now()), trigger));
        self.registry.register(metrics::collector(Arc::downgrade(&switchboard))?)?;

        let nodes = Arc::new(EdgeNodes {
            nodes: Api::all(client.clone()),
            secrets: Api::namespaced(client.clone(), &self.settings.join_namespace),
            join_namespace: self.settings.join_namespace.clone(),
            events: events.clone(),
            authority: authority.clone(),
            switchboard: switchboard.clone(),
            hubs: self.settings.hub_endpoints.join(" "),
            grace: self.settings.grace,
            pace: Mutex::new(Pace::default()),
        });
        let signer = Arc::new(Signer::new(
            client.clone(),
            events,
            authority.clone(),
            self.namespace.clone(),
            self.settings.hub_names.clone(),
        ));
        let proofs = switchboard.restored.subscribe();
        let server = Arc::new(Server {
            client: client.clone(),
            authority,
            namespace: self.namespace.clone(),
            address: self.settings.replica_address,
            switchboard,
        });

        let watched = Watched::<Raw<EdgeNode>>::all(client.clone());
        watched.served().await;
        let join_secrets =
            Watched::<PartialObjectMeta<Secret>>::within(client.clone(), &self.settings.join_namespace);
        let nodes_run = Controller::new(watched, self.nodes)
            .watches(join_secrets, |secret| secret.labels().get(NODE_LABEL).map(|node| ObjectRef::new(node)))
            .triggered_by(triggered)
            .run(nodes, token.clone());
        let requests = |signer: &str| {
            Watched::<CertificateSigningRequest>::all(client.clone())
                .fields(&format!("spec.signerName={signer}"))
        };
        let agents = Controller::new(requests(AGENT_SIGNER), self.signer).run(signer.clone(), token.clone());
        let hubs = Controller::new(requests(HUB_SIGNER), self.hub_signer).run(signer, token.clone());
        let controllers = async {
            let marks = history::keep(client, &self.namespace, proofs, token.clone());
            tokio::join!(nodes_run, agents, hubs, marks);
            Ok::<_, BoxError>(())
        };
        let record = crds::keep(client.clone(), &self.namespace, token.clone());
        let door = async { Ok::<_, BoxError>(server.run(token.clone()).await?) };
        tokio::try_join!(controllers, record, door)?;
        Ok(())
    }
}
