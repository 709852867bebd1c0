//! `POST /v1/renew`: an agent asks for its next certificate, with the one that it has and a signature by that one's key
//! (identity rule 6).
//!
//! No client certificate is shown to TLS: one that has ended proves who asks all the same. All is verified before
//! anything is filed, and few are filed in a second, whatever a fleet or a stranger sends: the certificates of 10,000
//! nodes that were made together end together.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message as _;
use rand::RngExt as _;
use rustls_pki_types::{CertificateDer, UnixTime};
use selvedge_operator::telemetry::chain;
use selvedge_protocol::join::RenewRequest;
use selvedge_protocol::proof;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::csr::{Answer, Filing, file};
use super::join::{PATIENCE, REFUSED, SIGNER, issued};
use crate::clock;
use crate::cluster::Cluster;
use crate::hub::Hub;
use crate::index::{Index, Node};
use crate::transport::{Door, identity, tls};

/// Renewals that are filed at once, and how long it takes until one more may be: seven writes each, so that two replicas
/// stay below 20 a second.
const AT_ONCE: f64 = 20.0;
const ONE_MORE: Duration = Duration::from_millis(800);
/// Whoever comes too early is sent away for about so long, in seconds: there is a third of a life left.
const LATER_S: std::ops::Range<u64> = 10..120;

/// Shared by all renewals: paces what is filed.
#[derive(Debug)]
pub struct Renewals {
    tokens: Mutex<(f64, Instant)>,
}

impl Default for Renewals {
    fn default() -> Self {
        Self { tokens: Mutex::new((AT_ONCE, clock::now())) }
    }
}

impl Renewals {
    fn admit(&self, now: Instant) -> bool {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let gained = now.saturating_duration_since(tokens.1).as_secs_f64() / ONE_MORE.as_secs_f64();
        *tokens = ((tokens.0 + gained).min(AT_ONCE), now);
        let admitted = tokens.0 >= 1.0;
        if admitted {
            tokens.0 -= 1.0;
        }
        admitted
    }
}

/// Why nothing is filed.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// None of this cluster, not proved, of a node that is denied, or ended too long ago.
    Refused,
    /// Renewed already: somebody has a copy.
    Outdated(identity::Peer),
    /// The EdgeNode is not known here yet.
    Later,
}

/// What was verified.
#[derive(Debug)]
struct Verified {
    peer: identity::Peer,
    /// Uid of the EdgeNode that the next certificate is for.
    uid: Arc<str>,
    request: RenewRequest,
}

/// The handler.
pub async fn post(State(door): State<Door>, body: Bytes) -> Response {
    let hub = &door.hub;
    let count = |result: &str| hub.metrics.renewals.with_label_values(&[result]).inc();
    let later = |result: &str, status: StatusCode, seconds: u64, text: &'static str| {
        count(result);
        (status, [(header::RETRY_AFTER, seconds.to_string())], text).into_response()
    };
    let Ok(request) = RenewRequest::decode(body) else {
        count("malformed");
        return (StatusCode::BAD_REQUEST, "not a RenewRequest\n").into_response();
    };
    let Some(cluster) = hub.cluster.borrow().clone() else {
        return later("not_ready", StatusCode::SERVICE_UNAVAILABLE, 2, "not ready\n");
    };
    let now = selvedge_operator::clock::now().as_second();
    let verified = verify(request, &hub.index(), &cluster, now);
    let verified = match verified {
        Ok(verified) => verified,
        Err(Refusal::Later) => {
            return later("unknown", StatusCode::SERVICE_UNAVAILABLE, 5, "not known here yet\n");
        }
        Err(Refusal::Refused) => {
            count("refused");
            return (StatusCode::FORBIDDEN, REFUSED).into_response();
        }
        Err(Refusal::Outdated(peer)) => {
            count("outdated");
            hub.notices.outdated(&peer.node, &peer.uid, &peer.serial, clock::now());
            return (StatusCode::FORBIDDEN, REFUSED).into_response();
        }
    };
    if !door.renewals.admit(clock::now()) {
        let seconds = rand::rng().random_range(LATER_S);
        return later("busy", StatusCode::TOO_MANY_REQUESTS, seconds, "too many renew at once\n");
    }
    let (node, uid) = (verified.peer.node.clone(), verified.uid.clone());
    match sign(hub, verified).await {
        Ok(Answer::Signed(certificate)) => {
            count("signed");
            tracing::info!(%node, "renewed");
            issued(certificate, &cluster, &uid)
        }
        Ok(Answer::Refused(message)) => {
            count("denied");
            tracing::warn!(%node, message, "the controller denied a renewal");
            (StatusCode::FORBIDDEN, REFUSED).into_response()
        }
        Ok(Answer::Pending) => later("pending", StatusCode::ACCEPTED, 2, "signed later\n"),
        Err(error) => {
            tracing::warn!(%node, error, "a renewal failed");
            later("failed", StatusCode::SERVICE_UNAVAILABLE, 5, "the cluster does not answer\n")
        }
    }
}

