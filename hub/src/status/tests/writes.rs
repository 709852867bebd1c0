//! Status writes against an API server of one Device that answers as it is told, on paused time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use prometheus::Registry;
use selvedge_model::SessionId;
use selvedge_protocol::agent::verdict::Code;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::hub::Hub;
use crate::index::ObjectKey;
use crate::metrics::Metrics;
use crate::status::{Known, Target, Work, Written, write};

const ME: SessionId = SessionId { counter: 4, nonce: 1 };

/// An answer that is not the one of a healthy API server.
#[derive(Clone, Copy)]
enum Fault {
    Status(u16),
    Busy(u64),
    Slow(Duration),
}

#[derive(Default)]
struct Server {
    object: Value,
    faults: VecDeque<Fault>,
    /// Method and status of each answer.
    answers: Vec<(Method, u16)>,
}

struct World {
    server: Arc<Mutex<Server>>,
    hub: Hub,
    client: Client,
}

fn world(status: Value, faults: &[Fault]) -> World {
    let object = json!({"metadata": {"name": "tank", "uid": "d", "resourceVersion": "1"}, "spec": {}, "status": status});
    let faults = faults.iter().copied().collect();
    let server = Arc::new(Mutex::new(Server { object, faults, answers: Vec::new() }));
    let answering = server.clone();
    let service = tower::service_fn(move |request: Request<Body>| answer(answering.clone(), request));
    let hub = Hub::new(None, watch::channel(None).1, Metrics::new(&Registry::new()).unwrap());
    World { server, hub, client: Client::new(service, "default") }
}

async fn answer(
    server: Arc<Mutex<Server>>,
    request: Request<Body>,
) -> Result<Response<Body>, std::convert::Infallible> {
    let (head, body) = request.into_parts();
    assert!(head.uri.path().starts_with("/apis/selvedge.dev/v1alpha1/namespaces/shop/devices/"));
    let patch = body.collect_bytes().await.unwrap();
    let fault = server.lock().unwrap().faults.pop_front();
    if let Some(Fault::Slow(time)) = fault {
        sleep(time).await;
    }
    let mut server = server.lock().unwrap();
    let mut response = Response::builder();
    let (code, body) = match fault {
        Some(Fault::Status(code)) => (code, json!({"message": "as told"})),
        Some(Fault::Busy(seconds)) => {
            response = response.header("Retry-After", seconds);
            (429, Value::Null)
        }
        _ if head.method == Method::GET => (200, server.object.clone()),
        _ => patched(&mut server.object, &serde_json::from_slice(&patch).unwrap()),
    };
    server.answers.push((head.method, code));
    Ok(response.status(code).body(body.to_string().into_bytes().into()).unwrap())
}

fn patched(object: &mut Value, patch: &Value) -> (u16, Value) {
    let revision = object["metadata"]["resourceVersion"].as_str().unwrap();
    if patch["metadata"]["resourceVersion"] != revision {
        return (409, json!({"message": "the object has been modified"}));
    }
    let next = (revision.parse::<u64>().unwrap() + 1).to_string();
    for (field, value) in patch["status"].as_object().unwrap() {
        object["status"][field] = value.clone();
    }
    object["metadata"]["resourceVersion"] = next.into();
    (200, object.clone())
}

