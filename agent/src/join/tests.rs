//! Joins against a hub over real TLS.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::CertificateSigningRequestParams;
use selvedge_protocol::{
    JoinToken,
    join::{JoinRequest, JoinResponse},
    proof,
};

use super::{JoinError, join};
use crate::{fakehub::FakeHub, identity::Identity};

const SEED: [u8; 32] = [5; 32];
const PATIENCE: Duration = Duration::from_secs(20);

fn token(hub: &FakeHub, cluster: &str, pin: String) -> JoinToken {
    JoinToken::new(cluster, "shop-1", vec![hub.url()], pin, &SEED)
}

/// Serves joins: the n-th request gets what `answer` makes of it.
async fn serve(hub: &FakeHub, answer: impl Fn(usize, JoinRequest) -> Response<Full<Bytes>>) -> Infallible {
    let count = AtomicUsize::new(0);
    loop {
        let Ok(stream) = hub.accept_tls().await else { continue };
        let service = service_fn(|request: Request<Incoming>| async {
            assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/v1/join"));
            let body = request.into_body().collect().await?.to_bytes();
            let request = selvedge_protocol::decode(body).unwrap();
            Ok::<_, hyper::Error>(answer(count.fetch_add(1, Ordering::Relaxed), request))
        });
        let connection = hyper::server::conn::http1::Builder::new();
        let _ = connection.serve_connection(TokioIo::new(stream), service).await;
    }
}

fn status(code: u16) -> Response<Full<Bytes>> {
    Response::builder().status(code).body(Full::default()).unwrap()
}

fn signed(hub: &FakeHub, request: &JoinRequest) -> Response<Full<Bytes>> {
    let message = proof::join("c-1", "shop-1", &request.csr_der);
    let public = proof::join_public_key(&SEED).unwrap();
    proof::verify_join(&public, &message, &request.signature).unwrap();
    let csr = CertificateSigningRequestParams::from_der(&request.csr_der.as_slice().into()).unwrap();
    let response = JoinResponse {
        certificate_chain_pem: hub.certify(&csr.public_key).into_bytes(),
        ca_bundle_pem: hub.ca_pem().into_bytes(),
        node_uid: "uid-1".into(),
        ..Default::default()
    };
    Response::new(Full::new(selvedge_protocol::encode(&response)))
}

#[tokio::test]
async fn asks_again_until_the_certificate_is_signed_and_keeps_it() {
    let hub = FakeHub::start(false).await;
    let dir = tempfile::tempdir().unwrap();
    let first_csr = std::sync::Mutex::new(Vec::new());
    let hub_side = serve(&hub, |count, request| {
        let mut first = first_csr.lock().unwrap();
        if first.is_empty() {
            first.clone_from(&request.csr_der);
        }
        assert_eq!(*first, request.csr_der, "the same request every time");
        match count {
            0 => status(503),
            1 => Response::builder()
                .status(StatusCode::ACCEPTED)
                .header("retry-after", "0")
                .body(Full::default())
                .unwrap(),
            _ => signed(&hub, &request),
        }
    });
    let token = token(&hub, "c-1", hub.pin());
    let identity = tokio::select! {
        identity = join(&token, dir.path(), PATIENCE) => identity.unwrap(),
        never = hub_side => match never {},
    };
    assert_eq!(identity.node_uid, "uid-1");
    assert_eq!(Identity::load(dir.path()).unwrap(), identity);

    // The same command again asks nobody; as another node this machine must leave first.
    let again = join(&token, dir.path(), Duration::ZERO).await.unwrap();
    assert_eq!(again, identity);
    let other = self::token(&hub, "c-2", hub.pin());
    assert!(matches!(join(&other, dir.path(), PATIENCE).await, Err(JoinError::OtherIdentity { .. })));
}

#[tokio::test]
async fn a_refusal_is_final_and_says_what_to_do() {
    let hub = FakeHub::start(false).await;
    let dir = tempfile::tempdir().unwrap();
    let token = token(&hub, "c-1", hub.pin());
    let error = tokio::select! {
        result = join(&token, dir.path(), PATIENCE) => result.unwrap_err(),
        never = serve(&hub, |_, _| status(403)) => match never {},
    };
    assert!(error.to_string().contains("kubectl patch edgenode shop-1"), "{error}");
    assert!(Identity::load(dir.path()).is_err());
}

#[tokio::test]
async fn a_hub_whose_ca_is_not_the_pinned_one_learns_nothing() {
    let hub = FakeHub::start(false).await;
    let dir = tempfile::tempdir().unwrap();
    let token = token(&hub, "c-1", "ab".repeat(32));
    let patience = Duration::from_millis(300);
    let error = tokio::select! {
        result = join(&token, dir.path(), patience) => result.unwrap_err(),
        never = serve(&hub, |_, _| panic!("a request reached a hub that is not ours")) => match never {},
    };
    assert!(error.to_string().contains("no trusted TLS"), "{error}");
}
