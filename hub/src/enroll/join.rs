//! `POST /v1/join`: an agent without a certificate asks for its first one (identity rule 1).
//!
//! The proof is verified against the EdgeNode's annotation before anything is filed. A stranger learns
//! nothing: an unknown name, a used or expired key and a wrong signature cost the same and are refused with
//! the same words.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use prost::Message as _;
use selvedge_operator::telemetry::chain;
use selvedge_protocol::join::{JoinRequest, JoinResponse};
use selvedge_protocol::proof;
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::csr::{Answer, Filing, file};
use crate::cluster::Cluster;
use crate::hub::Hub;
use crate::index::Index;
use crate::transport::Door;

/// Joins at once: each waits for the API server and for the controller.
const AT_ONCE: usize = 32;
/// A certificate is waited for this long; then the agent asks again.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
pub(super) const SIGNER: &str = "selvedge.dev/agent";
/// One answer to all who have no right to join.
pub(super) const REFUSED: &str =
    "refused: the join command does not open this cluster; make a new one with spec.join.request\n";
/// Verified against when there is no key: takes as long as a real one. It is the join key of a seed of
/// zeros, which the controller never issues; what verifies against it is refused all the same.
const DUMMY_SEED: [u8; proof::JOIN_SEED_LEN] = [0; proof::JOIN_SEED_LEN];

/// Shared by all joins.
#[derive(Debug)]
pub struct Join {
    permits: Semaphore,
    dummy: Vec<u8>,
}

impl Default for Join {
    fn default() -> Self {
        let dummy = proof::join_public_key(&DUMMY_SEED).unwrap_or_default();
        Self { permits: Semaphore::new(AT_ONCE), dummy }
    }
}

/// The annotation `selvedge.dev/join`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct JoinRecord {
    public_key: String,
    expires: Timestamp,
    uid: String,
}

/// What was verified.
struct Verified {
    node: String,
    uid: Arc<str>,
    csr_der: Vec<u8>,
    signature: Vec<u8>,
}

/// The handler.
pub async fn post(State(door): State<Door>, body: Bytes) -> Response {
    let hub = &door.hub;
    let count = |result: &str| hub.metrics.joins.with_label_values(&[result]).inc();
    let Ok(_permit) = door.join.permits.try_acquire() else {
        count("busy");
        return (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "2")], "too many join at once\n")
            .into_response();
    };
    let Ok(request) = JoinRequest::decode(body) else {
        count("malformed");
        return (StatusCode::BAD_REQUEST, "not a JoinRequest\n").into_response();
    };
    let Some(cluster) = hub.cluster.borrow().clone() else {
        count("not_ready");
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "2")], "not ready\n")
            .into_response();
    };
    let verified = {
        let index = hub.index();
        verify(request, &index, &cluster, &door.join.dummy, selvedge_operator::clock::now())
    };
    let Some(verified) = verified else {
        count("refused");
        return (StatusCode::FORBIDDEN, REFUSED).into_response();
    };
    let (node, uid) = (verified.node.clone(), verified.uid.clone());
    match sign(hub, verified).await {
        Ok(Answer::Signed(certificate)) => {
            count("signed");
            tracing::info!(node, "joined");
            issued(certificate, &cluster, &uid)
        }
        Ok(Answer::Refused(message)) => {
            count("denied");
            tracing::warn!(node, message, "the controller denied a join");
            (StatusCode::FORBIDDEN, REFUSED).into_response()
        }
        Ok(Answer::Pending) => {
            count("pending");
            (StatusCode::ACCEPTED, [(header::RETRY_AFTER, "2")], "signed later\n").into_response()
        }
        Err(error) => {
            count("failed");
            tracing::warn!(node, error, "a join failed");
            (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "2")], "the cluster does not answer\n")
                .into_response()
        }
    }
}

/// A certificate on its way to its agent.
pub(super) fn issued(pem: Vec<u8>, cluster: &Cluster, uid: &str) -> Response {
    let (not_before, not_after) = validity(&pem).unwrap_or_default();
    let response = JoinResponse {
        certificate_chain_pem: pem,
        ca_bundle_pem: cluster.ca_pem.clone().into_bytes(),
        node_uid: uid.to_owned(),
        not_before,
        not_after,
    };
    response.encode_to_vec().into_response()
}

