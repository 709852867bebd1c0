//! TLS to the hub: 1.3 only, no early data, the server always verified (identity rules 1, 5 and 10).
//!
//! Two ways to trust: by the pin of a join token, before anything is known; by the CA bundle of the
//! identity ever after.

use std::{sync::Arc, time::Duration};

use ring::digest::{SHA256, digest};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::ParsedCertificate,
    version::TLS13,
};

use crate::{clock, identity::Identity};

/// Why no TLS configuration can be made from an identity.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The identity's PEM holds no usable certificate or key.
    #[error("the identity's {part} cannot be used; join again with a new join command")]
    Identity {
        /// Which part.
        part: &'static str,
        /// What is wrong with it.
        #[source]
        source: rustls::Error,
    },
    /// The TLS library refuses what every build offers.
    #[error("TLS 1.3 cannot be set up")]
    Setup(#[from] rustls::Error),
}

/// How a hub's certificate is judged, at a time that never goes back.
#[derive(Debug)]
struct HubVerifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
    /// Time known to have passed, Unix seconds.
    latest: u64,
}

#[derive(Debug)]
enum Trust {
    /// SHA-256 of the SubjectPublicKeyInfo of a CA certificate that the hub must send along.
    Pin([u8; 32]),
    Roots(Arc<WebPkiServerVerifier>),
}

impl HubVerifier {
    fn verify_at(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        time: Duration,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned;
        let verifier = match &self.trust {
            Trust::Roots(verifier) => verifier,
            Trust::Pin(pin) => {
                pinned = self.pinned_root(pin, chain)?;
                &pinned
            }
        };
        verifier.verify_server_cert(leaf, chain, name, &[], UnixTime::since_unix_epoch(time))
    }

    fn pinned_root(
        &self,
        pin: &[u8; 32],
        chain: &[CertificateDer<'_>],
    ) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
        let is_pinned = |certificate: &&CertificateDer<'_>| {
            ParsedCertificate::try_from(*certificate)
                .is_ok_and(|parsed| digest(&SHA256, &parsed.subject_public_key_info()).as_ref() == pin)
        };
        let root = chain.iter().find(is_pinned).ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        verifier(roots, &self.provider)
    }
}

fn verifier(
    roots: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
    WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(provider))
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))
}

impl ServerCertVerifier for HubVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify_at(leaf, chain, name, clock::judging(self.latest))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, leaf, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// TLS as one side of a dial needs it.
#[derive(Clone, Debug)]
pub struct Tls {
    /// For the connector.
    pub config: Arc<ClientConfig>,
    verifier: Arc<HubVerifier>,
}

impl Tls {
    /// For a join: trusts a chain iff it brings the CA certificate that `pin` names, and says nothing of
    /// who we are.
    ///
    /// # Errors
    /// [`TlsError::Setup`].
    pub fn pinned(pin: [u8; 32]) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(HubVerifier { trust: Trust::Pin(pin), provider, latest: 0 });
        let config = builder(&verifier)?.with_no_client_auth();
        Ok(Self::new(config, verifier))
    }

    /// For a renewal: trusts the identity's CA bundle, and shows nothing, because a certificate that has expired would
    /// end the handshake.
    ///
    /// # Errors
    /// [`TlsError`] when the identity holds no usable CA certificate.
    pub fn trusting(identity: &Identity, latest: u64) -> Result<Self, TlsError> {
        let verifier = Self::verifier(identity, latest)?;
        let config = builder(&verifier)?.with_no_client_auth();
        Ok(Self::new(config, verifier))
    }

    /// For sessions: trusts the identity's CA bundle, and shows its certificate. `latest` is the time
    /// that the ledger knows to have passed, Unix seconds.
    ///
    /// # Errors
    /// [`TlsError`] when the identity holds no usable certificates.
    pub fn mutual(identity: &Identity, key: &rcgen::KeyPair, latest: u64) -> Result<Self, TlsError> {
        let verifier = Self::verifier(identity, latest)?;
        let chain = certificates(&identity.certificate_chain, "certificate")?;
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = builder(&verifier)?
            .with_client_auth_cert(chain, key)
            .map_err(|source| TlsError::Identity { part: "certificate and key", source })?;
        Ok(Self::new(config, verifier))
    }

    fn verifier(identity: &Identity, latest: u64) -> Result<Arc<HubVerifier>, TlsError> {
        let fault = |source| TlsError::Identity { part: "CA bundle", source };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for root in certificates(&identity.ca_bundle, "CA bundle")? {
            roots.add(root).map_err(fault)?;
        }
        let verifier = verifier(roots, &provider).map_err(fault)?;
        Ok(Arc::new(HubVerifier { trust: Trust::Roots(verifier), provider, latest }))
    }

    fn new(mut config: ClientConfig, verifier: Arc<HubVerifier>) -> Self {
        // A session lives for days: tickets would cost memory on both sides and save nothing.
        config.resumption = Resumption::disabled();
        Self { config: config.into(), verifier }
    }

    /// Whether the hub's certificate is valid at `unix` seconds too: a time that a hub tells is believed
    /// only within the validity of that hub's own certificate (identity rule 10).
    #[must_use]
    pub fn valid_at(&self, chain: &[CertificateDer<'_>], name: &ServerName<'_>, unix: u64) -> bool {
        chain.split_first().is_some_and(|(leaf, rest)| {
            self.verifier.verify_at(leaf, rest, name, Duration::from_secs(unix)).is_ok()
        })
    }
}

fn builder(
    verifier: &Arc<HubVerifier>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, TlsError> {
    let verifier: Arc<HubVerifier> = Arc::clone(verifier);
    Ok(ClientConfig::builder_with_provider(Arc::clone(&verifier.provider))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier))
}

fn certificates(pem: &str, part: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fault = |text: String| TlsError::Identity { part, source: rustls::Error::General(text) };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| fault(error.to_string()))?;
    if certificates.is_empty() { Err(fault("it holds no certificate".into())) } else { Ok(certificates) }
}
