//! Renewals against a hub over real TLS.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateSigningRequestParams, PublicKeyData as _};
use selvedge_protocol::{
    join::{JoinResponse, RenewRequest},
    proof,
};
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{Renewal, due};
use crate::{
    clock::Latest,
    fakehub::{CLUSTER, FakeHub},
    identity::{self, Identity},
};

const SOON: Duration = Duration::from_secs(20);
const ENDS: i64 = 4_000_000_000;

/// Serves renewals: the n-th request gets what `answer` makes of it.
async fn serve(
    hub: &FakeHub,
    mut answer: impl FnMut(usize, RenewRequest) -> Response<Full<Bytes>>,
) -> Infallible {
    let mut count = 0;
    loop {
        let Ok(stream) = hub.accept_tls().await else { continue };
        let (sender, mut asked) = tokio::sync::mpsc::channel::<RenewRequest>(1);
        let (reply, mut replies) = tokio::sync::mpsc::channel::<Response<Full<Bytes>>>(1);
        let replies = Arc::new(tokio::sync::Mutex::new(&mut replies));
        let service = service_fn(|request: Request<Incoming>| {
            let (sender, replies) = (sender.clone(), Arc::clone(&replies));
            async move {
                assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/v1/renew"));
                let body = request.into_body().collect().await?.to_bytes();
                sender.send(selvedge_protocol::decode(body).unwrap()).await.unwrap();
                Ok::<_, hyper::Error>(replies.lock().await.recv().await.unwrap())
            }
        });
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        let answers = async {
            while let Some(request) = asked.recv().await {
                reply.send(answer(count, request)).await.unwrap();
                count += 1;
            }
        };
        tokio::select! {
            _ = connection => {}
            () = answers => {}
        }
    }
}

fn renewed(hub: &FakeHub, request: &RenewRequest) -> Response<Full<Bytes>> {
    let csr = CertificateSigningRequestParams::from_der(&request.csr_der.as_slice().into()).unwrap();
    let response = JoinResponse {
        certificate_chain_pem: hub.certify(&csr.public_key).into_bytes(),
        ca_bundle_pem: hub.ca_pem().into_bytes(),
        node_uid: "uid-1".into(),
        not_before: ENDS - 300,
        not_after: ENDS,
    };
    Response::new(Full::new(selvedge_protocol::encode(&response)))
}

fn renewal(dir: &std::path::Path, renewed: &Arc<Notify>) -> Renewal {
    let (_, latest) = watch::channel(Latest::at(0));
    let replaced = Arc::default();
    Renewal { state_dir: dir.to_owned(), hubs: Vec::new(), latest, renewed: Arc::clone(renewed), replaced }
}

#[tokio::test]
async fn asks_with_the_same_new_key_until_it_is_signed_and_takes_it() {
    let (hub, dir) = (FakeHub::start(false).await, tempfile::tempdir().unwrap());
    hub.identify(dir.path());
    let mut identity = Identity::load(dir.path()).unwrap();
    (identity.not_before, identity.not_after) = (100, 200);
    identity.store(dir.path()).unwrap();
    let old = identity::key(dir.path()).unwrap();
    let mut keys = Vec::new();
    let answer = |nth: usize, request: RenewRequest| {
        let serial = webpki::EndEntityCert::try_from(&request.old_certificate_der.as_slice().into())
            .map(|old| old.serial().iter().map(|byte| format!("{byte:02x}")).collect::<String>())
            .unwrap();
        let message = proof::renew(CLUSTER, "shop-1", "uid-1", &serial, &request.csr_der);
        proof::verify_renewal(old.der_bytes(), &message, &request.signature).unwrap();
        let csr = CertificateSigningRequestParams::from_der(&request.csr_der.as_slice().into()).unwrap();
        keys.push(csr.public_key.der_bytes().to_vec());
        match nth {
            0 => Response::builder().status(202).body(Full::default()).unwrap(),
            _ => renewed(&hub, &request),
        }
    };
    let (told, stop) = (Arc::new(Notify::new()), CancellationToken::new());
    let task = renewal(dir.path(), &told).run(stop.clone());
    tokio::select! {
        told = timeout(SOON, told.notified()) => told.unwrap(),
        () = task => panic!("it stopped"),
        never = serve(&hub, answer) => match never {},
    }
    let next = identity::key(dir.path()).unwrap();
    assert_ne!(next.der_bytes(), old.der_bytes());
    assert!(
        keys.len() == 2 && keys.iter().all(|key| key == next.der_bytes()),
        "one key asks until it is answered"
    );
    let identity = Identity::load(dir.path()).unwrap();
    assert_eq!(identity.not_after, ENDS.unsigned_abs());
    assert!(!dir.path().join("key.next.pem").exists() && !dir.path().join("identity.next.json").exists());
}

