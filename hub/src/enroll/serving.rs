//! The hub's own serving certificate: asked for at the start, renewed at two thirds of its life, its key in
//! memory alone (identity rule 2).

use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use selvedge_operator::BoxError;
use selvedge_operator::admin::Gate;
use selvedge_operator::backoff::Backoff;
use selvedge_operator::telemetry::chain;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::csr::{Answer, Filing, FilingError, file};
use crate::cluster::Cluster;
use crate::transport::tls::{Serving, Tls, TlsError};

const SIGNER: &str = "selvedge.dev/hub";
/// A certificate is waited for this long, then asked for anew.
const PATIENCE: Duration = Duration::from_secs(60);

/// No certificate this time.
#[derive(Debug, thiserror::Error)]
enum ServingError {
    #[error("cannot make a key and a request")]
    Request(#[source] rcgen::Error),
    #[error(transparent)]
    Filing(#[from] FilingError),
    #[error("the request for the hub's certificate was refused: {0}")]
    Refused(String),
    #[error("the request for the hub's certificate was not signed in {} s: is the edgenode-controller up?", PATIENCE.as_secs())]
    Pending,
    #[error("the certificate that was issued cannot be read")]
    Malformed,
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Keeps `tls` in a valid certificate and the present CA. `gate` opens with the first.
///
/// # Errors
/// Never; what fails is tried again.
pub async fn keep(
    client: kube::Client,
    mut cluster: watch::Receiver<Option<Arc<Cluster>>>,
    tls: Arc<Tls>,
    gate: Gate,
    token: CancellationToken,
) -> Result<(), BoxError> {
    let mut backoff = Backoff::of_loops();
    loop {
        let Some(known) = cluster.borrow_and_update().clone() else {
            tokio::select! {
                changed = cluster.changed() => changed?,
                () = token.cancelled() => return Ok(()),
            }
            continue;
        };
        let asked = tokio::select! {
            asked = renew(client.clone(), &known, &tls) => asked,
            () = token.cancelled() => return Ok(()),
        };
        let wait = match asked {
            Ok(left) => {
                backoff.succeeded();
                gate.ready();
                left * 2 / 3
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "no serving certificate; it is tried again");
                backoff.failed()
            }
        };
        tokio::select! {
            () = sleep(wait) => {}
            changed = cluster.changed() => changed?,
            () = token.cancelled() => return Ok(()),
        }
    }
}

/// Asks for a certificate and serves with it; gives how long it is valid.
async fn renew(client: kube::Client, cluster: &Cluster, tls: &Tls) -> Result<Duration, ServingError> {
    let key = KeyPair::generate().map_err(ServingError::Request)?;
    // Names come from the chart, by the signer; what stands here is not read.
    let request = CertificateParams::default().serialize_request(&key).map_err(ServingError::Request)?;
    let filing = Filing {
        generate_name: "selvedge-hub-".into(),
        signer: SIGNER,
        usage: "server auth",
        annotations: std::collections::BTreeMap::new(),
        request: request.der().to_vec(),
    };
    let certificate = match file(client, filing, PATIENCE).await? {
        Answer::Signed(certificate) => certificate,
        Answer::Refused(message) => return Err(ServingError::Refused(message)),
        Answer::Pending => return Err(ServingError::Pending),
    };
    let bundle = [certificate.as_slice(), b"\n", cluster.ca_pem.as_bytes()].concat();
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bundle).collect();
    let chain = chain.map_err(|_| ServingError::Malformed)?;
    let (_, leaf) =
        chain.first().and_then(|leaf| X509Certificate::from_der(leaf).ok()).ok_or(ServingError::Malformed)?;
    let not_after = leaf.validity().not_after.timestamp();
    let left = not_after.saturating_sub(selvedge_operator::clock::now().as_second());
    let left = Duration::from_secs(u64::try_from(left).map_err(|_| ServingError::Malformed)?);
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    tls.replace(Serving { chain, key }, &cluster.ca_pem)?;
    tracing::info!(valid_for_s = left.as_secs(), "serving certificate");
    Ok(left)
}
