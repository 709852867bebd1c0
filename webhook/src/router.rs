//! The routes: thin handlers that read a review, have it judged and answer. Testable without a socket.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request as HttpRequest, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Json, Response};
use axum::routing::post;
use selvedge_operator::telemetry::chain;
use tokio::time::{Instant, timeout};

use crate::cluster::{Cluster, ClusterError};
use crate::judge;
use crate::metrics::Metrics;
use crate::review::{self, Request, ReviewError, Verdict};

/// An object is at most 1.5 MiB in etcd; a review carries the old and the new one.
const MAX_BODY: usize = 3 * 1024 * 1024;

/// From the first header to the answer. The API server waits 5 s; what takes longer is nobody's.
const REQUEST: Duration = Duration::from_secs(10);

/// What the handlers share.
#[derive(Clone)]
struct Shared<C> {
    cluster: C,
    metrics: Metrics,
}

/// `POST /validate` for creations and updates, `POST /validate-devicemodel-delete`.
pub fn router(cluster: impl Cluster, metrics: Metrics) -> Router {
    Router::new()
        .route("/validate", post(validate))
        .route("/validate-devicemodel-delete", post(validate_delete))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn(in_time))
        .with_state(Shared { cluster, metrics })
}

async fn validate<C: Cluster>(
    State(shared): State<Shared<C>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, BadRequest> {
    let (start, request) = read(&shared.metrics, &headers, &body)?;
    let verdict = judge::change(&request, &shared.cluster).await.unwrap_or_else(|error| {
        tracing::warn!(kind = request.kind.kind, name = request.name, error = chain(&error), "cannot judge");
        Verdict::Refused { code: 503, reason: "ServiceUnavailable", message: unjudged(&error) }
    });
    Ok(answer(&shared.metrics, &request, verdict, start))
}

/// A deletion that cannot be judged passes: a namespace must never be stuck because of us.
async fn validate_delete<C: Cluster>(
    State(shared): State<Shared<C>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, BadRequest> {
    let (start, request) = read(&shared.metrics, &headers, &body)?;
    let verdict = judge::delete_model(&request, &shared.cluster).await.unwrap_or_else(|error| {
        tracing::warn!(name = request.name, error = chain(&error), "cannot judge a deletion; lets it pass");
        Verdict::Allowed { warnings: vec![unjudged(&error)] }
    });
    Ok(answer(&shared.metrics, &request, verdict, start))
}

fn unjudged(error: &ClusterError) -> String {
    format!("this could not be judged: {}; try again", chain(error))
}

fn answer(metrics: &Metrics, request: &Request, verdict: Verdict, start: Instant) -> Response {
    let label = match &verdict {
        Verdict::Allowed { warnings } if warnings.is_empty() => "allowed",
        Verdict::Allowed { .. } => "warned",
        Verdict::Refused { code: 503, .. } => "failed",
        Verdict::Refused { .. } => "refused",
    };
    metrics.review(&request.kind.kind, &request.operation, label, start.elapsed());
    Json(verdict.into_review(&request.uid)).into_response()
}

fn read(metrics: &Metrics, headers: &HeaderMap, body: &[u8]) -> Result<(Instant, Request), BadRequest> {
    let start = Instant::now();
    let is_json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|value| value.trim().eq_ignore_ascii_case("application/json"));
    let request =
        if is_json { review::read(body).map_err(BadRequest::Review) } else { Err(BadRequest::ContentType) };
    match request {
        Ok(request) => Ok((start, request)),
        Err(bad) => {
            metrics.bad_request(bad.label());
            Err(bad)
        }
    }
}

/// The request is no review.
enum BadRequest {
    ContentType,
    Review(ReviewError),
}

impl BadRequest {
    fn label(&self) -> &'static str {
        match self {
            Self::ContentType => "content_type",
            Self::Review(ReviewError::Decode(_)) => "decode",
            Self::Review(ReviewError::Version { .. }) => "version",
            Self::Review(ReviewError::NoRequest) => "no_request",
        }
    }
}

impl axum::response::IntoResponse for BadRequest {
    fn into_response(self) -> Response {
        match self {
            Self::ContentType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "the content type must be application/json\n")
                    .into_response()
            }
            Self::Review(error) => (StatusCode::BAD_REQUEST, chain(&error) + "\n").into_response(),
        }
    }
}

async fn in_time(request: HttpRequest, next: Next) -> Response {
    match timeout(REQUEST, next.run(request)).await {
        Ok(response) => response,
        Err(_) => (StatusCode::REQUEST_TIMEOUT, "the request took too long\n").into_response(),
    }
}
