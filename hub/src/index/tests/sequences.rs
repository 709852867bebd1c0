//! Any sequence of what list-watch loops can bring: changes that are seen, changes that a broken watch missed
//! and a later list brings, namespaces that are not followed any more and followed again, fetches that come late.
//! After each event every slot that is not what it was lies in a touched part; after the last the index is the one
//! that is built from what there is. For nodes that are where the rollout has them and for late ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use selvedge_model::{EntryKey, EntryKind, ReferenceKind};
use serde_json::{Value, json};

use super::{Change, NODES, Objects, change, changes, event, names, note, version_key};
use crate::index::{
    Event, Index, ObjectKey, Part, Pins, Resource, Slot, Touched, device_entry, workload_entry,
};

/// What may happen next.
#[derive(Clone, Debug)]
enum Step {
    Change(Change),
    /// The watch of this resource is broken, and stays so until it is listed.
    Missed(Change),
    Relist(usize),
    /// The API server was restored; the list after that says what is left.
    WentBack(usize),
    Follow(bool),
    Fetch,
    /// What no workload of the first node names is forgotten, and of the second if it is served.
    Forget(bool),
}

fn steps() -> impl Strategy<Value = Step> {
    let change = prop_oneof![4 => changes(), 1 => further()].boxed();
    prop_oneof![
        12 => change.clone().prop_map(Step::Change),
        2 => change.prop_map(Step::Missed),
        1 => (0..8_usize).prop_map(Step::Relist),
        1 => (0..8_usize).prop_map(Step::WentBack),
        1 => proptest::bool::weighted(0.7).prop_map(Step::Follow),
        2 => Just(Step::Fetch),
        1 => any::<bool>().prop_map(Step::Forget),
    ]
}

/// Beyond [`changes`]: a second application, revisions that are relabelled or cannot be read, a second
/// ConfigMap and Secret, a namespace that goes.
fn further() -> impl Strategy<Value = Change> {
    let namespace = Just(change(Resource::Namespaces, "", "shop", None));
    let application = any::<bool>().prop_map(|there| {
        let rollout =
            json!({"intervals": [{"from": 0, "to": 1_u64 << 32, "revision": "r3"}], "admitted": []});
        let object = json!({"metadata": {"uid": "api"}, "status": {"rollout": rollout}});
        change(Resource::EdgeApplications, "shop", "api", there.then_some(object))
    });
    let revision = (any::<bool>(), 0..4_u8).prop_map(|(web, state)| {
        let containers = match state {
            1 => json!("none"),
            2 => json!([{"name": "c", "image": "api", "envFrom": [{"configMapRef": {"name": "extra"}}]}]),
            _ => json!([{"name": "c", "image": "api", "envFrom": [{"secretRef": {"name": "extra"}}]}]),
        };
        let object = json!({
            "metadata": {"labels": {"selvedge.dev/application": if web { "web" } else { "api" }}},
            "data": {"selector": {}, "template": {"spec": {"containers": containers}}},
        });
        change(Resource::ControllerRevisions, "shop", "r3", (state > 0).then_some(object))
    });
    let config_map = any::<bool>().prop_map(|there| {
        let object = json!({"metadata": {"uid": "x"}, "data": {"KEY": "x"}});
        change(Resource::ConfigMaps("shop".into()), "shop", "extra", there.then_some(object))
    });
    let secret = any::<bool>().prop_map(|there| {
        let object = json!({"metadata": {"uid": "y"}, "data": {"KEY": "eA=="}});
        change(Resource::Secrets("shop".into()), "shop", "extra", there.then_some(object))
    });
    prop_oneof![1 => namespace, 3 => application, 4 => revision, 2 => config_map, 2 => secret]
}

fn references() -> [Resource; 2] {
    ReferenceKind::ALL.map(|kind| Resource::of_references(kind, &"shop".into()))
}

fn resource(number: usize) -> Resource {
    let [maps, secrets] = references();
    Resource::CORE.get(number).cloned().unwrap_or(if number.is_multiple_of(2) { maps } else { secrets })
}

/// The API server, and the hub's view of it.
struct World {
    objects: Objects,
    index: Index,
    cut: BTreeSet<Resource>,
    followed: bool,
    revision: u64,
}

impl World {
    fn new() -> Self {
        let mut index = Index::default();
        index.set_version_key(version_key());
        for resource in Resource::CORE {
            index.apply(Event::Listed(resource, 1));
        }
        Self { objects: Objects::new(), index, cut: BTreeSet::new(), followed: false, revision: 1 }
    }

