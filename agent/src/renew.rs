//! Renewal: a new key and a new certificate well before the old one ends, and also after (identity rule 6).
//!
//! In: the identity and the time. Out: the next identity in the state directory, which the link is told to dial with.
//! Whatever comes of it, containers and devices run on.

use std::{path::PathBuf, sync::Arc, time::Duration};

use rcgen::SigningKey as _;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use selvedge_protocol::{RENEW_PATH, encode, join::RenewRequest, proof};
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::{Backoff, directed},
    chain::chain,
    clock::Latest,
    dial::{Endpoint, EndpointError, Tls, TlsError},
    identity::{self, Identity, IdentityError},
    join::{
        ask::{Tried, TryError, ask, csr},
        hex,
    },
};

/// The clock may be set, and a node may be asleep: it is looked at again at least so often.
const LOOK: Duration = Duration::from_secs(3600);
/// A certificate has a third of its life left, so nothing is urgent; one that has ended keeps the node out.
const FIRST_RETRY: Duration = Duration::from_secs(2);
const SLOWEST_RETRY: Duration = Duration::from_secs(900);
/// A hub that says no will say so again, until somebody does something.
const REFUSED_RETRY: Duration = Duration::from_secs(3600);
/// After a renewal, whatever the next certificate says of its end.
const RENEWED: Duration = Duration::from_secs(10);
/// What a hub may ask us to wait at most.
const LONGEST_DIRECTED: Duration = Duration::from_secs(6 * 3600);
/// A fleet whose certificates were made together does not ask together: over this part of a life.
const SPREAD: f64 = 0.1;
/// An identity that does not say when it ends is renewed to find out, within this: a fleet that was upgraded.
const UNKNOWN_SPREAD: Duration = Duration::from_secs(3600);

/// Renews the identity of one state directory.
pub struct Renewal {
    /// Where the identity is.
    pub state_dir: PathBuf,
    /// Hubs to ask instead of those of the identity; empty: those.
    pub hubs: Vec<String>,
    /// The time, as far as it is known.
    pub latest: watch::Receiver<Latest>,
    /// Told when there is a new identity.
    pub renewed: Arc<Notify>,
    /// The EdgeNode of our name is another one: it may take us in (identity rule 9).
    pub replaced: Arc<Notify>,
}

/// Why a try came to nothing.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the certificate request cannot be made")]
    Request(#[from] rcgen::Error),
    #[error("the node's own certificate cannot be read; join again with a new join command")]
    Certificate,
    #[error("the identity names no hub")]
    NoHub,
    #[error(
        "the hub refused to renew the certificate of node {node}: it was renewed by another machine, or ended too \
         long ago. See the Events of the EdgeNode; for a new join command: kubectl patch edgenode {node} \
         --type merge -p '{{\"spec\":{{\"join\":{{\"request\":\"again-1\"}}}}}}' (any new text)"
    )]
    Refused { node: String },
    #[error(transparent)]
    Try(TryError),
}

