//! The certificate authority of the installation: made once, kept in a Secret that only the EdgeNode
//! controller reads (identity rules 1, 2 and 9).
//!
//! In: time, randomness and public keys. Out: certificates from our own templates; nothing of a request
//! but its public key ever gets into one.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use ring::digest::{SHA256, digest};
use x509_parser::oid_registry::{OID_X509_COMMON_NAME, OID_X509_SERIALNUMBER};

use super::record::CertificateRecord;

/// The root lives for ten years: longer than any edge box is expected to stay without a visit, and it can
/// be rotated before.
const ROOT_LIFE: Duration = Duration::from_secs(3652 * 24 * 3600);
/// How long an agent's certificate lives when nobody says otherwise (identity rule 6).
pub const AGENT_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// A hub's certificate: short, because hubs are always there to renew it.
const HUB_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// The controller's own, held in memory only and made again long before it ends.
const CONTROLLER_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Certificates are back-dated by this much, for clocks that are late (identity rule 10).
const BACKDATE: Duration = Duration::from_secs(10 * 60);
/// Attribute serialNumber of a subject (X.520): carries the EdgeNode's uid.
const SUBJECT_SERIAL_NUMBER: &[u64] = &[2, 5, 4, 5];

/// The authority cannot be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// rcgen refuses.
    #[error("cannot {doing}")]
    Certificate {
        /// What was tried.
        doing: &'static str,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// The PEM text of the CA is not a certificate.
    #[error("tls.crt of the CA Secret is not a certificate in PEM: restore the Secret from a backup")]
    Pem,
    /// A name that a hub is to bear is neither a DNS name nor an address.
    #[error("{name:?} is neither a DNS name nor an IP address: correct --hub-name")]
    Name {
        /// As given.
        name: String,
    },
}

/// Root certificate, its key and the id of the cluster that they were made for.
pub struct Authority {
    /// Random, made with the first CA and kept through rotations.
    pub cluster_id: String,
    /// The root, PEM.
    pub certificate_pem: String,
    /// Lower-case hex SHA-256 of the root's SubjectPublicKeyInfo: the pin of join tokens.
    pub pin: String,
    /// How long agents' certificates live.
    pub agent_life: Duration,
    issuer: Issuer<'static, KeyPair>,
}

/// What the CA Secret holds.
pub struct AuthorityFiles {
    /// `cluster-id`.
    pub cluster_id: String,
    /// `tls.crt`.
    pub certificate_pem: String,
    /// `tls.key`. Secret.
    pub key_pem: String,
}

/// A certificate, signed.
#[derive(Debug)]
pub struct Issued {
    /// The leaf, PEM.
    pub pem: String,
}

/// An agent's certificate, read.
#[derive(Debug)]
pub struct AgentCertificate {
    /// Name of the node: CN.
    pub node: String,
    /// Uid of its EdgeNode: the subject's serialNumber.
    pub uid: String,
    /// Its key: the bits of the SubjectPublicKeyInfo.
    pub public_key: Vec<u8>,
    /// As it is recorded.
    pub record: CertificateRecord,
}

