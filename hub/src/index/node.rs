//! EdgeNodes: labels for selectors and settings, and what admission asks for.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use selvedge_crds::{IDENTITY_ANNOTATION, JOIN_ANNOTATION};
use selvedge_model::SessionId;
use selvedge_model::node::Allowed;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ACCEPT_ANNOTATION, Body, Index, Part, Present, Reason, Slot, Touched, raw};

/// An EdgeNode, compact.
#[derive(Debug)]
pub struct Node {
    /// metadata.uid: the identity that its certificate must bear.
    pub uid: Arc<str>,
    /// spec.denied.
    pub denied: bool,
    /// spec.join.adopt is SameName: a machine of an EdgeNode before this one may come in (identity rule 9).
    pub adopts: bool,
    /// The annotation `selvedge.dev/join`, as it stands.
    pub join: Option<Box<str>>,
    /// Its certificates, by the annotation `selvedge.dev/identity`; none: no record, or one that was lost.
    pub certificates: Option<Box<Certificates>>,
    /// The session of status.fence: none older is admitted (sync rule 9).
    pub fence: Option<SessionId>,
    /// The epoch that the annotation `selvedge.dev/accept-restore` names; 0: none.
    pub accepts: u64,
    /// The controller says that it has a session. Its word on `Ready` holds only while it has none.
    pub(super) connected: bool,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) allowed: Allowed,
    pub(super) revision: u64,
    settings: Arc<Body>,
}

/// Which certificates are a node's (identity rule 3).
#[derive(Debug, Deserialize)]
pub struct Certificates {
    uid: Box<str>,
    current: Certificate,
    pending: Option<Certificate>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Certificate {
    serial: Box<str>,
    not_after: Timestamp,
}

impl Node {
    /// Whether a certificate of this node was renewed since, and the one after it was used: its serial number in
    /// lower-case hex, and its end in Unix seconds. One that is later than the record is not: the record is on its
    /// way here, or the cluster was restored to before it.
    #[must_use]
    pub fn is_outdated(&self, serial: &str, not_after: i64) -> bool {
        let record = self.certificates.as_deref().filter(|record| *record.uid == *self.uid);
        record.is_some_and(|Certificates { current, pending, .. }| {
            let known = std::iter::once(current).chain(pending).any(|known| *known.serial == *serial);
            !known && not_after <= current.not_after.as_second()
        })
    }
}

impl Index {
    pub(super) fn change_node(&mut self, name: Arc<str>, object: Option<Value>) -> Touched {
        let Some(object) = object else {
            let Some(_) = self.nodes.remove(&name) else { return Touched::default() };
            return self.touch_all(&name);
        };
        let labels = raw::labels(&object);
        let node = Node {
            uid: raw::uid(&object),
            denied: object.pointer("/spec/denied").and_then(Value::as_bool).unwrap_or(false),
            adopts: raw::text(&object, "/spec/join/adopt") == Some("SameName"),
            join: object
                .pointer("/metadata/annotations")
                .and_then(|annotations| annotations.get(JOIN_ANNOTATION)?.as_str())
                .map(Into::into),
            certificates: object
                .pointer("/metadata/annotations")
                .and_then(|annotations| annotations.get(IDENTITY_ANNOTATION)?.as_str())
                .and_then(|record| serde_json::from_str(record).ok()),
            fence: raw::text(&object, "/status/fence/session").and_then(|session| session.parse().ok()),
            connected: raw::is(&object, "Connected", "True"),
            accepts: object
                .pointer("/metadata/annotations")
                .and_then(|annotations| annotations.get(ACCEPT_ANNOTATION)?.as_str()?.trim().parse().ok())
                .unwrap_or(0),
            revision: raw::revision(&object),
            settings: self.bodies.of(&settings(&object, &labels)),
            allowed: Allowed::of(&object["spec"]["allowedNamespaces"]),
            labels,
        };
        let accepts = self.nodes.get(&name).is_some_and(|old| old.accepts != node.accepts);
        let same = self.nodes.get(&name).is_some_and(|old| {
            old.uid == node.uid
                && old.denied == node.denied
                && old.allowed == node.allowed
                && old.settings.hash == node.settings.hash
        });
        let overwritten = node.connected && raw::is(&object, "Ready", "Unknown");
        let back = node.connected && self.nodes.get(&name).is_some_and(|old| !old.connected);
        let before = if same { Vec::new() } else { self.landed(&name).collect() };
        self.nodes.insert(name.clone(), node);
        if same {
            // What was said of an offline node must be said anew, though nothing is to be delivered.
            let mut touched = Touched::default();
            if overwritten || accepts {
                touched.parts.insert((name.clone(), Part::Settings));
            }
            if back {
                touched.parts.extend(self.overwritten_devices(&name));
            }
            return touched;
        }
        let mut touched = self.touch_all(&name);
        touched.unselected = before.iter().filter(|landed| self.has_left(&name, landed)).count();
        touched
    }

    fn touch_all(&self, name: &Arc<str>) -> Touched {
        let parts = self.parts(name).into_iter().map(|part| (name.clone(), part)).collect();
        Touched { parts, unselected: 0 }
    }

    pub(super) fn settings(&self, node: &str) -> Slot {
        match self.nodes.get(node) {
            None => unknown_node(node),
            Some(node) => Slot::Present(Present {
                body: node.settings.clone(),
                uid: node.uid.clone(),
                source_revision: node.revision,
                revision: "".into(),
            }),
        }
    }
}

/// NodeSettings. What is as it is by default stands in no body: a setting that a release adds changes no hash.
fn settings(object: &Value, labels: &BTreeMap<String, String>) -> Value {
    let mut settings = json!({ "labels": labels });
    if raw::text(object, "/spec/onDelete") == Some("Stop") {
        settings["onDelete"] = "Stop".into();
    }
    settings
}

/// Nothing is known of a node that is not there: its agent keeps what it has.
pub(super) fn unknown_node(node: &str) -> Slot {
    Slot::held(Reason::Unresolved, format!("EdgeNode {node} does not exist"))
}
