//! One try to get a certificate: an HTTPS POST to one hub, for a join and for a renewal.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use selvedge_protocol::join::JoinResponse;
use tokio::time::timeout;

use super::http::{self, Answer, HttpError};
use crate::dial::{DialError, Endpoint, Tls, dial};

/// A hub that took the request and does not answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why one try failed; the next may not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TryError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("the hub did not answer in {} s", ANSWER_TIMEOUT.as_secs())]
    Timeout,
    #[error("the hub answered {0}")]
    Status(StatusCode),
    #[error("the hub's answer is not a join response: {0}")]
    Response(&'static str),
    #[error("the certificate is not signed yet")]
    Pending,
}

/// What a try came to: a certificate, a final no, or another try.
pub(crate) enum Tried {
    Joined(JoinResponse),
    Refused,
    Again { error: TryError, after: Option<Duration> },
}

/// A certificate request, DER: the signer takes its key and nothing else, and the name is for people.
pub(crate) fn csr(node: &str, key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, node);
    Ok(params.serialize_request(key)?.der().to_vec())
}

/// Posts a request to one hub.
pub(crate) async fn ask(hub: &Endpoint, tls: &Tls, path: &str, request: &Bytes) -> Tried {
    let again = |error: TryError| Tried::Again { error, after: None };
    let answer = match timeout(ANSWER_TIMEOUT, post(hub, tls, path, request)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return again(error),
        Err(_) => return again(TryError::Timeout),
    };
    let after = answer.retry_after.map(Duration::from_secs);
    match answer.status {
        StatusCode::OK => match response(answer.body) {
            Ok(response) => Tried::Joined(response),
            Err(error) => again(error),
        },
        StatusCode::ACCEPTED => Tried::Again { error: TryError::Pending, after },
        StatusCode::FORBIDDEN => Tried::Refused,
        status => Tried::Again { error: TryError::Status(status), after },
    }
}

async fn post(hub: &Endpoint, tls: &Tls, path: &str, request: &Bytes) -> Result<Answer, TryError> {
    let stream = dial(hub, tls).await?;
    let request = Request::post(path)
        .header(header::HOST, hub.authority())
        .header(header::CONTENT_TYPE, "application/x-protobuf")
        .body(Full::new(request.clone()))
        .map_err(HttpError::from)?;
    Ok(http::exchange(TokioIo::new(stream), request).await?)
}

fn response(body: Bytes) -> Result<JoinResponse, TryError> {
    let response: JoinResponse =
        selvedge_protocol::decode(body).map_err(|_| TryError::Response("it cannot be decoded"))?;
    if response.certificate_chain_pem.is_empty() || response.ca_bundle_pem.is_empty() {
        return Err(TryError::Response("it holds no certificate"));
    }
    Ok(response)
}