    fn is_seen(&self, resource: &Resource) -> bool {
        !self.cut.contains(resource) && (self.followed || resource.references().is_none())
    }

    /// What the loops bring after a step.
    fn events(&mut self, step: &Step) -> Vec<Event> {
        self.revision += 1;
        match step {
            Step::Change(change) => {
                note(&mut self.objects, change, self.revision);
                let seen = self.is_seen(&change.resource);
                seen.then(|| event(change, self.revision)).into_iter().collect()
            }
            Step::Missed(change) => {
                note(&mut self.objects, change, self.revision);
                self.cut.insert(change.resource.clone());
                Vec::new()
            }
            Step::Relist(number) => self.list(&resource(*number)),
            Step::WentBack(number) => {
                let listed = self.list(&resource(*number));
                let went_back = (!listed.is_empty()).then(|| Event::WentBack(resource(*number)));
                went_back.into_iter().chain(listed).collect()
            }
            Step::Follow(true) if !self.followed => {
                self.followed = true;
                references().iter().flat_map(|resource| self.list(resource)).collect()
            }
            Step::Follow(false) if self.followed => {
                self.followed = false;
                references().map(Event::Dropped).to_vec()
            }
            Step::Follow(_) | Step::Forget(_) => Vec::new(),
            Step::Fetch => {
                let wanted = self.index.take_unfetched().into_iter();
                let wanted = wanted.filter(|(resource, key)| self.index.dropped(resource, key).is_some());
                let found =
                    wanted.filter_map(|place| self.objects.get(&place).map(|object| (place.0, object)));
                found.map(|(resource, object)| Event::Applied(resource, object.clone())).collect()
            }
        }
    }

    fn list(&mut self, resource: &Resource) -> Vec<Event> {
        if !self.followed && resource.references().is_some() {
            return Vec::new();
        }
        self.cut.remove(resource);
        let there = |key: &ObjectKey| self.objects.contains_key(&(resource.clone(), key.clone()));
        let gone = self.index.keys(resource).into_iter().filter(|key| !there(key)).map(|key| Event::Gone {
            resource: resource.clone(),
            key,
            revision: self.revision,
            watched: false,
        });
        let objects = self.objects.iter().filter(|((of, _), _)| of == resource);
        let applied = objects.map(|(_, object)| Event::Applied(resource.clone(), object.clone()));
        gone.chain(applied).chain([Event::Listed(resource.clone(), self.revision)]).collect()
    }

    /// The index of a hub that starts now.
    fn rebuilt(&self) -> Index {
        let mut index = Index::default();
        index.set_version_key(version_key());
        for ((resource, _), object) in self.objects.iter().rev() {
            if self.followed || resource.references().is_none() {
                index.apply(Event::Applied(resource.clone(), object.clone()));
            }
        }
        let followed = references().into_iter().filter(|_| self.followed);
        for resource in Resource::CORE.into_iter().chain(followed) {
            index.apply(Event::Listed(resource, self.revision));
        }
        let _ = meaning(&index);
        super::fetch(&mut index, &self.objects);
        index
    }
}

/// On which revision of `web` a late node stays.
const PINS: [Option<&str>; 4] = [None, Some("r1"), Some("r2"), Some("lost")];

/// A slot's place: node, on which revision it stays, entry, whether it was asked for by name.
type Place = (&'static str, Option<&'static str>, EntryKey, bool);

/// What is desired where, without source revisions: those may move without touching anybody.
fn meaning(index: &Index) -> BTreeMap<Place, String> {
    let sources = [
        EntryKey::node_settings(),
        workload_entry(&ObjectKey::new("shop", "web")),
        workload_entry(&ObjectKey::new("shop", "api")),
        device_entry(&ObjectKey::new("shop", "d1")),
        device_entry(&ObjectKey::new("shop", "d2")),
    ];
    let mut meaning = BTreeMap::new();
    for (node, pin) in NODES.into_iter().flat_map(|node| PINS.map(|pin| (node, pin))) {
        let pins: Pins = pin.map(|pin| (ObjectKey::new("shop", "web"), Arc::from(pin))).into_iter().collect();
        for (key, slot) in index.set(node, &pins) {
            meaning.insert((node, pin, key, false), text(&slot));
        }
        for key in &sources {
            meaning.insert((node, pin, key.clone(), true), text(&index.unlisted(node, key, &pins)));
        }
    }
    meaning
}

fn text(slot: &Slot) -> String {
    match slot {
        Slot::Present(present) => format!("{:?} {} {}", present.body.hash, present.uid, present.revision),
        Slot::Absent => "absent".into(),
        Slot::Held(held) => format!("held: {held:?}"),
    }
}

