//! TLS 1.3 with the hub's certificate and the cluster's CA, each replaced while the hub runs.
//!
//! A client certificate is not asked for by the handshake of a join, but one that is shown must be good; who
//! needs one is the routes' matter.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// The hub's own certificate.
#[derive(Debug)]
pub struct Serving {
    /// Leaf first, then the CA.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

/// No configuration can be made of what was given.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Of the CA bundle.
    #[error("the CA bundle holds no usable certificate")]
    Ca,
    /// Of certificate and key.
    #[error("certificate and key do not make a TLS server")]
    Server(#[source] rustls::Error),
    /// Of the verifier of clients.
    #[error("the CA bundle does not make a verifier of clients")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Tls(RwLock<Option<Arc<ServerConfig>>>);

impl Tls {
    /// For the next connection; none before the first certificate.
    #[must_use]
    pub fn acceptor(&self) -> Option<TlsAcceptor> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone().map(TlsAcceptor::from)
    }

    /// New connections are served with these; those that live go on.
    ///
    /// # Errors
    /// [`TlsError`]; what was there stays.
    pub fn replace(&self, serving: Serving, ca_pem: &str) -> Result<(), TlsError> {
        let (provider, verifier) = (provider(), clients(ca_pem)?);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::Server)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(serving.chain, serving.key)
            .map_err(TlsError::Server)?;
        // No tickets: a resumed session would outlive the certificate that it began with.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(config));
        Ok(())
    }
}

/// Verifies certificates of agents. One that is shown must be good; who needs one is the routes' matter.
///
/// # Errors
/// [`TlsError`] for a bundle that is of no use.
pub fn clients(ca_pem: &str) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca_pem)?), provider())
        .allow_unauthenticated()
        // An agent has one certificate, so names of CAs would only be bytes.
        .clear_root_hint_subjects()
        .build()
        .map_err(TlsError::Verifier)
}

/// The one provider of cryptography in this room.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The CA certificates of a bundle.
///
/// # Errors
/// [`TlsError::Ca`] when there is none, or one that cannot be read.
pub fn roots(ca_pem: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(certificate.map_err(|_| TlsError::Ca)?).map_err(|_| TlsError::Ca)?;
    }
    if roots.is_empty() { Err(TlsError::Ca) } else { Ok(roots) }
}
