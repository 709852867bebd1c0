//! The agents' door over real TLS on loopback, with agents in this process and no API server: the index is
//! fed by hand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use prometheus::Registry;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use selvedge_agent::ledger::{Machine, MemoryStore};
use selvedge_hub::cluster::Cluster;
use selvedge_hub::hub::Hub;
use selvedge_hub::index::{Event, ObjectKey, Resource};
use selvedge_hub::metrics::Metrics;
use selvedge_hub::removals::{Crd, CrdState};
use selvedge_hub::transport::tls::{Serving, Tls, provider};
use selvedge_hub::transport::{self, Door};
use selvedge_protocol::agent::{self as wire, refused::Code, to_agent::Message as ToAgent, verdict};
use selvedge_protocol::{JOIN_PATH, SESSION_PATH, decode, encode, join, proof};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const CLUSTER: &str = "c";
/// Anything takes milliseconds here; a test that waits this long has failed.
const SOON: Duration = Duration::from_secs(10);

struct Ca {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Self { pem, der, issuer: Issuer::new(params, key) }
    }

    fn sign(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Serving {
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Serving { chain: vec![certificate.der().clone()], key }
    }

    fn agent(&self, node: &str, uid: &str) -> Serving {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, node);
        params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 5]), uid);
        self.sign(params, ExtendedKeyUsagePurpose::ClientAuth)
    }
}

struct Rig {
    hub: Arc<Hub>,
    ca: Ca,
    address: SocketAddr,
    drain: CancellationToken,
    tracker: TaskTracker,
    revision: u64,
}

