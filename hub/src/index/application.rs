//! EdgeApplications and their ControllerRevisions: which node runs which revision, and what that is there.
//!
//! Workloads come only from revisions that `status.rollout` names, never from `spec`. A late node stays on
//! the revision that it has until it is admitted (sync rule 11).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use selvedge_model::overrides::{self, Override};
use selvedge_model::pod::{self, PodTemplate};
use selvedge_model::rollout::{Rollout, position};
use selvedge_model::selector::Selector;
use selvedge_model::{ContentHash, Reference, ReferenceKind};
use selvedge_protocol::MAX_BODY_BYTES;
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::namespace::not_enabled;
use super::node::unknown_node;
use super::reference::Version;
use super::{Body, Index, Node, ObjectKey, Part, Present, Reason, Slot, Slots, Touched, raw, workload_entry};

/// Revisions on which a late node stays, by application.
pub type Pins = BTreeMap<ObjectKey, Arc<str>>;

/// Label of a ControllerRevision that names its EdgeApplication.
const APPLICATION_LABEL: &str = "selvedge.dev/application";

/// An EdgeApplication, compact.
#[derive(Debug)]
pub struct Application {
    pub(super) uid: Arc<str>,
    revision: u64,
    /// None: no rollout state, or one that does not decode.
    rollout: Option<Rollout>,
}

/// A ControllerRevision of an EdgeApplication, decoded.
#[derive(Debug)]
pub struct Revision {
    application: Box<str>,
    /// Names what it says, so that an event without a change is known.
    content: ContentHash,
    selector: Selector,
    template: Value,
    overrides: Vec<Override>,
    /// ConfigMaps and Secrets that the template names, and whether all mentions are optional.
    references: BTreeMap<(ReferenceKind, String), bool>,
    /// Why it cannot be used.
    fault: Option<String>,
    /// Bodies made from it: nodes with the same overrides and references share one.
    resolved: Mutex<Vec<Resolved>>,
}

/// What a revision names, in its order; none: it is optional and not there.
type Named<'a> = Vec<Option<&'a Version>>;

/// One body of a revision and what it was made with.
#[derive(Debug)]
struct Resolved {
    overrides: Vec<bool>,
    /// Of what the revision names, in its order; none: it is optional and not there.
    versions: Vec<Option<Arc<str>>>,
    body: Arc<Body>,
}

impl Application {
    fn target(&self, node: &Node) -> Option<&str> {
        self.rollout.as_ref()?.revision_at(position(&self.uid, &node.uid))
    }

    fn admits(&self, node: &Node) -> bool {
        self.rollout.as_ref().is_some_and(|rollout| rollout.admits(&node.uid))
    }
}

impl Revision {
    fn decode(mut object: Value) -> Self {
        let application = raw::labels(&object).remove(APPLICATION_LABEL).unwrap_or_default().into();
        let mut data = raw::take(&mut object, "/data");
        let content = ContentHash::of(&data);
        let mut fault = None;
        let mut note = |part: &str, error: serde_json::Error| {
            fault.get_or_insert_with(|| format!("{part} cannot be read: {error}"));
        };
        let template = raw::take(&mut data, "/template");
        let selector = Selector::deserialize(raw::take(&mut data, "/selector"))
            .map_err(|error| note("its selector", error))
            .unwrap_or_default();
        let overrides = match raw::take(&mut data, "/overrides") {
            Value::Null => Vec::new(),
            raw => Vec::deserialize(raw).map_err(|error| note("its overrides", error)).unwrap_or_default(),
        };
        let typed = PodTemplate::deserialize(&template)
            .map_err(|error| note("its template", error))
            .unwrap_or_default();
        let references = pod::references(&typed);
        let resolved = Mutex::default();
        Self { application, content, selector, template, overrides, references, fault, resolved }
    }

    pub(super) fn selects(&self, node: &Node) -> bool {
        // A revision that cannot be read selects nothing by itself; what nodes have of it is held.
        self.fault.is_none() && self.selector.matches(&node.labels)
    }

    fn deselects(&self, node: &Node) -> bool {
        self.fault.is_none() && !self.selector.matches(&node.labels)
    }

    pub(super) fn names(&self, kind: ReferenceKind, name: &str) -> bool {
        self.references.keys().any(|(of, named)| *of == kind && named == name)
    }

    pub(super) fn names_any(&self, kind: ReferenceKind) -> bool {
        self.references.keys().any(|(of, _)| *of == kind)
    }