/// Its own certificate lives long, and the EdgeNode of its name is another one.
#[tokio::test]
async fn asks_to_be_taken_in_once_its_edge_node_was_replaced() {
    let (hub, dir) = (FakeHub::start(false).await, tempfile::tempdir().unwrap());
    hub.identify(dir.path());
    let mut identity = Identity::load(dir.path()).unwrap();
    (identity.not_before, identity.not_after) = (0, ENDS.unsigned_abs());
    identity.store(dir.path()).unwrap();
    let answer = |_: usize, request: RenewRequest| renewed(&hub, &request);
    let (told, stop) = (Arc::new(Notify::new()), CancellationToken::new());
    let renewal = renewal(dir.path(), &told);
    renewal.replaced.notify_one();
    tokio::select! {
        told = timeout(SOON, told.notified()) => told.unwrap(),
        () = renewal.run(stop.clone()) => panic!("it stopped"),
        never = serve(&hub, answer) => match never {},
    }
    assert_eq!(Identity::load(dir.path()).unwrap().not_before, (ENDS - 300).unsigned_abs());
}

#[tokio::test]
async fn a_certificate_that_does_not_fit_the_key_takes_no_place() {
    let (hub, dir) = (FakeHub::start(false).await, tempfile::tempdir().unwrap());
    hub.identify(dir.path());
    let before = Identity::load(dir.path()).unwrap();
    let stranger = rcgen::KeyPair::generate().unwrap();
    let answer = |_: usize, _: RenewRequest| {
        let response = JoinResponse {
            certificate_chain_pem: hub.certify(&stranger).into_bytes(),
            ca_bundle_pem: hub.ca_pem().into_bytes(),
            node_uid: "uid-1".into(),
            not_before: 0,
            not_after: ENDS,
        };
        Response::new(Full::new(selvedge_protocol::encode(&response)))
    };
    let task = renewal(dir.path(), &Arc::new(Notify::new()));
    let refused = tokio::select! {
        refused = timeout(SOON, task.ask_all(&before)) => refused.unwrap().unwrap_err().0,
        never = serve(&hub, answer) => match never {},
    };
    assert!(matches!(refused, super::RenewError::Tls(_)), "{refused}");
    assert_eq!(Identity::load(dir.path()).unwrap(), before);
}

#[test]
fn it_is_due_after_two_thirds_and_spread_over_a_tenth() {
    let mut identity = Identity {
        cluster: String::new(),
        node: String::new(),
        node_uid: String::new(),
        hub: Vec::new(),
        certificate_chain: String::new(),
        ca_bundle: String::new(),
        joined_with: String::new(),
        not_before: 1000,
        not_after: 4000,
    };
    assert_eq!([due(&identity, 0, 0.0), due(&identity, 0, 1.0)], [3000, 3300]);
    identity.not_after = 0;
    assert_eq!([due(&identity, 50, 0.0), due(&identity, 50, 0.5)], [50, 1850], "a fleet that was upgraded");
}