impl Rig {
    async fn new() -> Self {
        let ca = Ca::new();
        let cluster =
            Cluster { id: CLUSTER.into(), epoch: 0, ca_pem: ca.pem.clone(), release: String::new() };
        let (_, receiver) = watch::channel(Some(Arc::new(cluster.clone())));
        let hub = Arc::new(Hub::new(None, receiver, Metrics::new(&Registry::new()).unwrap()));
        hub.set_cluster(&cluster);
        let tls = Arc::new(Tls::default());
        let params = CertificateParams::new(vec!["hub.test".to_owned()]).unwrap();
        tls.replace(ca.sign(params, ExtendedKeyUsagePurpose::ServerAuth), &ca.pem).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (drain, tracker) = (CancellationToken::new(), TaskTracker::new());
        let door =
            Door { hub: hub.clone(), join: Arc::default(), tasks: TaskTracker::new(), drain: drain.clone() };
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

    fn apply(&mut self, event: Event) {
        self.hub.apply(event, now());
    }

    fn put(&mut self, resource: Resource, mut object: Value) {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        self.apply(Event::Applied(resource, object));
    }

    fn node(&mut self, spec: Value) {
        let metadata = json!({"name": "n1", "uid": "u1", "labels": {"tier": "shop"}});
        self.put(Resource::EdgeNodes, json!({"metadata": metadata, "spec": spec}));
    }

    fn application(&mut self, revision: &str, image: &str) {
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

    async fn tls(&self, client: Option<Serving>) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.der.clone()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let config = match client {
            Some(client) => config.with_client_auth_cert(client.chain, client.key).unwrap(),
            None => config.with_no_client_auth(),
        };
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("hub.test").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    async fn dial(&self) -> WebSocketStream<TlsStream<TcpStream>> {
        let stream = self.tls(Some(self.ca.agent("n1", "u1"))).await.unwrap();
        let request = format!("wss://hub.test{SESSION_PATH}");
        tokio_tungstenite::client_async(request, stream).await.unwrap().0
    }

    async fn agent(&self, machine: &mut Machine<MemoryStore>, nonce: u64) -> Agent {
        let mut agent = Agent { socket: self.dial().await, id: Default::default() };
        let (id, hello) = machine.hello(nonce, 0).unwrap();
        agent.id = id;
        agent.send(wire::to_hub::Message::Hello(hello)).await;
        agent
    }

    /// Ends the replica: everything that it started has ended when this returns.
    async fn end(self) {
        self.drain.cancel();
        self.tracker.close();
        timeout(SOON, self.tracker.wait()).await.expect("the door did not close");
    }
}

fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

fn machine() -> Machine<MemoryStore> {
    Machine::open(MemoryStore::default(), "1", CLUSTER).unwrap()
}

struct Agent {
    socket: WebSocketStream<TlsStream<TcpStream>>,
    id: selvedge_model::SessionId,
}

impl Agent {
    async fn send(&mut self, message: wire::to_hub::Message) {
        let frame = encode(&wire::ToHub { message: Some(message) });
        self.socket.send(Message::Binary(frame)).await.unwrap();
    }

    async fn receive(&mut self) -> Option<ToAgent> {
        loop {
            match timeout(SOON, self.socket.next()).await.expect("the hub said nothing") {
                Some(Ok(Message::Binary(frame))) => return decode::<wire::ToAgent>(frame).unwrap().message,
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    /// Plays the agent until `done`.
    async fn until(
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

fn has(machine: &Machine<MemoryStore>, key: &str) -> bool {
    machine.rows().iter().any(|(row, state)| row.to_string() == key && state.in_force.is_some())
}

fn revision(machine: &Machine<MemoryStore>) -> Option<String> {
    let row = machine.rows().iter().find(|(key, _)| key.to_string() == "Workload/shop/web")?.1;
    Some(row.in_force.as_ref()?.revision.clone())
}

#[tokio::test]
async fn an_agent_gets_its_set_changes_and_removals() {
    let mut rig = Rig::new().await;
    rig.application("web-1", "web:1");
    let mut machine = machine();
    let mut agent = rig.agent(&mut machine, 1).await;
    agent.until(&mut machine, |machine| machine.synced() && has(machine, "Workload/shop/web")).await;
    assert!(has(&machine, "NodeSettings/node"));
    assert_eq!(revision(&machine).as_deref(), Some("web-1"));

    rig.application("web-2", "web:2");
    agent.until(&mut machine, |machine| revision(machine).as_deref() == Some("web-2")).await;

    rig.revision += 1;
    let (key, revision) = (ObjectKey::new("shop", "web"), rig.revision);
    rig.apply(Event::Gone { resource: Resource::EdgeApplications, key, revision, watched: true });
    // The CRD is read after the deletion was seen: it stands.
    rig.hub.removals.read(Crd::EdgeApplications, CrdState::Stands { uid: "crd".into() }, now());
    rig.hub.sessions.wake_waiting();
    agent.until(&mut machine, |machine| !has(machine, "Workload/shop/web")).await;
    rig.end().await;
}

#[tokio::test]
async fn a_deleted_crd_empties_no_node() {
    let mut rig = Rig::new().await;
    rig.application("web-1", "web:1");
    let mut machine = machine();
    let mut agent = rig.agent(&mut machine, 1).await;
    agent.until(&mut machine, |machine| machine.synced() && has(machine, "Workload/shop/web")).await;
    rig.revision += 1;
    let (key, revision) = (ObjectKey::new("shop", "web"), rig.revision);
    rig.apply(Event::Gone { resource: Resource::EdgeApplications, key, revision, watched: true });
    rig.hub.removals.read(Crd::EdgeApplications, CrdState::Going, now());
    rig.hub.sessions.wake_waiting();
    // Whatever comes after it finds the workload still there.
    rig.put(
        Resource::EdgeNodes,
        json!({"metadata": {"name": "n1", "uid": "u1", "labels": {"tier": "shop", "new": "1"}}}),
    );
    let before = machine.meta().digest;
    agent.until(&mut machine, |machine| machine.meta().digest != before).await;
    assert!(has(&machine, "Workload/shop/web"));
    rig.end().await;
}

#[tokio::test]
async fn a_newer_session_ends_an_older_and_an_equal_digest_needs_one_frame() {
    let mut rig = Rig::new().await;
    rig.application("web-1", "web:1");
    let mut machine = machine();
    let mut first = rig.agent(&mut machine, 1).await;
    first.until(&mut machine, Machine::synced).await;
    let mut second = rig.agent(&mut machine, 2).await;
    assert!(matches!(second.receive().await, Some(ToAgent::Welcome(_))));
    assert!(matches!(second.receive().await, Some(ToAgent::InSync(_))));
    loop {
        match first.receive().await {
            Some(ToAgent::Refused(refused)) => break assert_eq!(refused.code(), Code::Superseded),
            Some(_) => {}
            None => panic!("the older session ended without a word"),
        }
    }
    rig.end().await;
}

#[tokio::test]
async fn a_lost_ledger_heals_and_a_denied_node_is_refused() {
    let mut rig = Rig::new().await;
    let mut old = machine();
    for nonce in 1..4 {
        rig.agent(&mut old, nonce).await.until(&mut old, Machine::synced).await;
    }
    let mut new = machine();
    let mut agent = rig.agent(&mut new, 9).await;
    let Some(ToAgent::Refused(refused)) = agent.receive().await else { panic!("an old session was taken") };
    assert_eq!(refused.code(), Code::Stale);
    new.receive(agent.id, ToAgent::Refused(refused)).unwrap();
    let mut agent = rig.agent(&mut new, 10).await;
    agent.until(&mut new, Machine::synced).await;

    rig.node(json!({"denied": true}));
    let Some(ToAgent::Refused(refused)) = agent.receive().await else {
        panic!("a denied node's session lives")
    };
    assert_eq!(refused.code(), Code::Denied);
    rig.end().await;
}

#[tokio::test]
async fn a_report_on_a_foreign_key_is_gone_and_the_session_lives() {
    let rig = Rig::new().await;
    let mut machine = machine();
    let mut agent = rig.agent(&mut machine, 1).await;
    agent.until(&mut machine, Machine::synced).await;
    let key = wire::Key {
        kind: wire::EntryKind::Device.into(),
        namespace: "shop".into(),
        name: "theirs".into(),
        ..Default::default()
    };
    let entries = vec![wire::EntryReport { key: Some(key), seq: 7, ..Default::default() }];
    agent.send(wire::to_hub::Message::Report(wire::Report { entries })).await;
    let Some(ToAgent::Verdicts(verdicts)) = agent.receive().await else { panic!("no verdict") };
    assert_eq!((verdicts.verdicts[0].code(), verdicts.verdicts[0].seq), (verdict::Code::Gone, 7));
    rig.end().await;
}

#[tokio::test]
async fn a_drained_replica_says_goodbye() {
    let rig = Rig::new().await;
    let mut machine = machine();
    let mut agent = rig.agent(&mut machine, 1).await;
    agent.until(&mut machine, Machine::synced).await;
    rig.drain.cancel();
    let Some(ToAgent::Goodbye(goodbye)) = agent.receive().await else { panic!("no goodbye") };
    assert!(!goodbye.behind && goodbye.retry_after_ms <= 1_000);
    assert!(agent.receive().await.is_none());
    rig.end().await;
}

/// The whole answer to one request, as text.
async fn ask(mut stream: TlsStream<TcpStream>, head: &str, body: &[u8]) -> String {
    let request = format!(
        "{head} HTTP/1.1\r\nHost: hub.test\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[request.as_bytes(), body].concat()).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.expect("no answer");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn strangers_get_no_session_and_learn_nothing_from_a_join() {
    let rig = Rig::new().await;
    let answer = ask(rig.tls(None).await.unwrap(), &format!("GET {SESSION_PATH}"), b"").await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let join = |node: &str| {
        let message = proof::join(CLUSTER, node, b"csr");
        let signature = proof::sign_join(&[9; 32], &message).unwrap();
        let csr_der = b"csr".to_vec();
        encode(&join::JoinRequest { cluster_id: CLUSTER.into(), node: node.into(), csr_der, signature })
    };
    let path = format!("POST {JOIN_PATH}");
    let known = ask(rig.tls(None).await.unwrap(), &path, &join("n1")).await;
    let unknown = ask(rig.tls(None).await.unwrap(), &path, &join("nobody")).await;
    assert!(known.starts_with("HTTP/1.1 403"), "{known}");
    let said =
        |answer: &str| answer.lines().filter(|line| !line.starts_with("date")).collect::<Vec<_>>().join("\n");
    assert_eq!(said(&known), said(&unknown));
    // A certificate of another CA does not even come through the handshake.
    let foreign = Ca::new().agent("n1", "u1");
    let refused = match rig.tls(Some(foreign)).await {
        // In TLS 1.3 the client hears of it with its first read.
        Ok(mut stream) => stream.read(&mut [0; 1]).await.is_err(),
        Err(_) => true,
    };
    assert!(refused, "a foreign certificate was taken");
    rig.end().await;
}
