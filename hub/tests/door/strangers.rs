//! Whoever comes without a good certificate over TLS 1.3, and whoever says that he is somebody else.

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, date_time_ymd};
use selvedge_hub::index::Resource;
use selvedge_hub::transport::tls::Serving;
use selvedge_protocol::agent::{refused::Code, to_agent::Message as ToAgent};
use selvedge_protocol::{JOIN_PATH, SESSION_PATH, encode, join, proof};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::rig::{Agent, CLUSTER, Ca, Rig, SOON, has, machine};

/// What comes back for these bytes, until the hub has said all or has closed.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> Vec<u8> {
    // A hub that has refused already reads nothing more.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.expect("no answer");
    answer
}

/// The whole answer to one request, as text.
async fn ask(stream: impl AsyncRead + AsyncWrite + Unpin, head: &str, body: &[u8]) -> String {
    let length = body.len();
    let head =
        format!("{head} HTTP/1.1\r\nHost: hub.test\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    String::from_utf8_lossy(&answer(stream, &[head.as_bytes(), body].concat()).await).into_owned()
}

#[tokio::test]
async fn strangers_get_no_session_and_learn_nothing_from_a_join() {
    let rig = Rig::new().await;
    let refused = ask(rig.tls(None).await.unwrap(), &format!("GET {SESSION_PATH}"), b"").await;
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
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
    rig.end().await;
}

/// A certificate for n1, with a life in years and a usage.
fn certificate(ca: &Ca, (from, to): (i32, i32), usage: ExtendedKeyUsagePurpose) -> Serving {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "n1");
    params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 5]), "u1");
    (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
    ca.sign(params, usage)
}

/// Whether the hub reads a request of whoever shows this. In TLS 1.3 a client hears of a refusal with its first read.
async fn is_heard(rig: &Rig, shown: Serving) -> bool {
    match rig.tls(Some(shown)).await {
        Ok(stream) => ask(stream, &format!("GET {SESSION_PATH}"), b"").await.starts_with("HTTP/1.1 426"),
        Err(_) => false,
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_good_now_ends_in_the_handshake() {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let rig = Rig::new().await;
    assert!(is_heard(&rig, certificate(&rig.ca, (2020, 2090), ClientAuth)).await);
    for (what, shown) in [
        ("expired", certificate(&rig.ca, (2020, 2021), ClientAuth)),
        ("not valid yet", certificate(&rig.ca, (2089, 2090), ClientAuth)),
        ("of a server", certificate(&rig.ca, (2020, 2090), ServerAuth)),
        ("of another CA", certificate(&Ca::new(), (2020, 2090), ClientAuth)),
    ] {
        assert!(!is_heard(&rig, shown).await, "{what}");
    }
    rig.end().await;
}

#[tokio::test]
async fn only_tls_1_3_is_spoken() {
    let rig = Rig::new().await;
    // A good ClientHello of RFC 5246: two suites, no compression; P-256, uncompressed points, ECDSA with SHA-256.
    let extensions = [0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0, 0, 13, 0, 4, 0, 2, 4, 3];
    let suites = [0, 0, 4, 0xc0, 0x2f, 0xc0, 0x2b, 1, 0, 0, u8::try_from(extensions.len()).unwrap()];
    let hello = [&[3, 3][..], &[7; 32], &suites, &extensions].concat();
    let hello = [&[1, 0, 0, u8::try_from(hello.len()).unwrap()], &hello[..]].concat();
    let record = [&[22, 3, 1, 0, u8::try_from(hello.len()).unwrap()], &hello[..]].concat();
    let said = answer(TcpStream::connect(rig.address).await.unwrap(), &record).await;
    assert_eq!((said.first(), &said[5..]), (Some(&21), &[2, 70][..]), "a fatal alert: protocol_version");

    let request = format!("GET {SESSION_PATH} HTTP/1.1\r\nHost: hub.test\r\n\r\n");
    let said = answer(TcpStream::connect(rig.address).await.unwrap(), request.as_bytes()).await;
    assert!(!said.starts_with(b"HTTP"), "plain HTTP was answered: {said:?}");
    rig.end().await;
}

/// Nothing is resumed, so nothing can be sent before the handshake is done, and replayed (RFC 8446, section 8).
#[tokio::test]
async fn no_early_data_is_taken() {
    let rig = Rig::new().await;
    let mut config = rig.client(None);
    config.enable_early_data = true;
    let config = std::sync::Arc::new(config);
    for _ in 0..2 {
        let stream = rig.connect(config.clone()).await.unwrap();
        assert!(stream.get_ref().1.tls13_tickets_received() == 0, "a ticket was given");
        let refused = ask(stream, &format!("GET {SESSION_PATH}"), b"").await;
        assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    }
    rig.end().await;
}

/// Node and uid are the certificate's, whatever else is said.
#[tokio::test]
async fn a_name_in_headers_or_path_is_nobodys() {
    let mut rig = Rig::new().await;
    rig.labelled("n2", "u2", "theirs");
    let stream = rig.tls(Some(rig.ca.agent("n1", "u1"))).await.unwrap();
    let mut request = format!("wss://hub.test{SESSION_PATH}?node=n2&uid=u2").into_client_request().unwrap();
    for (name, value) in [
        ("x-forwarded-client-cert", "Subject=\"CN=n2,serialNumber=u2\""),
        ("x-ssl-client-s-dn", "CN=n2"),
        ("x-selvedge-node", "n2"),
        ("forwarded", "for=n2"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let socket = tokio_tungstenite::client_async(request, stream).await.unwrap().0;
    let mut machine = machine();
    let mut agent = Agent::begin(socket, &mut machine, 1).await;
    agent.until(&mut machine, |machine| machine.synced() && has(machine, "NodeSettings/node")).await;
    assert!(rig.hub.sessions.newest("u1").is_some());
    assert!(rig.hub.sessions.newest("u2").is_none(), "a session began in another's name");
    rig.end().await;
}

/// It may ask to be taken in (identity rule 9), by its old key and nothing else; the controller hears of it.
#[tokio::test]
async fn a_certificate_of_an_edge_node_before_this_one_waits_outside() {
    let mut rig = Rig::new().await;
    let mut outside = rig.hub.sessions.outside();
    for (adopt, comes_back_ms) in [("Never", 60_000), ("SameName", 5_000)] {
        let spec = json!({"join": {"adopt": adopt}});
        rig.put(Resource::EdgeNodes, json!({"metadata": {"name": "n1", "uid": "u9"}, "spec": spec}));
        let mut agent = rig.agent(&mut machine(), 1).await;
        let Some(ToAgent::Refused(refused)) = agent.receive().await else { panic!("it is not refused") };
        assert_eq!((refused.code(), refused.retry_after_ms), (Code::OtherUid, comes_back_ms));
        assert_eq!(outside.recv().await.unwrap(), ("n1".into(), "u1".into()));
    }
    rig.end().await;
}
