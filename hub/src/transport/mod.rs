//! The agents' door: TLS 1.3 on one port, HTTP/1.1 in it, a WebSocket for sessions.
//!
//! In: connections. Out: sessions under the name and uid of a verified client certificate, and join requests
//! without one (identity rules 1 and 5). Every wait has a deadline, every buffer a bound: strangers reach
//! this port.

mod admit;
pub mod crowd;
mod drive;
pub mod identity;
mod socket;
mod statuses;
pub mod tls;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, body::Body, extract::DefaultBodyLimit};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use selvedge_operator::BoxError;
use selvedge_protocol::{JOIN_PATH, RENEW_PATH, SESSION_PATH};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::enroll::{join, renew};
use crate::hub::Hub;
use crowd::{Crowd, PLACES, Place};
pub use identity::Peer;
use tls::Tls;

/// A handshake ends within this, the wait for its turn included; a peer that takes longer is slow on purpose or gone.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Headers are here within this.
const HEADERS: Duration = Duration::from_secs(10);
/// A request is answered within this: a join waits for its certificate.
const REQUEST: Duration = Duration::from_secs(40);
/// Smallest buffer that hyper takes; requests of agents have few headers.
const HTTP_BUFFER: usize = 8192;
/// A certificate request is below 2 KB; its envelope is small.
const MAX_BODY: usize = 32 * 1024;
/// After accept fails (no file descriptors left), time for some to come back.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What the routes share.
#[derive(Clone)]
pub struct Door {
    /// The hub.
    pub hub: Arc<Hub>,
    /// Join requests.
    pub join: Arc<join::Join>,
    /// Renewals.
    pub renewals: Arc<renew::Renewals>,
    /// Owner of connections and sessions.
    pub tasks: TaskTracker,
    /// Cancelled when this replica drains.
    pub drain: CancellationToken,
}

/// Serves until the drain token is cancelled; then waits for sessions to end (each has its own deadline).
///
/// # Errors
/// Never; a connection that fails is closed.
pub async fn serve(listener: TcpListener, tls: Arc<Tls>, door: Door) -> Result<(), BoxError> {
    let router = router(door.clone());
    let (crowd, places) = (Arc::new(Crowd::default()), Arc::new(Semaphore::new(PLACES)));
    loop {
        // Taken before accepting: who finds no place waits in the kernel's queue.
        let permit = tokio::select! {
            permit = places.clone().acquire_owned() => permit?,
            () = door.drain.cancelled() => break,
        };
        let (stream, from) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => (stream, from.ip()),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            },
            () = door.drain.cancelled() => break,
        };
        let Some(place) = crowd.enter(from) else {
            door.hub.metrics.handshakes.with_label_values(&["crowded"]).inc();
            continue;
        };
        let (tls, router, door) = (tls.clone(), router.clone(), door.clone());
        door.tasks.clone().spawn(async move {
            // Boxed: the handshake's state must not make the connection's future large.
            let shaken = door.drain.run_until_cancelled(Box::pin(shake(stream, &tls, &place))).await;
            drop((permit, place));
            match shaken.unwrap_or(Err("drained")) {
                Ok((stream, peer)) => {
                    door.hub.metrics.handshakes.with_label_values(&["done"]).inc();
                    http(stream, peer, router).await;
                }
                Err(reason) => door.hub.metrics.handshakes.with_label_values(&[reason]).inc(),
            }
        });
    }
    door.tasks.close();
    door.tasks.wait().await;
    Ok(())
}

type Stream = tokio_rustls::server::TlsStream<TcpStream>;

async fn shake(stream: TcpStream, tls: &Tls, place: &Place) -> Result<(Stream, Option<Peer>), &'static str> {
    // A delta is one write: nothing is gained by waiting for more.
    stream.set_nodelay(true).map_err(|_| "socket")?;
    let acceptor = tls.acceptor().ok_or("no certificate yet")?;
    let shaken = async {
        stream.readable().await.map_err(|_| "socket")?;
        let _turn = place.turn().await.map_err(|_| "no turn")?;
        acceptor.accept(stream).await.map_err(|_| "refused")
    };
    let stream = timeout(HANDSHAKE, shaken).await.map_err(|_| "timeout")??;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let peer = certificate.map(identity::read).transpose().map_err(|_| "certificate")?;
    Ok((stream, peer))
}

async fn http(stream: Stream, peer: Option<Peer>, router: Router) {
    let service = TowerToHyperService::new(router.layer(Extension(peer)));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(HTTP_BUFFER)
        // Agents have the hub's time from its Welcome.
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    // The deadline is over the whole connection, idle times included: sessions take it over, joins are
    // rare. A peer that breaks off is no event; an upgraded connection goes on in its own task.
    let _ = Box::pin(timeout(REQUEST, connection)).await;
}

/// The routes; testable without sockets, but for the upgrade.
pub fn router(door: Door) -> Router {
    Router::new()
        .route(SESSION_PATH, get(session))
        .route(JOIN_PATH, post(join::post))
        .route(RENEW_PATH, post(renew::post))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(door)
}

async fn session(
    State(door): State<Door>,
    Extension(peer): Extension<Option<Peer>>,
    mut request: Request,
) -> Response {
    let Some(peer) = peer else {
        return (StatusCode::UNAUTHORIZED, "a session needs the node's client certificate\n").into_response();
    };
    let Some(accept) = accept_key(request.headers()) else {
        return (StatusCode::UPGRADE_REQUIRED, "a session is a WebSocket (RFC 6455)\n").into_response();
    };
    if door.drain.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], "this replica drains\n")
            .into_response();
    }
    let upgrade = hyper::upgrade::on(&mut request);
    door.tasks.clone().spawn(async move {
        match timeout(HANDSHAKE, upgrade).await {
            Ok(Ok(upgraded)) => admit::run(socket::open(upgraded).await, peer, door).await,
            Ok(Err(error)) => tracing::debug!(%error, "a connection broke before it was a session"),
            Err(_) => {}
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}

/// The answer to a WebSocket upgrade (RFC 6455, section 4.2.2); none when it is not one.
fn accept_key(headers: &HeaderMap) -> Option<HeaderValue> {
    let has = |name, token: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.is_some_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    };
    let version = has(header::SEC_WEBSOCKET_VERSION, "13");
    let upgrade = has(header::CONNECTION, "upgrade") && has(header::UPGRADE, "websocket");
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| version && upgrade)?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()
}