impl Renewal {
    /// Renews whenever it is time, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(Box::pin(self.renew())).await;
    }

    async fn renew(self) {
        let mut backoff = Backoff::new(FIRST_RETRY, SLOWEST_RETRY);
        let jitter: f64 = rand::random();
        let began = self.latest.borrow().now();
        let mut replaced = false;
        loop {
            let (wait, asked) = match Identity::load(&self.state_dir) {
                Ok(identity) => {
                    let now = self.latest.borrow().now();
                    let left = due(&identity, began, jitter).checked_sub(now).filter(|left| *left > 0);
                    match left.filter(|_| !replaced) {
                        Some(left) => (LOOK.min(Duration::from_secs(left)), false),
                        None => (self.look(&identity, &mut backoff).await, true),
                    }
                }
                // The link says so at every dial.
                Err(_) => (LOOK, false),
            };
            // Who has just asked waits as it was told, whatever else is heard meanwhile.
            replaced = if asked {
                sleep(wait).await;
                false
            } else {
                timeout(wait, self.replaced.notified()).await.is_ok()
            };
        }
    }

    /// One round over the hubs; gives how long to wait for the next look.
    async fn look(&self, identity: &Identity, backoff: &mut Backoff) -> Duration {
        let (error, after) = match self.ask_all(identity).await {
            Ok(next) => {
                backoff.reset();
                tracing::info!(node = next.node, not_after = next.not_after, "renewed the certificate");
                // What was heard of the one before it is over.
                let _ = timeout(Duration::ZERO, self.replaced.notified()).await;
                self.renewed.notify_one();
                return RENEWED;
            }
            Err(refused) => refused,
        };
        let wait = match (&error, after) {
            (_, Some(after)) => directed(after.min(LONGEST_DIRECTED), rand::random()),
            (RenewError::Refused { .. }, None) => directed(REFUSED_RETRY, rand::random()),
            _ => backoff.next(rand::random()),
        };
        let ended = identity.not_after > 0 && identity.not_after <= self.latest.borrow().now();
        let (reason, next_try_s) = (chain(&error), wait.as_secs());
        tracing::warn!(reason, ended, next_try_s, "the certificate is not renewed yet");
        wait
    }

    async fn ask_all(&self, identity: &Identity) -> Result<Identity, (RenewError, Option<Duration>)> {
        let fail = |error: RenewError| (error, None);
        let key = identity::next_key(&self.state_dir).map_err(|error| fail(error.into()))?;
        let request = self.request(identity, &key).map_err(fail)?;
        let latest = self.latest.borrow().now();
        let tls = Tls::trusting(identity, latest).map_err(|error| fail(error.into()))?;
        let hubs = if self.hubs.is_empty() { &identity.hub } else { &self.hubs };
        let mut last = fail(RenewError::NoHub);
        for hub in hubs {
            let hub: Endpoint = match hub.parse() {
                Ok(hub) => hub,
                Err(error) => {
                    last = fail(EndpointError::into(error));
                    continue;
                }
            };
            match ask(&hub, &tls, RENEW_PATH, &request).await {
                Tried::Joined(response) => {
                    let next = identity.clone().certified(response);
                    // What cannot be used must not take the place of what can.
                    Tls::mutual(&next, &key, latest).map_err(|error| fail(error.into()))?;
                    next.replace(&self.state_dir).map_err(|error| fail(error.into()))?;
                    return Ok(next);
                }
                Tried::Refused => last = fail(RenewError::Refused { node: identity.node.clone() }),
                Tried::Again { error, after } => last = (RenewError::Try(error), after),
            }
        }
        Err(last)
    }

    /// Signed by the old key: whoever has the new one had that, too.
    fn request(&self, identity: &Identity, next: &rcgen::KeyPair) -> Result<bytes::Bytes, RenewError> {
        let old = CertificateDer::from_pem_slice(identity.certificate_chain.as_bytes())
            .map_err(|_| RenewError::Certificate)?;
        let serial = webpki::EndEntityCert::try_from(&old).map_err(|_| RenewError::Certificate)?;
        let (serial, csr_der) = (hex(serial.serial()), csr(&identity.node, next)?);
        let message = proof::renew(&identity.cluster, &identity.node, &identity.node_uid, &serial, &csr_der);
        Ok(encode(&RenewRequest {
            cluster_id: identity.cluster.clone(),
            node: identity.node.clone(),
            old_certificate_der: old.to_vec(),
            csr_der,
            signature: identity::key(&self.state_dir)?.sign(&message)?,
        }))
    }
}

/// When to renew, Unix seconds: after two thirds of the certificate's life, and a little. Of an identity that does not
/// say: within an hour of `began`.
fn due(identity: &Identity, began: u64, jitter: f64) -> u64 {
    if identity.not_after == 0 {
        return began + UNKNOWN_SPREAD.mul_f64(jitter).as_secs();
    }
    let life = Duration::from_secs(identity.not_after.saturating_sub(identity.not_before));
    identity.not_before + (life * 2 / 3 + life.mul_f64(SPREAD * jitter)).as_secs()
}

#[cfg(test)]
mod tests;
