//! The router, without a socket: the cases of `tests/cases/`, and requests that are no review.
//!
//! A case is a request and what is said to it: `allowed` with `warnings`, or `refused`; each text must be
//! part of the answer, in order for warnings, and none of `unsaid` may be.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use selvedge_model::node::Allowed;
use selvedge_webhook::cluster::{Cluster, ClusterError, Device, Namespace};
use selvedge_webhook::metrics::Metrics;
use selvedge_webhook::router::router;
use serde::Deserialize;
use serde_json::{Value, json};
use tower::ServiceExt as _;

/// The cluster of `cases/cluster.yaml`.
#[derive(Clone)]
struct Fixture(Arc<Facts>);

#[derive(Deserialize)]
struct Facts {
    namespaces: HashMap<String, NamespaceFacts>,
    /// With their allowedNamespaces.
    nodes: HashMap<String, Value>,
    models: HashMap<String, Value>,
    devices: Devices,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct NamespaceFacts {
    enabled: bool,
    level: Option<String>,
    labels: BTreeMap<String, String>,
    terminating: bool,
}

#[derive(Deserialize)]
struct Devices {
    count: usize,
    spec: Value,
}

impl Fixture {
    fn load() -> Self {
        Self(Arc::new(load("cluster")))
    }
}

impl Cluster for Fixture {
    async fn namespace(&self, name: &str) -> Result<Option<Namespace>, ClusterError> {
        Ok(self.0.namespaces.get(name).map(|facts| Namespace {
            enabled: facts.enabled,
            level: facts.level.clone(),
            labels: facts.labels.clone(),
            terminating: facts.terminating,
        }))
    }

    async fn node(&self, name: &str) -> Result<Option<Allowed>, ClusterError> {
        Ok(self.0.nodes.get(name).map(Allowed::of))
    }

    async fn model(&self, namespace: &str, name: &str) -> Result<Option<Arc<Value>>, ClusterError> {
        if name == "unreachable" {
            return Err(ClusterError::Timeout { what: "DeviceModel unreachable".to_owned() });
        }
        Ok(self.0.models.get(&format!("{namespace}/{name}")).cloned().map(Arc::new))
    }

    async fn devices_of(&self, _: &str, model: &str) -> Result<Vec<Device>, ClusterError> {
        if model == "unreachable" {
            return Err(ClusterError::Timeout { what: "the Devices of DeviceModel unreachable".to_owned() });
        }
        let Devices { count, spec } = &self.0.devices;
        let count = if spec["modelRef"]["name"] == model { *count } else { 0 };
        Ok((1..=count).map(|n| Device { name: format!("boiler-{n}"), spec: spec.clone() }).collect())
    }
}

fn load<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    let path = format!("{}/tests/cases/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    let mut yaml: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
    yaml.apply_merge().unwrap();
    serde_yaml::from_value(yaml).unwrap_or_else(|error| panic!("{path}: {error}"))
}

async fn post(path: &str, content_type: &str, body: impl Into<Body>) -> (StatusCode, String) {
    let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
    let request = Request::post(path).header(header::CONTENT_TYPE, content_type).body(body.into()).unwrap();
    let response = router(Fixture::load(), metrics).oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn review(path: &str, mut request: Value) -> Value {
    request["uid"] = json!("the-uid");
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
    let (status, body) = post(path, "application/json", review.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let review: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(review["response"]["uid"], "the-uid");
    review["response"].clone()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    case: String,
    #[serde(default = "validate")]
    path: String,
    request: Value,
    #[serde(default)]
    allowed: bool,
    #[serde(default)]
    warnings: Vec<String>,
    #[serde(default)]
    refused: Vec<String>,
    #[serde(default)]
    unsaid: Vec<String>,
}

fn validate() -> String {
    "/validate".to_owned()
}

async fn run(file: &str) {
    let cases: Vec<Case> = load(file);
    assert!(!cases.is_empty());
    for case in cases {
        let response = review(&case.path, case.request).await;
        let name = case.case;
        assert_eq!(response["allowed"], case.allowed, "{name}: {response}");
        let warnings = response["warnings"].as_array().cloned().unwrap_or_default();
        assert_eq!(warnings.len(), case.warnings.len(), "{name}: {response}");
        for (warning, part) in warnings.iter().zip(&case.warnings) {
            assert!(warning.as_str().unwrap().contains(part), "{name}: {part:?} is not in {warning}");
        }
        let message = response["status"]["message"].as_str().unwrap_or_default();
        assert_eq!(message.is_empty(), case.refused.is_empty(), "{name}: {response}");
        for part in &case.refused {
            assert!(message.contains(part), "{name}: {part:?} is not in {message}");
        }
        for part in &case.unsaid {
            assert!(!message.contains(part), "{name}: {part:?} is in {message}");
        }
    }
}

#[tokio::test]
async fn devices() {
    run("devices").await;
}

#[tokio::test]
async fn models() {
    run("models").await;
}

#[tokio::test]
async fn applications() {
    run("applications").await;
}

#[tokio::test]
async fn nodes() {
    run("nodes").await;
}

#[tokio::test]
async fn what_cannot_be_judged_is_refused_but_a_deletion_passes() {
    let request = |kind: &str| {
        json!({"kind": {"kind": kind}, "operation": "CREATE", "namespace": "shop", "name": "unreachable",
            "object": {"spec": {"modelRef": {"name": "unreachable"}, "nodeName": "shop-0042", "protocol": {}}}})
    };
    let response = review("/validate", request("Device")).await;
    assert_eq!(
        (&response["allowed"], &response["status"]["code"]),
        (&json!(false), &json!(503)),
        "{response}"
    );
    let response = review("/validate-devicemodel-delete", request("DeviceModel")).await;
    assert_eq!(response["allowed"], true, "{response}");
    assert!(response["warnings"][0].as_str().unwrap().contains("could not be judged"), "{response}");
}

#[tokio::test]
async fn what_is_no_review_gets_its_status() {
    let json = "application/json";
    let other = r#"{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview"}"#;
    let empty = r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}"#;
    for (path, content_type, body, status) in [
        ("/validate", "text/plain", "{}".to_owned(), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("/validate", json, "{".to_owned(), StatusCode::BAD_REQUEST),
        ("/validate", json, "[]".to_owned(), StatusCode::BAD_REQUEST),
        ("/validate", json, other.to_owned(), StatusCode::BAD_REQUEST),
        ("/validate", json, empty.to_owned(), StatusCode::BAD_REQUEST),
        ("/validate", json, " ".repeat(3 * 1024 * 1024 + 1), StatusCode::PAYLOAD_TOO_LARGE),
        ("/", json, "{}".to_owned(), StatusCode::NOT_FOUND),
    ] {
        let (answered, text) = post(path, content_type, body).await;
        assert_eq!(answered, status, "{path} {content_type}: {text}");
    }
}
