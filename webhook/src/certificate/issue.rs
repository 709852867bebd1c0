//! Makes keys and certificates.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};

use super::store::{BACKDATE, Store};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Short enough that rotation is ordinary, long enough to outlive any outage.
pub(super) const LEAF_LIFE: Duration = DAY.saturating_mul(90);

/// A third of it, when it is renewed, is longer than a leaf lives.
pub(super) const CA_LIFE: Duration = DAY.saturating_mul(2 * 365);

/// No certificate could be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a certificate for {name}")]
pub struct IssueError {
    name: String,
    #[source]
    source: rcgen::Error,
}

/// Everything anew, for a server of these names.
pub(super) fn everything(names: &[String], now: Timestamp) -> Result<Store, IssueError> {
    let (ca, ca_key) = ca(now)?;
    let store = Store { cas: vec![ca], ca_key, leaf: String::new(), leaf_key: String::new() };
    leaf(&store, names, now)
}

/// `store` with a new CA beside the old ones.
pub(super) fn next_ca(mut store: Store, now: Timestamp) -> Result<Store, IssueError> {
    let (certificate, key) = ca(now)?;
    store.add_ca(certificate, key, now);
    Ok(store)
}

/// `store` with a new leaf, signed by its newest CA.
pub(super) fn leaf(store: &Store, names: &[String], now: Timestamp) -> Result<Store, IssueError> {
    let name = names.first().map_or("selvedge-webhook", String::as_str);
    let fail = |source| IssueError { name: name.to_owned(), source };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(fail)?;
    let mut params = template(name, LEAF_LIFE, now);
    params.subject_alt_names = names.iter().map(|name| san(name)).collect::<Result<_, _>>().map_err(fail)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let ca_key = KeyPair::from_pem(&store.ca_key).map_err(fail)?;
    let ca = store.cas.first().map_or("", String::as_str);
    let issuer = Issuer::from_ca_cert_pem(ca, ca_key).map_err(fail)?;
    let certificate = params.signed_by(&key, &issuer).map_err(fail)?;
    Ok(Store { leaf: certificate.pem(), leaf_key: key.serialize_pem(), ..store.clone() })
}

fn ca(now: Timestamp) -> Result<(String, String), IssueError> {
    // The time makes the name unique: a leaf names its signer by it.
    let name = format!("selvedge-webhook-ca {now}");
    let fail = |source| IssueError { name: name.clone(), source };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(fail)?;
    let mut params = template(&name, CA_LIFE, now);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let certificate = params.self_signed(&key).map_err(fail)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn template(common_name: &str, life: Duration, now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let at = |time: Timestamp| {
        let seconds = u64::try_from(time.as_second()).unwrap_or_default();
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
    };
    params.not_before = at(now - BACKDATE);
    params.not_after = at(now + life);
    params
}

fn san(name: &str) -> Result<SanType, rcgen::Error> {
    match name.parse() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => Ok(SanType::DnsName(name.try_into()?)),
    }
}
