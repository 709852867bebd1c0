//! What a join or renewal proof signs, byte for byte, and its keys (identity rules 1 and 6).
//!
//! A proof is a domain tag followed by length-prefixed fields, so that no field can be read as part of
//! another.

use std::time::Duration;

use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey, VerificationAlgorithm,
};

/// How long after its end a certificate still proves who asks for another (identity rule 6).
pub const REJOIN: Duration = Duration::from_secs(90 * 24 * 3600);
/// The seed of a join key: random, 32 bytes, in the join Secret only.
pub const JOIN_SEED_LEN: usize = 32;

/// Why a proof could not be made or does not hold.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The seed is not 32 bytes.
    #[error("the join key is not {JOIN_SEED_LEN} bytes long")]
    BadSeed,
    /// The signature does not fit key and fields.
    #[error("the signature does not hold")]
    Refused,
}

/// Bytes that a join signs: ("selvedge-join-v1", cluster id, node, CSR in DER).
#[must_use]
pub fn join(cluster_id: &str, node: &str, csr_der: &[u8]) -> Vec<u8> {
    fields("selvedge-join-v1", &[cluster_id.as_bytes(), node.as_bytes(), csr_der])
}

/// Bytes that a renewal signs: ("selvedge-renew-v1", cluster id, node, uid, old serial in lower-case hex,
/// new CSR in DER).
#[must_use]
pub fn renew(cluster_id: &str, node: &str, uid: &str, old_serial: &str, csr_der: &[u8]) -> Vec<u8> {
    fields(
        "selvedge-renew-v1",
        &[cluster_id.as_bytes(), node.as_bytes(), uid.as_bytes(), old_serial.as_bytes(), csr_der],
    )
}

fn fields(tag: &str, fields: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in std::iter::once(&tag.as_bytes()).chain(fields) {
        out.extend_from_slice(&(field.len() as u64).to_be_bytes());
        out.extend_from_slice(field);
    }
    out
}

/// The public half (32 bytes) of the join key that `seed` makes.
///
/// # Errors
/// [`ProofError::BadSeed`] when the seed has another length.
pub fn join_public_key(seed: &[u8]) -> Result<Vec<u8>, ProofError> {
    Ok(key_pair(seed)?.public_key().as_ref().to_vec())
}

/// Signs `message` with the join key that `seed` makes.
///
/// # Errors
/// [`ProofError::BadSeed`] when the seed has another length.
pub fn sign_join(seed: &[u8], message: &[u8]) -> Result<Vec<u8>, ProofError> {
    Ok(key_pair(seed)?.sign(message).as_ref().to_vec())
}

/// Checks a join signature against the public half of the join key.
///
/// # Errors
/// [`ProofError::Refused`] when it does not hold.
pub fn verify_join(public_key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), ProofError> {
    UnparsedPublicKey::new(&ED25519, public_key).verify(message, signature).map_err(|_| ProofError::Refused)
}

/// Checks a renewal's signature by the key of a certificate: the bits of its SubjectPublicKeyInfo, which are a point
/// on P-256 (65 bytes, ECDSA with SHA-256, signature in ASN.1) or an Ed25519 key (32 bytes).
///
/// # Errors
/// [`ProofError::Refused`] when it does not hold, or the key is of another kind.
pub fn verify_renewal(public_key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), ProofError> {
    let algorithm: &dyn VerificationAlgorithm = match public_key.len() {
        65 => &ECDSA_P256_SHA256_ASN1,
        32 => &ED25519,
        _ => return Err(ProofError::Refused),
    };
    UnparsedPublicKey::new(algorithm, public_key).verify(message, signature).map_err(|_| ProofError::Refused)
}

fn key_pair(seed: &[u8]) -> Result<Ed25519KeyPair, ProofError> {
    Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| ProofError::BadSeed)
}
