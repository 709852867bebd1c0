//! The admin server: `/healthz`, `/readyz` and `/metrics`, and the gates behind readiness.
//!
//! A process is ready when every gate is; a gate begins closed. The body of a 503 says which gates are
//! closed and why, one a line, so that `kubectl describe pod` is enough to know.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Registry, TextEncoder};
use tokio_util::sync::CancellationToken;

/// All gates of a process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Gates(Arc<Mutex<BTreeMap<String, Option<String>>>>);

/// One condition of readiness.
#[derive(Clone, Debug)]
pub struct Gate {
    gates: Gates,
    name: String,
}

impl Gates {
    /// Adds a gate, closed with the reason `starting`.
    #[must_use]
    pub fn gate(&self, name: impl Into<String>) -> Gate {
        let gate = Gate { gates: self.clone(), name: name.into() };
        gate.close("starting");
        gate
    }

    /// The closed gates, as `<name>: <reason>`.
    #[must_use]
    pub fn closed(&self) -> Vec<String> {
        let gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gates.iter().filter_map(|(name, why)| Some(format!("{name}: {}", why.as_ref()?))).collect()
    }

    fn set(&self, name: &str, why: Option<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), why);
    }
}

impl Gate {
    /// Opens the gate.
    pub fn ready(&self) {
        self.gates.set(&self.name, None);
    }

    /// Closes the gate; `why` is shown to people.
    pub fn close(&self, why: impl Into<String>) {
        self.gates.set(&self.name, Some(why.into()));
    }
}

/// What the admin server shows.
#[derive(Clone)]
pub struct Admin {
    /// Readiness.
    pub gates: Gates,
    /// Metrics.
    pub registry: Registry,
}

/// The three routes. `/healthz` is 200 as long as the process answers: it never looks at others, so that
/// an API server that is away restarts nobody.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(admin)
}

async fn ready(State(admin): State<Admin>) -> Response {
    let closed = admin.gates.closed();
    if closed.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, closed.join("\n") + "\n").into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    match TextEncoder::new().encode_to_string(&admin.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// The admin server cannot be.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve /metrics on {address}: choose another --admin-address")]
pub struct AdminError {
    address: SocketAddr,
    #[source]
    source: std::io::Error,
}

/// Serves until `token` is cancelled and open requests have ended.
///
/// # Errors
/// [`AdminError`] when the address cannot be bound.
pub async fn serve(address: SocketAddr, admin: Admin, token: CancellationToken) -> Result<(), AdminError> {
    let refuse = |source| AdminError { address, source };
    let listener = tokio::net::TcpListener::bind(address).await.map_err(refuse)?;
    tracing::info!(%address, "admin server listens");
    axum::serve(listener, router(admin)).with_graceful_shutdown(token.cancelled_owned()).await.map_err(refuse)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use http_body_util::BodyExt as _;
    use prometheus::{IntCounter, Registry};
    use tower::ServiceExt as _;

    use super::{Admin, Gates, router};

    async fn get(admin: &Admin, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router(admin.clone()).oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn ready_when_every_gate_is_and_says_which_is_not() {
        let admin = Admin { gates: Gates::default(), registry: Registry::new() };
        let caches = admin.gates.gate("caches");
        let lease = admin.gates.gate("lease");
        caches.ready();
        lease.close("held by another replica");
        let (status, body) = get(&admin, "/readyz").await;
        assert_eq!(
            (status, body.as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "lease: held by another replica\n")
        );
        lease.ready();
        assert_eq!(get(&admin, "/readyz").await.0, StatusCode::OK);
        assert_eq!(get(&admin, "/healthz").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn metrics_are_text() {
        let admin = Admin { gates: Gates::default(), registry: Registry::new() };
        let counter = IntCounter::new("selvedge_test_total", "A test.").unwrap();
        admin.registry.register(Box::new(counter.clone())).unwrap();
        counter.inc();
        let (status, body) = get(&admin, "/metrics").await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.contains("selvedge_test_total 1"), "{body}");
    }
}