impl AuthorityFiles {
    /// A new root for a new cluster id.
    ///
    /// # Errors
    /// [`AuthorityError::Certificate`] when there is no randomness.
    pub fn make(cluster_id: [u8; 16], now: Timestamp) -> Result<Self, AuthorityError> {
        let cluster_id = hex(&cluster_id);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed("make a CA key"))?;
        let mut params = template(now, ROOT_LIFE, &format!("Selvedge CA {cluster_id}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(failed("sign the CA certificate"))?;
        Ok(Self { cluster_id, certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

impl Authority {
    /// Reads the files of the CA Secret.
    ///
    /// # Errors
    /// [`AuthorityError`] when they are damaged.
    pub fn load(files: AuthorityFiles, agent_life: Duration) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(&files.key_pem).map_err(failed("read tls.key of the CA Secret"))?;
        let issuer = Issuer::from_ca_cert_pem(&files.certificate_pem, key)
            .map_err(failed("read tls.crt of the CA Secret"))?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(files.certificate_pem.as_bytes())
            .map_err(|_| AuthorityError::Pem)?;
        let pin = fingerprint(pem.parse_x509().map_err(|_| AuthorityError::Pem)?.public_key().raw);
        let AuthorityFiles { cluster_id, certificate_pem, .. } = files;
        Ok(Self { cluster_id, certificate_pem, pin, agent_life, issuer })
    }

    /// When a certificate for an agent that is issued now ends.
    #[must_use]
    pub fn agent_not_after(&self, now: Timestamp) -> Timestamp {
        now + self.agent_life
    }

    /// An agent's certificate: CN = node, subject serialNumber = uid of the EdgeNode, clientAuth, no SANs.
    /// The same arguments make the same certificate, so that issuing again after a crash is harmless.
    ///
    /// # Errors
    /// [`AuthorityError::Certificate`].
    pub fn issue_agent(
        &self,
        node: &str,
        uid: &str,
        serial: &[u8],
        not_after: Timestamp,
        key: &impl PublicKeyData,
    ) -> Result<Issued, AuthorityError> {
        let mut params = template(not_after - self.agent_life, self.agent_life, node);
        params.serial_number = Some(SerialNumber::from_slice(serial));
        params.distinguished_name.push(DnType::from_oid(SUBJECT_SERIAL_NUMBER), uid);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params, key)
    }

    /// A server certificate for hubs with the names of the installation.
    ///
    /// # Errors
    /// [`AuthorityError`], also for a name that cannot stand in a certificate.
    pub fn issue_hub(
        &self,
        names: &[String],
        serial: &[u8],
        now: Timestamp,
        key: &impl PublicKeyData,
    ) -> Result<Issued, AuthorityError> {
        let mut params = template(now, HUB_LIFE, "selvedge-hub");
        params.serial_number = Some(SerialNumber::from_slice(serial));
        params.subject_alt_names = names.iter().map(|name| san(name)).collect::<Result<_, _>>()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(&params, key)
    }

    /// A fresh key and server certificate for the controller's own endpoint: (certificate, key), DER.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn issue_controller(&self, name: &str, now: Timestamp) -> Result<(Vec<u8>, Vec<u8>), AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed("make a server key"))?;
        let mut params = template(now, CONTROLLER_LIFE, name);
        params.subject_alt_names = vec![san(name)?];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate =
            params.signed_by(&key, &self.issuer).map_err(failed("sign the controller's certificate"))?;
        Ok((certificate.der().to_vec(), key.serialize_der()))
    }

    /// The certificate of an agent, if this authority made it. Whether it is valid now is not asked.
    #[must_use]
    pub fn read_agent(&self, der: &[u8]) -> Option<AgentCertificate> {
        let (_, root) = x509_parser::pem::parse_x509_pem(self.certificate_pem.as_bytes()).ok()?;
        let root = root.parse_x509().ok()?;
        let (rest, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        certificate.verify_signature(Some(root.public_key())).ok()?;
        let usage = certificate.extended_key_usage().ok()??.value;
        let one = |mut values: Vec<String>| (values.len() == 1).then(|| values.remove(0));
        let subject = certificate.subject();
        let texts =
            |oid| subject.iter_by_oid(oid).filter_map(|value| Some(value.as_str().ok()?.into())).collect();
        Some(AgentCertificate {
            node: one(texts(&OID_X509_COMMON_NAME))?,
            uid: one(texts(&OID_X509_SERIALNUMBER))?,
            public_key: certificate.public_key().subject_public_key.data.to_vec(),
            record: CertificateRecord {
                public_key: fingerprint(certificate.public_key().raw),
                serial: hex(certificate.raw_serial()),
                not_after: Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()?,
            },
        })
        .filter(|_| rest.is_empty() && usage.client_auth)
    }

    fn sign(&self, params: &CertificateParams, key: &impl PublicKeyData) -> Result<Issued, AuthorityError> {
        let certificate = params.signed_by(key, &self.issuer).map_err(failed("sign a certificate"))?;
        Ok(Issued { pem: certificate.pem() })
    }
}

/// What all templates share.
fn template(now: Timestamp, life: Duration, common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let at = |time: Timestamp| {
        let seconds = u64::try_from(time.as_second()).unwrap_or_default();
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
    };
    // Agents renew after a part of the whole validity, which must not be over when a short one begins.
    params.not_before = at(now - BACKDATE.min(life / 10));
    params.not_after = at(now + life);
    params
}

fn san(name: &str) -> Result<SanType, AuthorityError> {
    if let Ok(address) = name.parse() {
        return Ok(SanType::IpAddress(address));
    }
    let dns = name.to_owned().try_into();
    dns.map(SanType::DnsName).map_err(|_| AuthorityError::Name { name: name.to_owned() })
}

fn failed(doing: &'static str) -> impl FnOnce(rcgen::Error) -> AuthorityError {
    move |source| AuthorityError::Certificate { doing, source }
}

/// Lower-case hex SHA-256 of a SubjectPublicKeyInfo in DER: how keys are named in pins and records.
#[must_use]
pub fn fingerprint(spki_der: &[u8]) -> String {
    hex(digest(&SHA256, spki_der).as_ref())
}

/// A serial number from 16 random bytes: positive and of full length, so that its hex form is the same
/// wherever it is read (RFC 5280, 4.1.2.2).
#[must_use]
pub fn serial(mut random: [u8; 16]) -> [u8; 16] {
    random[0] = random[0] & 0x7f | 0x40;
    random
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
