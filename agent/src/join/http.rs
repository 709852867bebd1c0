//! One HTTP/1.1 request over a stream that is already there. For the join (over TLS) and for the agent's
//! own socket (over Unix).

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, StatusCode, header, rt};

/// Nothing that we ask for is larger: a certificate chain, or the status of a full node.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The request cannot be written down.
    #[error("the request cannot be made")]
    Request(#[from] hyper::http::Error),
    /// The other side does not speak HTTP, or went away.
    #[error("the HTTP exchange failed")]
    Exchange(#[from] hyper::Error),
    /// The answer was cut short, or is too large.
    #[error("the answer cannot be read")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: StatusCode,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u64>,
    /// Body, at most 4 MiB.
    pub body: Bytes,
}

/// Sends one request and reads its answer; the stream is closed after it.
///
/// # Errors
/// [`HttpError`].
pub async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answer, HttpError>
where
    S: rt::Read + rt::Write + Unpin,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let retry_after = response.headers().get(header::RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(HttpError::Body)?;
        Ok(Answer { status, retry_after, body: body.to_bytes() })
    };
    // The connection moves the bytes while the answer is waited for.
    let connection = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = answer => answer,
        () = connection => Err(HttpError::Body("the connection ended".into())),
    }
}
