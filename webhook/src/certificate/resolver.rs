//! Hands the newest certificate to each new connection.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::ring::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// The present certificate; none before the first, and then handshakes fail.
#[derive(Debug, Default)]
pub struct Resolver(RwLock<Option<Arc<CertifiedKey>>>);

/// Certificate and key cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    /// Not PEM.
    #[error("certificate or key is not PEM")]
    Pem(#[from] rustls_pki_types::pem::Error),
    /// Not a key that rustls knows.
    #[error("the key cannot sign")]
    Key(#[from] rustls::Error),
}

impl Resolver {
    /// Serves this certificate from now on.
    ///
    /// # Errors
    /// [`ResolverError`]; what was served stays.
    pub(super) fn set(&self, certificate: &str, key: &str) -> Result<(), ResolverError> {
        let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        let key = any_supported_type(&PrivateKeyDer::from_pem_slice(key.as_bytes())?)?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match()?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(certified));
        Ok(())
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