    pub(super) fn names_anything(&self) -> bool {
        !self.references.is_empty()
    }

    /// ConfigMaps and Secrets that it names.
    pub(super) fn named(&self) -> impl Iterator<Item = (ReferenceKind, &str)> {
        self.references.keys().map(|(kind, name)| (*kind, name.as_str()))
    }

    /// The EdgeApplication that it is a revision of.
    pub(super) fn owner(&self, namespace: &Arc<str>) -> ObjectKey {
        ObjectKey { namespace: namespace.clone(), name: (*self.application).into() }
    }

    pub(super) fn forget_resolved(&mut self) {
        self.resolved.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Index {
    pub(super) fn change_application(&mut self, key: ObjectKey, object: Option<Value>) -> Touched {
        let new = object.map(|mut object| Application {
            uid: raw::uid(&object),
            revision: raw::revision(&object),
            rollout: Option::deserialize(raw::take(&mut object, "/status/rollout")).ok().flatten(),
        });
        let old = match &new {
            Some(_) => self.applications.remove(&key),
            None => match self.applications.remove(&key) {
                None => return Touched::default(),
                old => old,
            },
        };
        let same = |a: &Application, b: &Application| a.uid == b.uid && a.rollout == b.rollout;
        let mut touched = Touched::default();
        if !old.as_ref().zip(new.as_ref()).is_some_and(|(old, new)| same(old, new)) {
            for (name, node) in &self.nodes {
                let stand = |app: &Option<Application>| {
                    let app = app.as_ref()?;
                    Some((app.uid.clone(), app.target(node).map(str::to_owned), app.admits(node)))
                };
                let (before, after) = (stand(&old), stand(&new));
                if before == after {
                    continue;
                }
                touched.parts.insert((name.clone(), Part::Workloads));
                let revision = |app: &Option<Application>| self.revision(&key, app.as_ref()?.target(node)?);
                let selects =
                    |revision: &Revision| self.is_let_in(node, &key.namespace) && revision.selects(node);
                let was = revision(&old).is_some_and(selects);
                let left = new.is_none() || revision(&new).is_some_and(|revision| revision.deselects(node));
                touched.unselected += usize::from(was && left);
            }
        }
        if let Some(new) = new {
            self.applications.insert(key, new);
        }
        touched
    }

    pub(super) fn change_revision(&mut self, key: ObjectKey, object: Option<Value>) -> Touched {
        // DaemonSets and StatefulSets have ControllerRevisions, too.
        let ours = object.filter(|object| raw::labels(object).contains_key(APPLICATION_LABEL));
        let new = ours.map(Revision::decode);
        let old = self.revisions.remove(&key);
        let same = match (&old, &new) {
            (Some(old), Some(new)) => old.content == new.content && old.application == new.application,
            (None, None) => true,
            _ => false,
        };
        if same {
            // The old one has the bodies.
            if let Some(old) = old {
                self.revisions.insert(key, old);
            }
            return Touched::default();
        }
        let mut touched = Touched::default();
        for owner in [&old, &new].into_iter().flatten().map(|revision| revision.owner(&key.namespace)) {
            let Some(application) = self.applications.get(&owner) else { continue };
            for (name, node) in
                self.nodes.iter().filter(|(_, node)| application.target(node) == Some(&*key.name))
            {
                touched.parts.insert((name.clone(), Part::Workloads));
                let left = old
                    .as_ref()
                    .is_some_and(|old| *old.application == *owner.name && old.selects(node))
                    && new.as_ref().is_some_and(|new| *new.application == *owner.name && new.deselects(node));
                touched.unselected += usize::from(left);
            }
        }
        let pinned = self.pinned.get_mut().unwrap_or_else(PoisonError::into_inner).remove(&key);
        touched.parts.extend(pinned.into_iter().flatten().map(|node| (node, Part::Workloads)));
        if let Some(new) = new {
            self.revisions.insert(key, new);
        }
        touched
    }

    fn revision(&self, application: &ObjectKey, name: &str) -> Option<&Revision> {
        self.named_revision(application, name).map(|(_, revision)| revision)
    }

    /// A revision of an application, and its name as all share it.
    fn named_revision(&self, application: &ObjectKey, name: &str) -> Option<(&Arc<str>, &Revision)> {
        self.revisions
            .get_key_value(&ObjectKey { namespace: application.namespace.clone(), name: name.into() })
            .filter(|(_, revision)| *revision.application == *application.name)
            .map(|(key, revision)| (&key.name, revision))
    }

    fn target_of(&self, node: &str, application: &ObjectKey) -> Option<(&Node, &Revision)> {
        let node = self.nodes.get(node)?;
        let target = self.applications.get(application)?.target(node)?;
        Some((node, self.revision(application, target)?))
    }

    /// The applications that select a node now.
    pub(super) fn selected(&self, node: &str) -> Vec<ObjectKey> {
        let selects = |key: &&ObjectKey| {
            self.target_of(node, key).is_some_and(|(node, revision)| {
                self.is_let_in(node, &key.namespace) && revision.selects(node)
            })
        };
        self.applications.keys().filter(selects).cloned().collect()
    }

    /// Whether an application is known not to select a node now.
    pub(super) fn deselects(&self, node: &str, application: &ObjectKey) -> bool {
        let shut_out = |node| !self.is_let_in(node, &application.namespace);
        self.nodes.get(node).is_some_and(shut_out)
            || self.target_of(node, application).is_some_and(|(node, revision)| revision.deselects(node))
    }

    /// All workloads of a node, and the ConfigMaps and Secrets that they name. An application without rollout state,
    /// or whose revision is not here, is left out: which nodes it concerns is not known (an agent's row of it is
    /// held, see `unlisted`).
    pub(super) fn workloads(&self, node: &str, pins: &Pins) -> Slots {
        let mut slots = Slots::new();
        let Some(found) = self.nodes.get(node) else { return slots };
        for (key, application) in &self.applications {
            let target = application.target(found).and_then(|name| self.revision(key, name));
            if target.is_none() && !pins.contains_key(key) {
                continue;
            }
            let slot = match self.resolve(node, key, pins) {
                Ok(Some((present, versions))) => {
                    for version in versions.into_iter().flatten() {
                        let present = Present {
                            body: version.body.clone(),
                            uid: version.uid.clone(),
                            source_revision: version.revision,
                            revision: "".into(),
                        };
                        slots.insert(version.entry_key(&key.namespace), Slot::Present(present));
                    }
                    Slot::Present(present)
                }
                Ok(None) => continue,
                Err(held) => held,
            };
            slots.insert(workload_entry(key), slot);
        }
        slots
    }

    pub(super) fn workload(&self, node: &str, key: &ObjectKey, pins: &Pins) -> Slot {
        match self.resolve(node, key, pins) {
            Ok(Some((present, _))) => Slot::Present(present),
            Ok(None) => Slot::Absent,
            Err(held) => held,
        }
    }

    /// The revision that `status.rollout` gives a node now; none without rollout state.
    #[must_use]
    pub fn target(&self, node: &str, application: &ObjectKey) -> Option<&str> {
        self.applications.get(application)?.target(self.nodes.get(node)?)
    }

    /// Whether the rollout of an application gives a revision to any node.
    pub(super) fn gives(&self, application: &ObjectKey, revision: &str) -> bool {
        let rollout = self.applications.get(application).and_then(|application| application.rollout.as_ref());
        rollout.is_some_and(|rollout| rollout.revisions().any(|given| given == revision))
    }

    /// Whether there is another application under the name of one with this uid.
    #[must_use]
    pub fn is_created_anew(&self, application: &ObjectKey, uid: &str) -> bool {
        self.applications.get(application).is_some_and(|application| *application.uid != *uid)
    }

    /// Whether a late node may go on.
    #[must_use]
    pub fn admits(&self, node: &str, application: &ObjectKey) -> bool {
        let (application, node) = (self.applications.get(application), self.nodes.get(node));
        application.zip(node).is_some_and(|(application, node)| application.admits(node))
    }

    /// `Ok(None)`: not for this node. `Err`: held, and why.
    fn resolve(
        &self,
        node_name: &str,
        key: &ObjectKey,
        pins: &Pins,
    ) -> Result<Option<(Present, Named<'_>)>, Slot> {
        let unresolved = |message: String| Slot::held(Reason::Unresolved, message);
        let Some(node) = self.nodes.get(node_name) else { return Err(unknown_node(node_name)) };
        let Some(application) = self.applications.get(key) else { return Ok(None) };
        if !self.is_let_in(node, &key.namespace) {
            return Ok(None);
        }
        let target = application.target(node).ok_or_else(|| {
            unresolved(format!("EdgeApplication {key} has no rollout state for this node yet"))
        })?;
        let name = pins.get(key).filter(|_| !application.admits(node)).map_or(target, |pinned| pinned);
        if name != target {
            self.remember_pin(node_name, ObjectKey { namespace: key.namespace.clone(), name: name.into() });
        }
        let (name, revision) = self.named_revision(key, name).ok_or_else(|| {
            unresolved(format!("ControllerRevision {}/{name} does not exist", key.namespace))
        })?;
        if let Some(fault) = &revision.fault {
            return Err(Slot::held(
                Reason::Invalid,
                format!("ControllerRevision {}/{name}: {fault}", key.namespace),
            ));
        }
        if !revision.selects(node) {
            // A late node keeps what it is on its way back to: an outage until it is admitted serves nobody.
            return if **name == *target || self.deselects(node_name, key) {
                Ok(None)
            } else {
                Err(unresolved(format!(
                    "ControllerRevision {0}/{name}, on which the node is, does not select it any more, and {0}/{target} \
                     may: the node goes on when it is admitted",
                    key.namespace
                )))
            };
        }
        if !self.is_enabled(&key.namespace) {
            return Err(not_enabled(&key.namespace));
        }
        let versions = self.references(&key.namespace, revision)?;
        let body = self.workload_body(name, revision, node, &versions);
        let (uid, source_revision) = (application.uid.clone(), application.revision);
        Ok(Some((Present { body, uid, source_revision, revision: name.clone() }, versions)))
    }

    /// A late node was resolved with this revision, so what becomes of it touches the node, too.
    fn remember_pin(&self, node: &str, revision: ObjectKey) {
        let Some((node, _)) = self.nodes.get_key_value(node) else { return };
        let mut pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        let nodes = pinned.entry(revision).or_default();
        if !nodes.contains(node) {
            nodes.insert(node.clone());
        }
    }

    /// What a revision names, as it stands.
    fn references<'a>(&'a self, namespace: &Arc<str>, revision: &Revision) -> Result<Named<'a>, Slot> {
        // Each is looked at, also after one that is missing: all that was dropped is fetched in one go.
        let found: Vec<_> = revision.references.iter().map(|((kind, name), optional)| {
            let of = kind.name();
            match self.reference(*kind, namespace, name)? {
                Some(version) if version.body.bytes.len() > MAX_BODY_BYTES => Err(Slot::held(
                    Reason::TooLarge,
                    format!(
                        "{of} {namespace}/{name} takes {} bytes on its way to a node, and {MAX_BODY_BYTES} are the \
                         limit: split it{}",
                        version.body.bytes.len(),
                        if *kind == ReferenceKind::ConfigMap {
                            ", or put what is not text into binaryData"
                        } else {
                            ""
                        },
                    ),
                )),
                None if !*optional => Err(Slot::held(
                    Reason::MissingReference,
                    format!("{of} {namespace}/{name} does not exist"),
                )),
                version => Ok(version),
            }
        }).collect();
        found.into_iter().collect()
    }