fn ready() -> Value {
    json!({"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

impl World {
    fn work(&self, known: Option<Known>, summary: &'static str) -> Work {
        Work {
            target: Target::Device(ObjectKey::new("shop", "tank")),
            uid: "d".into(),
            session: ME,
            seq: 7,
            known,
            compose: Box::new(move |_| json!({"summary": summary, "conditions": [ready()]})),
        }
    }

    async fn write(&self) -> Written {
        write(&self.hub, &self.client, &self.work(None, "level=1")).await
    }

    fn answers(&self) -> Vec<String> {
        let server = self.server.lock().unwrap();
        server.answers.iter().map(|(method, code)| format!("{method} {code}")).collect()
    }

    fn status(&self) -> Value {
        self.server.lock().unwrap().object["status"].clone()
    }

    fn counted(&self, result: &str) -> u64 {
        self.hub.metrics.status_writes.with_label_values(&[result]).get()
    }
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_read_merged_and_written_again() {
    let world = world(json!({}), &[]);
    let known = world.write().await.known;
    let accepted = json!({"type": "Accepted", "status": "True"});
    {
        let mut server = world.server.lock().unwrap();
        server.object["metadata"]["resourceVersion"] = "9".into();
        server.object["status"] = json!({"conditions": [accepted], "summary": "level=0"});
        server.answers.clear();
    }
    let work = world.work(known, "level=2");
    assert_eq!(write(&world.hub, &world.client, &work).await.code, Some(Code::Written));
    assert_eq!(world.answers(), ["PATCH 409", "GET 200", "PATCH 200"]);
    let status = world.status();
    assert_eq!(status["conditions"], json!([accepted, ready()]));
    assert_eq!(status["fence"], json!({"session": ME.to_string(), "seq": 7}));
}

#[tokio::test(start_paused = true)]
async fn conflicts_without_end_are_no_hot_loop() {
    let world = world(json!({}), &[Fault::Status(409); 12]);
    let start = Instant::now();
    assert_eq!(world.write().await.code, Some(Code::Written));
    // Twelve waits of up to 100 ms, 200 ms and so on, each with full jitter.
    assert!(start.elapsed() > Duration::from_millis(100), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_busy_api_server_is_left_alone_by_all_for_as_long_as_it_asks() {
    let world = world(json!({}), &[Fault::Busy(7)]);
    let start = Instant::now();
    let (first, second) = tokio::join!(world.write(), async {
        sleep(Duration::from_secs(1)).await;
        world.write().await
    });
    assert_eq!((first.code, second.code), (Some(Code::Written), Some(Code::Written)));
    assert!(start.elapsed() >= Duration::from_secs(7), "{:?}", start.elapsed());
    assert_eq!(world.answers().iter().filter(|answer| answer.ends_with("429")).count(), 1);
    assert_eq!(world.counted("busy"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_is_asked_less_by_all() {
    let never = Fault::Slow(Duration::from_secs(3600));
    let world = world(json!({}), &[never, never, never, Fault::Status(504)]);
    let rate = || world.hub.writes.rate(crate::clock::now());
    let full = rate();
    let (first, second, third) = tokio::join!(world.write(), world.write(), async {
        sleep(Duration::from_millis(10_001)).await;
        // Three were without an answer at once, which is one congestion.
        assert_eq!(rate(), full / 2.0);
        world.write().await
    });
    assert!([first, second, third].iter().all(|written| written.code == Some(Code::Written)));
    assert!(world.counted("failed") >= 3, "{}", world.counted("failed"));
}

#[tokio::test(start_paused = true)]
async fn the_verdict_comes_after_the_answer_of_the_api_server() {
    let world = world(json!({}), &[Fault::Slow(Duration::ZERO), Fault::Slow(Duration::from_secs(3))]);
    let start = Instant::now();
    assert_eq!(world.write().await.code, Some(Code::Written));
    assert!(start.elapsed() >= Duration::from_secs(3) && world.status()["summary"] == "level=1");
}

#[tokio::test(start_paused = true)]
async fn what_the_api_refuses_is_dropped_and_what_passes_is_tried_again() {
    for (code, reason) in [(413, "TooLarge"), (422, "Invalid")] {
        let world = world(json!({}), &[Fault::Slow(Duration::ZERO), Fault::Status(code)]);
        let written = world.write().await;
        assert_eq!((written.code, written.reason), (Some(Code::Refused), reason));
        assert!(world.status()["summary"].is_null() && world.counted("refused") == 1);
    }
    // Slower than we wait: it may have been done, so it is read again.
    let faults = [Fault::Status(500), Fault::Status(403), Fault::Slow(Duration::from_secs(60))];
    let world = world(json!({}), &faults);
    assert_eq!(world.write().await.code, Some(Code::Written));
    assert_eq!((world.counted("failed"), world.counted("written")), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_is_not_written_and_not_called_gone() {
    for answers in [&["GET 404"][..], &["GET 200", "PATCH 404"]] {
        let fault = |answer: &&str| match answer.ends_with("404") {
            true => Fault::Status(404),
            false => Fault::Slow(Duration::ZERO),
        };
        let world = world(json!({}), &answers.iter().map(fault).collect::<Vec<_>>());
        assert_eq!(world.write().await.code, None);
        assert_eq!(world.answers(), answers);
    }
    // Another object under its name.
    let world = world(json!({}), &[]);
    world.server.lock().unwrap().object["metadata"]["uid"] = "other".into();
    assert_eq!(world.write().await.code, None);
    assert_eq!((world.answers(), world.counted("missing")), (vec!["GET 200".to_owned()], 1));
}

#[tokio::test(start_paused = true)]
async fn a_newer_session_keeps_its_word_and_the_same_word_is_no_write() {
    let newer = SessionId { counter: 5, nonce: 0 };
    let theirs = json!({"summary": "level=2", "fence": {"session": newer.to_string(), "seq": 1}});
    let world_of_newer = world(theirs.clone(), &[]);
    assert_eq!(world_of_newer.write().await.code, Some(Code::Superseded));
    assert_eq!((world_of_newer.status(), world_of_newer.answers().len()), (theirs, 1));

    let world = world(json!({}), &[]);
    world.write().await;
    world.write().await;
    assert_eq!(world.answers(), ["GET 200", "PATCH 200", "GET 200"]);
    assert_eq!((world.counted("written"), world.counted("unchanged")), (1, 1));
}
