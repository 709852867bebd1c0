//! Who a client certificate is: its CN and subject serialNumber, and nothing else (identity rule 5).

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use x509_parser::oid_registry::OID_X509_SERIALNUMBER;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The peer of a verified connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Name of the node: CN.
    pub node: Arc<str>,
    /// Uid of its EdgeNode: the subject's serialNumber attribute.
    pub uid: Arc<str>,
    /// Serial number of the certificate, lower-case hex.
    pub serial: Arc<str>,
    /// End of its validity, Unix seconds.
    pub not_after: i64,
}

/// The certificate verified, but it is not one of an agent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client certificate names no node and uid")]
pub struct NotAnAgent;

/// Reads a certificate whose chain was verified, or is to be.
///
/// # Errors
/// [`NotAnAgent`].
pub fn read(certificate: &CertificateDer<'_>) -> Result<Peer, NotAnAgent> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| NotAnAgent)?;
    let subject = certificate.subject();
    let names = subject.iter_common_name().map(|name| name.as_str().ok());
    let uids = subject.iter_by_oid(&OID_X509_SERIALNUMBER).map(|uid| uid.as_str().ok());
    let serial: String = certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Peer {
        node: one(names).ok_or(NotAnAgent)?.into(),
        uid: one(uids).ok_or(NotAnAgent)?.into(),
        serial: serial.into(),
        not_after: certificate.validity().not_after.timestamp(),
    })
}

/// The only value, if it is text that is not empty.
fn one<'a>(mut values: impl Iterator<Item = Option<&'a str>>) -> Option<&'a str> {
    let first = values.next().flatten().filter(|text| !text.is_empty())?;
    values.next().is_none().then_some(first)
}