    fn workload_body(
        &self,
        name: &str,
        revision: &Revision,
        node: &Node,
        versions: &[Option<&Version>],
    ) -> Arc<Body> {
        let overrides: Vec<bool> =
            revision.overrides.iter().map(|o| o.selector.matches(&node.labels)).collect();
        let versions: Vec<_> =
            versions.iter().map(|version| version.map(|version| version.version.clone())).collect();
        let mut resolved = revision.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = resolved.iter().find(|r| r.overrides == overrides && r.versions == versions) {
            return found.body.clone();
        }
        let mut template = revision.template.clone();
        overrides::apply(&mut template, &revision.overrides, &node.labels);
        let named = revision.references.keys().zip(&versions);
        let references: Vec<Reference> = named
            .map(|((kind, name), version)| Reference {
                kind: kind.name().into(),
                name: name.clone(),
                version: version.as_deref().unwrap_or_default().to_owned(),
            })
            .collect();
        let body = self.bodies.of(&json!({"revision": name, "references": references, "template": template}));
        resolved.push(Resolved { overrides, versions, body: body.clone() });
        body
    }

    /// Revisions of a namespace that name an object of it.
    pub(super) fn naming<'a>(
        &'a mut self,
        kind: ReferenceKind,
        key: &'a ObjectKey,
    ) -> impl Iterator<Item = &'a mut Revision> {
        self.revisions
            .iter_mut()
            .filter(|(revision, _)| revision.namespace == key.namespace)
            .map(|(_, revision)| revision)
            .filter(move |revision| revision.names(kind, &key.name))
    }
}
