//! What the Secret holds, and what has to be done about it at a time.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// A new CA signs nothing before it has been in the caBundle for this long: every API server has it by
/// then.
pub(super) const OVERLAP: Duration = Duration::from_secs(3600);

/// Certificates are back-dated by this, against clocks that are behind.
pub(super) const BACKDATE: Duration = Duration::from_secs(600);

/// CAs in the bundle: the newest, the one that signed the leaf, and one to spare.
const MAX_CAS: usize = 3;

pub(super) const CA_CERTIFICATES: &str = "ca.crt";
pub(super) const CA_KEY: &str = "ca.key";
pub(super) const LEAF: &str = "tls.crt";
pub(super) const LEAF_KEY: &str = "tls.key";

/// The content of the Secret, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Store {
    /// CA certificates, newest first.
    pub cas: Vec<String>,
    /// Key of the first.
    pub ca_key: String,
    /// Serving certificate.
    pub leaf: String,
    /// Its key.
    pub leaf_key: String,
}

/// What has to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing.
    Nothing,
    /// A new leaf, signed by the newest CA.
    Leaf,
    /// A new CA beside the old ones. The leaf stays: its CA is in the bundle.
    Ca,
    /// Everything: there is nothing that can be used.
    Everything,
}

/// What matters of a certificate.
struct Facts {
    not_before: Timestamp,
    not_after: Timestamp,
    names: Vec<String>,
    issuer: Vec<u8>,
    subject: Vec<u8>,
}

impl Store {
    /// From a Secret's data; none when something is missing.
    pub fn of(data: &BTreeMap<String, ByteString>) -> Option<Self> {
        let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
        let cas = text(CA_CERTIFICATES)?;
        let end = "-----END CERTIFICATE-----";
        let cas: Vec<_> = cas
            .split_inclusive(end)
            .filter(|pem| pem.contains(end))
            .map(|pem| format!("{}\n", pem.trim()))
            .collect();
        Some(Self { cas, ca_key: text(CA_KEY)?, leaf: text(LEAF)?, leaf_key: text(LEAF_KEY)? })
    }

    /// As a Secret's data.
    pub fn data(&self) -> BTreeMap<String, ByteString> {
        let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
        [
            (CA_CERTIFICATES, bytes(&self.bundle())),
            (CA_KEY, bytes(&self.ca_key)),
            (LEAF, bytes(&self.leaf)),
            (LEAF_KEY, bytes(&self.leaf_key)),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }

    /// The caBundle.
    pub fn bundle(&self) -> String {
        self.cas.concat()
    }

    /// End of the leaf.
    pub fn not_after(&self) -> Option<Timestamp> {
        facts(&self.leaf).map(|leaf| leaf.not_after)
    }

    /// What has to be done for a certificate that bears `names` at `now`. Certificates are renewed when a
    /// third of their life is left; so is the CA, and longer than a leaf lives before its own end.
    pub fn due(&self, names: &[String], now: Timestamp) -> Due {
        let cas: Vec<_> = self.cas.iter().map(|ca| facts(ca)).collect();
        let (Some(Some(ca)), Some(leaf)) = (cas.first(), facts(&self.leaf)) else { return Due::Everything };
        let signer = cas.iter().flatten().find(|ca| ca.subject == leaf.issuer);
        let trusted = signer.is_some_and(|signer| signer.not_after > now);
        if !trusted || leaf.not_after <= now || ca.not_after <= now {
            return Due::Everything;
        }
        if is_old(ca, now) {
            return Due::Ca;
        }
        let published = now.duration_since(ca.not_before + BACKDATE).unsigned_abs() >= OVERLAP;
        let own = ca.subject == leaf.issuer;
        let missing = names.iter().any(|name| !leaf.names.contains(name));
        if (is_old(&leaf, now) || missing) && (published || own) { Due::Leaf } else { Due::Nothing }
    }

    /// Puts a new CA in front, and drops those that have ended.
    pub fn add_ca(&mut self, certificate: String, key: String, now: Timestamp) {
        self.cas.retain(|ca| facts(ca).is_some_and(|ca| ca.not_after > now));
        self.cas.insert(0, certificate);
        self.cas.truncate(MAX_CAS);
        self.ca_key = key;
    }
}

fn is_old(certificate: &Facts, now: Timestamp) -> bool {
    let life = certificate.not_after.duration_since(certificate.not_before);
    now > certificate.not_after - life / 3
}

fn facts(pem: &str) -> Option<Facts> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes),
        _ => None,
    });
    Some(Facts {
        not_before: Timestamp::from_second(certificate.validity().not_before.timestamp()).ok()?,
        not_after: Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()?,
        names: names.collect(),
        issuer: certificate.issuer().as_raw().to_vec(),
        subject: certificate.subject().as_raw().to_vec(),
    })
}

fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4).to_string());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| IpAddr::from(v6).to_string())
}
