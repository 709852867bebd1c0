//! One hub in this process: its door on loopback under a CA of its own, its caches fed by hand; and agents
//! that dial it over real TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use kube::Client;
use prometheus::Registry;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use selvedge_agent::ledger::{Machine, MemoryStore};
use selvedge_hub::cluster::Cluster;
use selvedge_hub::hub::Hub;
use selvedge_hub::index::{Event, Resource};
use selvedge_hub::metrics::Metrics;
use selvedge_hub::removals::{Crd, CrdState};
use selvedge_hub::transport::tls::{Serving, Tls, provider};
use selvedge_hub::transport::{self, Door};
use selvedge_protocol::agent::{self as wire, to_agent::Message as ToAgent};
use selvedge_protocol::{SESSION_PATH, decode, encode};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub const CLUSTER: &str = "c";
/// Anything takes milliseconds here; a test that waits this long has failed.
pub const SOON: Duration = Duration::from_secs(10);

pub struct Ca {
    pub pem: String,
    pub der: CertificateDer<'static>,
    pub issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Self { pem, der, issuer: Issuer::new(params, key) }
    }

    pub fn sign(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Serving {
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Serving { chain: vec![certificate.der().clone()], key }
    }

    pub fn agent(&self, node: &str, uid: &str) -> Serving {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, node);
        params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 5]), uid);
        self.sign(params, ExtendedKeyUsagePurpose::ClientAuth)
    }
}

pub struct Rig {
    pub hub: Arc<Hub>,
    pub ca: Ca,
    pub address: SocketAddr,
    pub drain: CancellationToken,
    pub tracker: TaskTracker,
    pub revision: u64,
}

impl Rig {
    pub async fn new() -> Self {
        Self::with(None).await
    }

    /// One that writes statuses.
    pub async fn with(client: Option<Client>) -> Self {
        let ca = Ca::new();
        let cluster =
            Cluster { id: CLUSTER.into(), epoch: 0, ca_pem: ca.pem.clone(), release: String::new() };
        let (_, receiver) = watch::channel(Some(Arc::new(cluster.clone())));
        let hub = Arc::new(Hub::new(client, receiver, Metrics::new(&Registry::new()).unwrap()));
        hub.set_cluster(&cluster, now());
        let tls = Arc::new(Tls::default());
        let params = CertificateParams::new(vec!["hub.test".to_owned()]).unwrap();
        tls.replace(ca.sign(params, ExtendedKeyUsagePurpose::ServerAuth), &ca.pem).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (drain, tracker) = (CancellationToken::new(), TaskTracker::new());
        let door = Door {
            hub: hub.clone(),
            join: Arc::default(),
            renewals: Arc::default(),
            tasks: TaskTracker::new(),
            drain: drain.clone(),
        };
        tracker.spawn(transport::serve(listener, tls, door));
        let mut rig = Self { hub, ca, address, drain, tracker, revision: 1 };
        for resource in Resource::CORE.into_iter().chain([Resource::ConfigMaps("shop".into())]) {
            rig.apply(Event::Listed(resource, 1));
        }
        for crd in Crd::ALL {
            rig.hub.removals.read(crd, CrdState::Stands { uid: "crd".into() }, now());
        }
        rig.node(json!({}));
        rig.put(
            Resource::Namespaces,
            json!({"metadata": {"name": "shop", "labels": {"selvedge.dev/edge": "enabled"}}}),
        );
        rig
    }

    pub fn apply(&mut self, event: Event) {
        self.hub.apply(event, now());
    }

    pub fn put(&mut self, resource: Resource, mut object: Value) {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        self.apply(Event::Applied(resource, object));
    }

    pub fn node(&mut self, spec: Value) {
        let metadata = json!({"name": "n1", "uid": "u1", "labels": {"tier": "shop"}});
        self.put(Resource::EdgeNodes, json!({"metadata": metadata, "spec": spec}));
    }

    /// An EdgeNode of this name, with a label; its agent gets new settings whenever the label changes.
    pub fn labelled(&mut self, name: &str, uid: &str, label: &str) {
        let labels = json!({"tier": "shop", "label": label});
        let metadata = json!({"name": name, "uid": uid, "labels": labels});
        self.put(Resource::EdgeNodes, json!({"metadata": metadata, "spec": {}}));
    }

    pub fn application(&mut self, revision: &str, image: &str) {
        self.put(
            Resource::ControllerRevisions,
            json!({
                "metadata": {"name": revision, "namespace": "shop", "labels": {"selvedge.dev/application": "web"}},
                "data": {"selector": {"matchLabels": {"tier": "shop"}},
                    "template": {"spec": {"containers": [{"name": "c", "image": image}]}}},
            }),
        );
        let interval = json!({"from": 0, "to": 1_u64 << 32, "revision": revision});
        self.put(
            Resource::EdgeApplications,
            json!({
                "metadata": {"name": "web", "namespace": "shop", "uid": "a1"},
                "status": {"rollout": {"intervals": [interval]}},
            }),
        );
    }