/// Who asks with right, if so. The certificate is judged at its end when that has passed.
fn verify(request: RenewRequest, index: &Index, cluster: &Cluster, now: i64) -> Result<Verified, Refusal> {
    let der = CertificateDer::from(request.old_certificate_der.as_slice());
    let peer = identity::read(&der).map_err(|_| Refusal::Refused)?;
    if request.cluster_id != cluster.id || *request.node != *peer.node {
        return Err(Refusal::Refused);
    }
    let seconds = u64::try_from(now.min(peer.not_after)).map_err(|_| Refusal::Refused)?;
    let at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let clients = tls::clients(&cluster.ca_pem).map_err(|_| Refusal::Later)?;
    clients.verify_client_cert(&der, &[], at).map_err(|_| Refusal::Refused)?;
    let (_, certificate) = X509Certificate::from_der(&der).map_err(|_| Refusal::Refused)?;
    let key = &certificate.public_key().subject_public_key.data;
    let message = proof::renew(&cluster.id, &peer.node, &peer.uid, &peer.serial, &request.csr_der);
    proof::verify_renewal(key, &message, &request.signature).map_err(|_| Refusal::Refused)?;
    let rejoin = i64::try_from(proof::REJOIN.as_secs()).unwrap_or(i64::MAX);
    if peer.not_after.saturating_add(rejoin) <= now {
        return Err(Refusal::Refused);
    }
    // Whoever comes so far has a certificate of ours: it may be told what a stranger is not.
    let is_its = |node: &&Node| node.uid == peer.uid || node.adopts;
    let node = index.node(&peer.node).filter(is_its).ok_or(Refusal::Later)?;
    if node.denied {
        return Err(Refusal::Refused);
    }
    let uid = node.uid.clone();
    if uid == peer.uid && node.is_outdated(&peer.serial, peer.not_after) {
        return Err(Refusal::Outdated(peer));
    }
    Ok(Verified { peer, uid, request })
}

async fn sign(hub: &Hub, verified: Verified) -> Result<Answer, String> {
    let client = hub.client.clone().ok_or("this hub has no API server")?;
    let Verified { peer, uid, request } = verified;
    let filing = Filing {
        generate_name: format!("selvedge-{}-", peer.node),
        signer: SIGNER,
        usage: "client auth",
        annotations: BTreeMap::from([
            ("selvedge.dev/node".to_owned(), peer.node.to_string()),
            ("selvedge.dev/node-uid".to_owned(), uid.to_string()),
            ("selvedge.dev/old-certificate".to_owned(), STANDARD.encode(request.old_certificate_der)),
            ("selvedge.dev/renewal-proof".to_owned(), STANDARD.encode(request.signature)),
        ]),
        request: request.csr_der,
    };
    file(client, filing, PATIENCE).await.map_err(|error| chain(&error))
}

#[cfg(test)]
mod tests;