/// Of the leaf, Unix seconds.
fn validity(pem: &[u8]) -> Option<(i64, i64)> {
    let (_, leaf) = x509_parser::pem::parse_x509_pem(pem).ok()?;
    let leaf = leaf.parse_x509().ok()?;
    Some((leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp()))
}

/// Who asks with right, if so. The same work is done for all.
fn verify(
    request: JoinRequest,
    index: &Index,
    cluster: &Cluster,
    dummy: &[u8],
    now: Timestamp,
) -> Option<Verified> {
    let found = index.node(&request.node);
    let record = found.and_then(|node| {
        let record: JoinRecord = serde_json::from_str(node.join.as_deref()?).ok()?;
        let live = now < record.expires && *record.uid == *node.uid && !node.denied;
        let key = STANDARD.decode(record.public_key).ok()?;
        (live && request.cluster_id == cluster.id).then_some((node.uid.clone(), key))
    });
    let (uid, key) = match record {
        Some((uid, key)) => (Some(uid), key),
        None => (None, dummy.to_vec()),
    };
    let message = proof::join(&request.cluster_id, &request.node, &request.csr_der);
    let holds = proof::verify_join(&key, &message, &request.signature).is_ok();
    let uid = uid.filter(|_| holds)?;
    Some(Verified { node: request.node, uid, csr_der: request.csr_der, signature: request.signature })
}

async fn sign(hub: &Hub, verified: Verified) -> Result<Answer, String> {
    let client = hub.client.clone().ok_or("this hub has no API server")?;
    let filing = Filing {
        generate_name: format!("selvedge-{}-", verified.node),
        signer: SIGNER,
        usage: "client auth",
        annotations: BTreeMap::from([
            ("selvedge.dev/node".to_owned(), verified.node),
            ("selvedge.dev/node-uid".to_owned(), verified.uid.to_string()),
            ("selvedge.dev/join-proof".to_owned(), STANDARD.encode(verified.signature)),
        ]),
        request: verified.csr_der,
    };
    file(client, filing, PATIENCE).await.map_err(|error| chain(&error))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::index::{Event, Resource};

    const SEED: [u8; 32] = [7; 32];

    fn index(expires: &str, denied: bool) -> Index {
        let key = STANDARD.encode(proof::join_public_key(&SEED).unwrap());
        let record = json!({"publicKey": key, "expires": expires, "uid": "u1", "request": ""}).to_string();
        let mut index = Index::default();
        index.apply(Event::Applied(
            Resource::EdgeNodes,
            json!({"metadata": {"name": "shop", "uid": "u1", "resourceVersion": "1",
                "annotations": {"selvedge.dev/join": record}}, "spec": {"denied": denied}}),
        ));
        index
    }

    fn request(node: &str, seed: &[u8]) -> JoinRequest {
        let message = proof::join("c", node, b"csr");
        JoinRequest {
            cluster_id: "c".into(),
            node: node.into(),
            csr_der: b"csr".to_vec(),
            signature: proof::sign_join(seed, &message).unwrap(),
        }
    }

    fn opens(index: &Index, request: JoinRequest) -> bool {
        let cluster = Cluster { id: "c".into(), epoch: 0, ca_pem: String::new(), release: String::new() };
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let dummy = Join::default().dummy;
        verify(request, index, &cluster, &dummy, now).is_some()
    }

    #[test]
    fn only_the_live_key_of_the_named_node_opens() {
        let live = index("2026-01-01T01:00:00Z", false);
        assert!(opens(&live, request("shop", &SEED)));
        assert!(!opens(&live, request("shop", &[8; 32])), "another key");
        assert!(!opens(&live, request("other", &SEED)), "a node that is not there");
        assert!(!opens(&live, request("other", &DUMMY_SEED)), "the dummy key");
        assert!(
            !opens(&live, JoinRequest { csr_der: b"csq".to_vec(), ..request("shop", &SEED) }),
            "another CSR"
        );
        assert!(
            !opens(&live, JoinRequest { cluster_id: "d".into(), ..request("shop", &SEED) }),
            "another cluster"
        );
        assert!(!opens(&index("2025-12-31T23:59:59Z", false), request("shop", &SEED)), "expired");
        assert!(!opens(&index("2026-01-01T01:00:00Z", true), request("shop", &SEED)), "denied");
    }
}