    /// How a client speaks that shows this.
    pub fn client(&self, shown: Option<Serving>) -> rustls::ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.der.clone()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        match shown {
            Some(shown) => config.with_client_auth_cert(shown.chain, shown.key).unwrap(),
            None => config.with_no_client_auth(),
        }
    }

    pub async fn connect(&self, config: Arc<rustls::ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("hub.test").unwrap();
        tokio_rustls::TlsConnector::from(config).connect(name, stream).await
    }

    /// From another address of this machine than all others.
    pub async fn agent_from(
        &self,
        from: [u8; 4],
        (node, uid): (&str, &str),
        machine: &mut Machine<MemoryStore>,
    ) -> Agent {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let stream = timeout(SOON, socket.connect(self.address)).await.expect("no connection").unwrap();
        let config = Arc::new(self.client(Some(self.ca.agent(node, uid))));
        let name = ServerName::try_from("hub.test").unwrap();
        let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream);
        let stream = timeout(SOON, stream).await.expect("no handshake").unwrap();
        let request = format!("wss://hub.test{SESSION_PATH}");
        let upgraded = timeout(SOON, tokio_tungstenite::client_async(request, stream)).await;
        Agent::begin(upgraded.expect("no upgrade").unwrap().0, machine, 1).await
    }

    pub async fn tls(&self, shown: Option<Serving>) -> std::io::Result<TlsStream<TcpStream>> {
        self.connect(Arc::new(self.client(shown))).await
    }

    pub async fn dial(&self, node: &str, uid: &str) -> WebSocketStream<TlsStream<TcpStream>> {
        let stream = self.tls(Some(self.ca.agent(node, uid))).await.unwrap();
        let request = format!("wss://hub.test{SESSION_PATH}");
        tokio_tungstenite::client_async(request, stream).await.unwrap().0
    }

    pub async fn agent(&self, machine: &mut Machine<MemoryStore>, nonce: u64) -> Agent {
        self.agent_of("n1", "u1", machine, nonce).await
    }

    /// The agent in its first session, in sync.
    pub async fn synced(&self, machine: &mut Machine<MemoryStore>) -> Agent {
        let mut agent = self.agent(machine, 1).await;
        agent.until(machine, Machine::synced).await;
        agent
    }

    pub async fn agent_of(
        &self,
        node: &str,
        uid: &str,
        machine: &mut Machine<MemoryStore>,
        nonce: u64,
    ) -> Agent {
        Agent::begin(self.dial(node, uid).await, machine, nonce).await
    }

    /// Ends the replica: everything that it started has ended when this returns.
    pub async fn end(self) {
        self.drain.cancel();
        self.tracker.close();
        timeout(SOON, self.tracker.wait()).await.expect("the door did not close");
    }
}

pub fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

pub fn machine() -> Machine<MemoryStore> {
    Machine::open(MemoryStore::default(), "1", CLUSTER).unwrap()
}

pub struct Agent {
    pub socket: WebSocketStream<TlsStream<TcpStream>>,
    pub id: selvedge_model::SessionId,
}

impl Agent {
    /// Says Hello.
    pub async fn begin(
        socket: WebSocketStream<TlsStream<TcpStream>>,
        machine: &mut Machine<MemoryStore>,
        nonce: u64,
    ) -> Self {
        let (id, hello) = machine.hello(nonce, 0).unwrap();
        let mut agent = Self { socket, id };
        agent.send(wire::to_hub::Message::Hello(hello)).await;
        agent
    }

    pub async fn send(&mut self, message: wire::to_hub::Message) {
        let frame = encode(&wire::ToHub { message: Some(message) });
        self.socket.send(Message::Binary(frame)).await.unwrap();
    }

    pub async fn receive(&mut self) -> Option<ToAgent> {
        loop {
            match timeout(SOON, self.socket.next()).await.expect("the hub said nothing") {
                Some(Ok(Message::Binary(frame))) => return decode::<wire::ToAgent>(frame).unwrap().message,
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    /// Plays the agent until `done`.
    pub async fn until(
        &mut self,
        machine: &mut Machine<MemoryStore>,
        done: impl Fn(&Machine<MemoryStore>) -> bool,
    ) {
        while !done(machine) {
            let message = self.receive().await.expect("the hub closed the session");
            for answer in machine.receive(self.id, message).unwrap().answers {
                self.send(answer).await;
            }
        }
    }
}

pub fn has(machine: &Machine<MemoryStore>, key: &str) -> bool {
    machine.rows().iter().any(|(row, state)| row.to_string() == key && state.in_force.is_some())
}

pub fn revision(machine: &Machine<MemoryStore>) -> Option<String> {
    let row = machine.rows().iter().find(|(key, _)| key.to_string() == "Workload/shop/web")?.1;
    Some(row.in_force.as_ref()?.revision.clone())
}