/// Entries that nodes have no more, and their sources were not seen to be deleted.
fn taken_away(before: &BTreeMap<Place, String>, after: &BTreeMap<Place, String>) -> usize {
    let present = |(place, text): &(&Place, &String)| {
        matches!(place.2.kind, EntryKind::Workload | EntryKind::Device)
            && place.1.is_none()
            && place.3
            && *text != "absent"
            && !text.starts_with("held")
    };
    let went = |(place, _): &(&Place, &String)| after.get(*place).is_some_and(|text| text == "absent");
    before.iter().filter(present).filter(went).count()
}

fn apply(index: &mut Index, event: Event) -> (Touched, bool) {
    let watched = matches!(event, Event::Gone { watched: true, .. });
    (index.apply(event), watched)
}

/// A node goes or comes back: what its agent has beyond its set turns from absent to held, or the other way. That
/// removes nothing while it is away; when it is back its session ends, because it has another uid now, or compares
/// anew, because the cluster was restored.
fn is_about_the_node((node, _, key, unlisted): &Place, texts: [Option<&String>; 2]) -> bool {
    let unknown = format!("EdgeNode {node} does not exist");
    let of_node = |text: &&String| text.contains(&unknown);
    *unlisted && key.kind == EntryKind::Device && texts.iter().flatten().any(of_node)
}

fn is_touched(touched: &Touched, (node, _, key, _): &Place) -> bool {
    touched
        .parts
        .iter()
        .any(|(name, part): &(Arc<str>, Part)| **name == **node && names(part, &key.to_string()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_sequence_of_events_is_a_rebuild_and_touches_what_it_changes(
        steps in proptest::collection::vec(steps(), 1..50)
    ) {
        let mut world = World::new();
        let last = (0..8).map(Step::Relist).chain([Step::Fetch]);
        for step in steps.into_iter().chain(last) {
            if let Step::Forget(both) = step {
                let (served, before) = (if both { &NODES[..] } else { &NODES[..1] }, meaning(&world.index));
                super::forget(&mut world.index, served);
                let after = meaning(&world.index);
                let changed = before.iter().find(|(place, text)| served.contains(&place.0) && after.get(*place) != Some(*text));
                prop_assert!(changed.is_none(), "{changed:?} was forgotten though it is served");
            }
            for event in world.events(&step) {
                let said = format!("{event:?}");
                let before = meaning(&world.index);
                let (touched, watched) = apply(&mut world.index, event);
                let after = meaning(&world.index);
                for place in before.keys().chain(after.keys()) {
                    prop_assert!(
                        before.get(place) == after.get(place)
                            || is_touched(&touched, place)
                            || is_about_the_node(place, [before.get(place), after.get(place)]),
                        "{said}\nchanged {place:?} from {:?}\nto {:?}\nand touched {touched:?}",
                        before.get(place), after.get(place)
                    );
                }
                let taken = taken_away(&before, &after);
                prop_assert!(
                    watched || taken <= touched.unselected,
                    "{said}\ntook {taken} entries away and announced {}", touched.unselected
                );
            }
        }
        prop_assert_eq!(meaning(&world.index), meaning(&world.rebuilt()));
    }
}

/// A late node's revision comes, changes or goes: that concerns nobody whom the rollout sends elsewhere, but it.
#[test]
fn a_revision_that_comes_late_touches_the_nodes_that_stay_on_it() {
    let mut index = super::listed();
    let node = |name: &str| json!({"metadata": {"name": name, "uid": name, "labels": {"tier": "a"}}});
    for name in NODES {
        index.apply(Event::Applied(Resource::EdgeNodes, node(name)));
    }
    let rollout = json!({"intervals": [{"from": 0, "to": 1_u64 << 32, "revision": "new"}], "admitted": []});
    let web =
        json!({"metadata": {"name": "web", "namespace": "shop", "uid": "w"}, "status": {"rollout": rollout}});
    index.apply(Event::Applied(Resource::EdgeApplications, web));
    let late = Pins::from([(ObjectKey::new("shop", "web"), Arc::from("old"))]);
    assert!(!index.set(NODES[0], &late).is_empty());
    let old: Value = json!({
        "metadata": {"name": "old", "namespace": "shop", "labels": {"selvedge.dev/application": "web"}},
        "data": {"selector": {}, "template": {"spec": {"containers": []}}},
    });
    let touched = index.apply(Event::Applied(Resource::ControllerRevisions, old));
    assert_eq!(touched.parts.into_iter().collect::<Vec<_>>(), [(Arc::from(NODES[0]), Part::Workloads)]);
}
