//! Files a CertificateSigningRequest and waits for what becomes of it.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt as _};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Longest wait for one answer of the API server.
const ANSWER: Duration = Duration::from_secs(5);
/// Between two looks: quick at first, because signing takes milliseconds.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LAST_LOOK: Duration = Duration::from_secs(1);

/// What is asked for.
#[derive(Debug)]
pub struct Filing {
    /// metadata.generateName.
    pub generate_name: String,
    /// spec.signerName.
    pub signer: &'static str,
    /// "server auth" or "client auth".
    pub usage: &'static str,
    /// metadata.annotations.
    pub annotations: BTreeMap<String, String>,
    /// The request, DER.
    pub request: Vec<u8>,
}

/// What became of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// The certificate, PEM.
    Signed(Vec<u8>),
    /// Denied or failed; why, for people.
    Refused(String),
    /// Nothing yet.
    Pending,
}

/// It could not be filed or followed.
#[derive(Debug, thiserror::Error)]
pub enum FilingError {
    /// The API server refused.
    #[error("cannot file or read a CertificateSigningRequest for {signer}")]
    Api {
        /// Whose.
        signer: &'static str,
        /// What it said.
        #[source]
        source: kube::Error,
    },
    /// The API server did not answer.
    #[error("no answer about a CertificateSigningRequest for {0}")]
    Silent(&'static str),
}

/// Files the request and waits for up to `patience`.
///
/// # Errors
/// [`FilingError`].
pub async fn file(client: Client, filing: Filing, patience: Duration) -> Result<Answer, FilingError> {
    let api: Api<CertificateSigningRequest> = Api::all(client);
    let signer = filing.signer;
    let fail = |source| FilingError::Api { signer, source };
    let until = Instant::now() + patience;
    let (params, object) = (PostParams::default(), object(filing));
    let created = timeout(ANSWER, api.create(&params, &object));
    let created = created.await.map_err(|_| FilingError::Silent(signer))?.map_err(fail)?;
    let name = created.name_any();
    let mut look = FIRST_LOOK;
    loop {
        if timeout_at(until, sleep(look)).await.is_err() {
            return Ok(Answer::Pending);
        }
        look = (look * 3 / 2).min(LAST_LOOK);
        let found = timeout(ANSWER, api.get_opt(&name))
            .await
            .map_err(|_| FilingError::Silent(signer))?
            .map_err(fail)?;
        // Finished ones are deleted: the next try files another.
        let Some(found) = found else { return Ok(Answer::Pending) };
        match judge(&found) {
            Answer::Pending => {}
            answer => return Ok(answer),
        }
    }
}

fn object(filing: Filing) -> CertificateSigningRequest {
    CertificateSigningRequest {
        metadata: ObjectMeta {
            generate_name: Some(filing.generate_name),
            annotations: Some(filing.annotations).filter(|annotations| !annotations.is_empty()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem("CERTIFICATE REQUEST", &filing.request).into_bytes()),
            signer_name: filing.signer.to_owned(),
            usages: Some(vec!["digital signature".into(), filing.usage.into()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    }
}

fn judge(found: &CertificateSigningRequest) -> Answer {
    let Some(status) = &found.status else { return Answer::Pending };
    if let Some(certificate) = status.certificate.as_ref().filter(|certificate| !certificate.0.is_empty()) {
        return Answer::Signed(certificate.0.clone());
    }
    let refused = status.conditions.iter().flatten().find(|c| c.type_ == "Denied" || c.type_ == "Failed");
    match refused {
        Some(refused) => {
            Answer::Refused(refused.message.clone().or_else(|| refused.reason.clone()).unwrap_or_default())
        }
        None => Answer::Pending,
    }
}

/// DER as PEM (RFC 7468: lines of 64).
#[must_use]
pub fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}
