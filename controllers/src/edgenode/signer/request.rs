//! The certificate request itself: parsed, its own signature checked, and reduced to its public key.
//!
//! In: PEM as a CSR object holds it. Out: [`Request`]. Subject, SANs and extensions that the request asks
//! for are dropped here: certificates are made from our templates alone.

use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use crate::edgenode::authority::fingerprint;

/// id-ecPublicKey with prime256v1, and id-Ed25519 (RFC 5480, RFC 8410).
const EC: &str = "1.2.840.10045.2.1";
const P256: &str = "1.2.840.10045.3.1.7";
const ED25519: &str = "1.3.101.112";

/// What is left of a request.
#[derive(Debug)]
pub struct Request {
    /// The whole request, DER: what a join proof signs.
    pub der: Vec<u8>,
    /// The key to certify.
    pub key: SubjectPublicKeyInfo,
    /// Its name in records.
    pub fingerprint: String,
}

/// Why a request cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not PEM, or not PKCS #10.
    #[error("spec.request is not one certificate request in PEM")]
    Malformed,
    /// The requester does not hold the key.
    #[error("the request's own signature does not hold")]
    Signature,
    /// A key type that we do not certify.
    #[error("the key is neither ECDSA P-256 nor Ed25519")]
    KeyType,
}

/// Reads a request.
///
/// # Errors
/// [`RequestError`].
pub fn read(pem: &[u8]) -> Result<Request, RequestError> {
    let (rest, pem) = x509_parser::pem::parse_x509_pem(pem).map_err(|_| RequestError::Malformed)?;
    if !rest.iter().all(u8::is_ascii_whitespace) || !pem.label.ends_with("CERTIFICATE REQUEST") {
        return Err(RequestError::Malformed);
    }
    let (rest, request) =
        X509CertificationRequest::from_der(&pem.contents).map_err(|_| RequestError::Malformed)?;
    if !rest.is_empty() {
        return Err(RequestError::Malformed);
    }
    let spki = &request.certification_request_info.subject_pki;
    let curve =
        spki.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok()).map(|oid| oid.to_id_string());
    match (spki.algorithm.algorithm.to_id_string().as_str(), curve.as_deref()) {
        (EC, Some(P256)) | (ED25519, None) => {}
        _ => return Err(RequestError::KeyType),
    }
    request.verify_signature().map_err(|_| RequestError::Signature)?;
    let key = SubjectPublicKeyInfo::from_der(spki.raw).map_err(|_| RequestError::KeyType)?;
    let fingerprint = fingerprint(spki.raw);
    Ok(Request { key, fingerprint, der: pem.contents })
}
