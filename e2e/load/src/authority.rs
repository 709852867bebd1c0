//! An own certificate authority: client certificates for simulated agents without a join, for fleets that
//! are too large to join one by one.
//!
//! In: the cluster's CA by value. Out: identities as the EdgeNode controller would have issued them: CN is
//! the node, the subject's serialNumber the uid of its EdgeNode (identity rule 5). The controller has no
//! record of them, so they cannot be renewed and no renewal of theirs is believed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use selvedge_agent::identity::Identity;

use crate::clock;

/// Long enough for any run, short enough to be harmless when the file is forgotten somewhere.
const LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Clocks differ (identity rule 10).
const BACKDATE: Duration = Duration::from_secs(600);
/// Attribute serialNumber of a subject (X.520).
const SUBJECT_SERIAL_NUMBER: &[u64] = &[2, 5, 4, 5];

/// The CA cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file cannot be read.
    #[error("cannot read {path}, which --ca-cert or --ca-key names")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// rcgen refuses.
    #[error("cannot {doing} with the CA of --ca-cert and --ca-key")]
    Certificate {
        /// What was tried.
        doing: &'static str,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
}

/// See the module.
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Reads certificate and key.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, AuthorityError> {
        let text = |path: &Path| {
            std::fs::read_to_string(path)
                .map_err(|source| AuthorityError::Read { path: path.to_owned(), source })
        };
        Self::of(text(certificate)?, &text(key)?)
    }

    /// From PEM texts.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn of(pem: String, key_pem: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key_pem).map_err(failed("read the key"))?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(failed("read the certificate"))?;
        Ok(Self { pem, issuer })
    }

    /// An identity of `node`, whose EdgeNode has `uid`.
    ///
    /// # Errors
    /// [`AuthorityError::Certificate`].
    pub fn issue(
        &self,
        cluster: &str,
        node: &str,
        uid: &str,
        key: &KeyPair,
    ) -> Result<Identity, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, node);
        params.distinguished_name.push(DnType::from_oid(SUBJECT_SERIAL_NUMBER), uid);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let now = Duration::from_millis(u64::try_from(clock::unix_ms()).unwrap_or(0));
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch + now.saturating_sub(BACKDATE);
        params.not_after = epoch + now + LIFE;
        let certificate = params.signed_by(key, &self.issuer).map_err(failed("sign a client certificate"))?;
        Ok(Identity {
            cluster: cluster.to_owned(),
            node: node.to_owned(),
            node_uid: uid.to_owned(),
            hub: Vec::new(),
            certificate_chain: certificate.pem(),
            ca_bundle: self.pem.clone(),
            joined_with: String::new(),
            not_before: 0,
            not_after: 0,
        })
    }
}

/// A key as agents have them.
///
/// # Errors
/// [`AuthorityError::Certificate`] when there is no randomness.
pub fn new_key() -> Result<KeyPair, AuthorityError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed("make a key"))
}

fn failed(doing: &'static str) -> impl FnOnce(rcgen::Error) -> AuthorityError {
    move |source| AuthorityError::Certificate { doing, source }
}
