//! A small world for tests of index and session, and what touches nobody.

mod sequences;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use selvedge_model::{EntryKind, ReferenceKind, VersionKey};
use serde_json::{Value, json};

use selvedge_protocol::MAX_BODY_BYTES;

use super::{Event, Index, ObjectKey, Part, Pins, Reason, Resource, Slot, workload_entry};

/// Which object of a small world changes, and to what; `None`: it goes.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub resource: Resource,
    pub key: ObjectKey,
    pub object: Option<Value>,
}

pub(crate) const NODES: [&str; 2] = ["n1", "n2"];

fn change(resource: Resource, namespace: &str, name: &str, object: Option<Value>) -> Change {
    let key = ObjectKey::new(namespace, name);
    let object = object.map(|mut object| {
        object["metadata"]["name"] = name.into();
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = namespace.into();
        }
        object
    });
    Change { resource, key, object }
}

fn uid(name: &str, generation: u8) -> String {
    format!("{name}-{generation}")
}

/// Any change of the small world.
pub(crate) fn changes() -> impl Strategy<Value = Change> {
    let ab = || prop_oneof![Just("a"), Just("b")];
    let allowed = proptest::option::weighted(0.3, ab());
    let node =
        (0..2_usize, ab(), allowed, proptest::bool::weighted(0.9)).prop_map(|(n, tier, team, there)| {
            let spec =
                team.map_or(json!({}), |team| json!({"allowedNamespaces": {"matchLabels": {"team": team}}}));
            let object =
                json!({"metadata": {"uid": uid(NODES[n], 0), "labels": {"tier": tier}}, "spec": spec});
            change(Resource::EdgeNodes, "", NODES[n], there.then_some(object))
        });
    let namespace =
        (proptest::bool::weighted(0.8), proptest::option::of(ab())).prop_map(|(enabled, team)| {
            let mut labels = if enabled { json!({"selvedge.dev/edge": "enabled"}) } else { json!({}) };
            if let Some(team) = team {
                labels["team"] = team.into();
            }
            change(Resource::Namespaces, "", "shop", Some(json!({"metadata": {"labels": labels}})))
        });
    let application = (0..3_u8, 0..5_u8, any::<bool>()).prop_map(|(generation, rollout, admitted)| {
        let admitted = if admitted { json!(["n1-0"]) } else { json!([]) };
        let all = |name: &str| json!([{"from": 0, "to": 1_u64 << 32, "revision": name}]);
        let status = match rollout {
            0 => Value::Null,
            1 => json!({"rollout": {"intervals": all("r1"), "admitted": admitted}}),
            2 => json!({"rollout": {"intervals": all("r2"), "admitted": admitted}}),
            _ => json!({"rollout": {"intervals": [
                {"from": 0, "to": 1_u64 << 31, "revision": "r2"},
                {"from": 1_u64 << 31, "to": 1_u64 << 32, "revision": "r1"}], "admitted": admitted}}),
        };
        let object = json!({"metadata": {"uid": uid("web", generation.min(1))}, "status": status});
        change(Resource::EdgeApplications, "shop", "web", (generation < 2).then_some(object))
    });
    let revision = (0..2_usize, any::<bool>(), any::<bool>(), proptest::bool::weighted(0.8)).prop_map(
        |(which, everywhere, optional, there)| {
            let tier = if everywhere { json!(["a", "b"]) } else { json!(["a"]) };
            let object = json!({
                "metadata": {"labels": {"selvedge.dev/application": "web"}, "uid": format!("r{which}")},
                "data": {
                    "selector": {"matchExpressions": [{"key": "tier", "operator": "In", "values": tier}]},
                    "template": {"spec": {"containers": [{"name": "c", "image": format!("web:{which}"),
                        "envFrom": [{"configMapRef": {"name": "settings", "optional": optional}},
                            {"secretRef": {"name": "settings", "optional": optional}}]}]}},
                    "overrides": [{"name": "b", "selector": {"matchLabels": {"tier": "b"}},
                        "containers": [{"name": "c", "image": "web:b"}]}],
                },
            });
            change(Resource::ControllerRevisions, "shop", ["r1", "r2"][which], there.then_some(object))
        },
    );
    let config_map = (0..3_u8).prop_map(|value| {
        let object = json!({"metadata": {"uid": "s"}, "data": {"KEY": value.to_string()}});
        change(Resource::ConfigMaps("shop".into()), "shop", "settings", (value > 0).then_some(object))
    });
    let secret = (0..4_u8).prop_map(|value| {
        // Base64 of a digit, and under value 3 created anew.
        let uid = if value == 3 { "t" } else { "s" };
        let object =
            json!({"metadata": {"uid": uid}, "type": "Opaque", "data": {"PIN": format!("M{value}==")}});
        change(Resource::Secrets("shop".into()), "shop", "settings", (value > 0).then_some(object))
    });
    let model = (0..3_u8).prop_map(|maximum| {
        let object = json!({"metadata": {"uid": "m"}, "spec": {"properties": [
            {"name": "level", "type": "int", "access": "ReadWrite", "maximum": maximum, "unit": "l",
                "source": {"simulated": {}}}]}});
        change(Resource::DeviceModels, "shop", "tank", (maximum > 0).then_some(object))
    });
    let device = (0..2_usize, 0..2_usize, 0..4_u8).prop_map(|(which, node, desired)| {
        let property = if desired == 3 { "stranger" } else { "level" };
        let object = json!({"metadata": {"uid": format!("d{which}{node}")}, "spec": {
            "nodeName": NODES[node], "modelRef": {"name": "tank"},
            "protocol": {"simulated": {}}, "desired": {property: desired}}});
        change(Resource::Devices, "shop", ["d1", "d2"][which], (desired > 0).then_some(object))
    });
    prop_oneof![2 => node, 1 => namespace, 3 => application, 3 => revision, 2 => config_map, 2 => secret, 1 => model, 2 => device]
}

/// All that is there, by resource and key.
pub(crate) type Objects = BTreeMap<(Resource, ObjectKey), Value>;

/// Everything that the small world has.
pub(crate) fn resources() -> impl Iterator<Item = Resource> {
    let references = ReferenceKind::ALL.map(|kind| Resource::of_references(kind, &"shop".into()));
    Resource::CORE.into_iter().chain(references)
}

pub(crate) fn version_key() -> VersionKey {
    VersionKey::new(&[7; VersionKey::LENGTH]).unwrap()
}

/// An index whose lists were all empty.
pub(crate) fn listed() -> Index {
    let mut index = Index::default();
    index.set_version_key(version_key());
    for resource in resources() {
        index.apply(Event::Listed(resource, 1));
    }
    index
}

pub(crate) fn event(change: &Change, revision: u64) -> Event {
    match &change.object {
        Some(object) => {
            let mut object = object.clone();
            object["metadata"]["resourceVersion"] = revision.to_string().into();
            Event::Applied(change.resource.clone(), object)
        }
        None => Event::Gone {
            resource: change.resource.clone(),
            key: change.key.clone(),
            revision,
            watched: true,
        },
    }
}

/// Forgets what no workload of these nodes names, as the hub does.
pub(crate) fn forget(index: &mut Index, served: &[&str]) {
    let served = served.iter().map(|node| Arc::from(*node)).collect();
    let run = index.naming_revisions().into_iter().filter(|key| index.is_run_by(key, &served)).collect();
    index.keep_references_of(&run);
}

/// Fetches what was dropped and was resolved with since, as the feed does.
pub(crate) fn fetch(index: &mut Index, objects: &Objects) -> BTreeSet<(Arc<str>, Part)> {
    let mut parts = BTreeSet::new();
    for (resource, key) in index.take_unfetched() {
        if let Some(object) = objects.get(&(resource.clone(), key)) {
            parts.extend(index.apply(Event::Applied(resource, object.clone())).parts);
        }
    }
    parts
}

pub(crate) fn note(objects: &mut Objects, change: &Change, revision: u64) {
    let place = (change.resource.clone(), change.key.clone());
    match event(change, revision) {
        Event::Applied(_, object) => objects.insert(place, object),
        _ => objects.remove(&place),
    };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_changes_no_meaning_touches_nobody(changes in proptest::collection::vec(changes(), 1..40)) {
        let mut objects = Objects::new();
        let mut index = listed();
        for (revision, change) in (2..).zip(&changes) {
            index.apply(event(change, revision));
            note(&mut objects, change, revision);
        }
        // What nothing named when it came is known the second time.
        for ((resource, _), object) in &objects {
            index.apply(Event::Applied(resource.clone(), object.clone()));
        }
        for ((resource, key), mut object) in objects {
            object["metadata"]["resourceVersion"] = "1000".into();
            object["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
            object["status"]["fence"] = json!({"session": "4.0000000000000001", "seq": 1});
            let touched = index.apply(Event::Applied(resource, object));
            prop_assert!(touched.parts.is_empty(), "a status write of {key} touched {touched:?}");
        }
    }
}

fn names(part: &Part, key: &str) -> bool {
    match part {
        Part::Settings => key.starts_with("NodeSettings"),
        Part::Workloads => ["Workload", "ConfigMap", "Secret"].iter().any(|kind| key.starts_with(kind)),
        Part::Device(device) => key == format!("Device/{device}"),
    }
}

#[test]
fn bodies_that_are_alike_are_one_allocation() {
    let mut index = listed();
    for name in ["a", "b"] {
        let node = json!({"metadata": {"name": name, "uid": name, "labels": {"tier": "x"}}});
        index.apply(Event::Applied(Resource::EdgeNodes, node));
    }
    let body = |node: &str| match index.settings(node) {
        Slot::Present(present) => present.body,
        slot => panic!("{slot:?}"),
    };
    assert!(Arc::ptr_eq(&body("a"), &body("b")));
}

#[test]
fn secrets_are_followed_and_kept_only_while_something_names_them() {
    let revision = |names: bool| {
        let env = if names { json!([{"secretRef": {"name": "settings"}}]) } else { json!([]) };
        let template = json!({"spec": {"containers": [{"name": "c", "image": "web", "envFrom": env}]}});
        let object = json!({"metadata": {"labels": {"selvedge.dev/application": "web"}},
            "data": {"selector": {}, "template": template}});
        event(&change(Resource::ControllerRevisions, "shop", "r1", Some(object)), 3)
    };
    let labels = json!({"selvedge.dev/edge": "enabled"});
    let namespace = change(Resource::Namespaces, "", "shop", Some(json!({"metadata": {"labels": labels}})));
    let (shop, key) = (Resource::Secrets("shop".into()), ObjectKey::new("shop", "settings"));
    let secret = || {
        let object = json!({"metadata": {"uid": "s"}, "data": {"PIN": "TWFnaWM="}});
        event(&change(shop.clone(), "shop", "settings", Some(object)), 4)
    };
    assert!(!format!("{:?}", secret()).contains("TWFnaWM"));

    let mut index = Index::default();
    for event in [event(&namespace, 2), revision(true), secret()] {
        index.apply(event);
    }
    assert!(!index.to_follow().contains(&shop), "without the key no version can be named");
    assert!(index.dropped(&shop, &key).is_some() && !format!("{index:?}").contains("TWFnaWM"));

    index.set_version_key(version_key());
    assert!(index.to_follow().contains(&shop));
    index.apply(secret());
    assert!(index.dropped(&shop, &key).is_none() && !format!("{index:?}").contains("TWFnaWM"));

    index.apply(revision(false));
    assert!(!index.to_follow().contains(&shop), "nothing names one any more");
}

/// Revisions r1 to r3 name a Secret each; the rollout gives r2 to all nodes that it selects.
#[test]
fn data_is_kept_of_what_a_workload_of_a_served_node_names() {
    let mut index = listed();
    let mut revisions = 2..;
    let mut apply = |index: &mut Index, resource: &Resource, namespace: &str, name: &str, object: Value| {
        let change = change(resource.clone(), namespace, name, Some(object));
        index.apply(event(&change, revisions.next().unwrap()))
    };
    let shop = Resource::Secrets("shop".into());
    let enabled = json!({"metadata": {"labels": {"selvedge.dev/edge": "enabled"}}});
    apply(&mut index, &Resource::Namespaces, "", "shop", enabled);
    for (node, tier) in [("n1", "a"), ("n2", "b")] {
        let object = json!({"metadata": {"uid": node, "labels": {"tier": tier}}});
        apply(&mut index, &Resource::EdgeNodes, "", node, object);
    }
    let rollout = json!({"intervals": [{"from": 0, "to": 1_u64 << 32, "revision": "r2"}], "admitted": []});
    let web = json!({"metadata": {"uid": "web"}, "status": {"rollout": rollout}});
    apply(&mut index, &Resource::EdgeApplications, "shop", "web", web);
    for name in ["r1", "r2", "r3"] {
        let env = json!([{"secretRef": {"name": format!("of-{name}")}}]);
        let template = json!({"spec": {"containers": [{"name": "c", "image": "web", "envFrom": env}]}});
        let object = json!({"metadata": {"labels": {"selvedge.dev/application": "web"}},
            "data": {"selector": {"matchLabels": {"tier": "a"}}, "template": template}});
        apply(&mut index, &Resource::ControllerRevisions, "shop", name, object);
        let secret = json!({"metadata": {"uid": name}, "data": {"PIN": "TWFnaWM="}});
        apply(&mut index, &shop, "shop", &format!("of-{name}"), secret);
    }
    let serve = |index: &mut Index, nodes: &[&str]| -> Vec<&str> {
        forget(index, nodes);
        let kept = |name: &&str| index.dropped(&shop, &ObjectKey::new("shop", name)).is_none();
        ["of-r1", "of-r2", "of-r3"].into_iter().filter(kept).collect()
    };
    assert_eq!(serve(&mut index, &["n1", "n2"]), ["of-r2"]);
    let late = Pins::from([(ObjectKey::new("shop", "web"), "r1".into())]);
    assert!(!index.has_unfetched());
    let workload = workload_entry(&ObjectKey::new("shop", "web"));
    assert!(matches!(index.set("n1", &late)[&workload], Slot::Held(_)), "what it names is dropped");
    assert!(index.has_unfetched());
    let key = ObjectKey::new("shop", "of-r1");
    assert_eq!(index.take_unfetched(), [(shop.clone(), key)]);
    let secret = json!({"metadata": {"uid": "r1"}, "data": {"PIN": "TWFnaWM="}});
    let touched = apply(&mut index, &shop, "shop", "of-r1", secret);
    assert!(touched.parts.contains(&("n1".into(), Part::Workloads)), "who asked for it is told");
    assert!(matches!(index.set("n1", &late)[&workload], Slot::Present(_)));
    assert_eq!(serve(&mut index, &["n1", "n2"]), ["of-r1", "of-r2"], "a late node stays on r1");
    assert!(serve(&mut index, &["n2"]).is_empty(), "no revision selects it");
    assert!(index.set("n2", &Pins::new()).keys().all(|key| key.kind == EntryKind::NodeSettings));
    assert!(!index.has_unfetched());
}

#[test]
fn a_config_map_that_would_not_fit_into_a_frame_holds_its_workloads() {
    let mut index = listed();
    let all = json!([{"from": 0, "to": 1_u64 << 32, "revision": "r1"}]);
    let template = json!({"spec": {"containers": [{"name": "c", "image": "web:1",
        "envFrom": [{"configMapRef": {"name": "settings"}}]}]}});
    let selector = json!({"matchLabels": {"tier": "a"}});
    let labels = json!({"selvedge.dev/edge": "enabled"});
    let changes = [
        change(
            Resource::EdgeNodes,
            "",
            "n1",
            Some(json!({"metadata": {"uid": "n1", "labels": {"tier": "a"}}})),
        ),
        change(Resource::Namespaces, "", "shop", Some(json!({"metadata": {"labels": labels}}))),
        change(
            Resource::EdgeApplications,
            "shop",
            "web",
            Some(
                json!({"metadata": {"uid": "web"}, "status": {"rollout": {"intervals": all, "admitted": []}}}),
            ),
        ),
        change(
            Resource::ControllerRevisions,
            "shop",
            "r1",
            Some(json!({"metadata": {"labels": {"selvedge.dev/application": "web"}, "uid": "r1"},
                "data": {"selector": selector, "template": template, "overrides": []}})),
        ),
    ];
    for (revision, change) in (2..).zip(&changes) {
        index.apply(event(change, revision));
    }
    // A control character is one byte in the API server and six in JSON.
    for (revision, characters, fits) in [(10, 1000, true), (11, MAX_BODY_BYTES / 6, false)] {
        let data = json!({"KEY": "\u{1}".repeat(characters)});
        let map = json!({"metadata": {"uid": "s"}, "data": data});
        index.apply(event(
            &change(Resource::ConfigMaps("shop".into()), "shop", "settings", Some(map)),
            revision,
        ));
        let slots = index.set("n1", &Pins::new());
        let workload = &slots[&workload_entry(&ObjectKey::new("shop", "web"))];
        match workload {
            Slot::Present(_) => assert!(fits),
            Slot::Held(held) => {
                assert!(!fits && held.reason == Reason::TooLarge, "{held:?}");
                assert!(
                    held.message.starts_with("ConfigMap shop/settings takes 2088979 bytes"),
                    "{}",
                    held.message
                );
            }
            Slot::Absent => panic!("nobody took it away"),
        }
    }
}

/// What is as it was before there was a setting must hash as it did then: hashes of all nodes would change else.
#[test]
fn on_delete_is_a_setting_of_its_node_and_its_default_is_not_said() {
    let mut index = listed();
    let mut apply = |spec: Value| {
        let metadata = json!({"name": "n1", "uid": "u", "labels": {"tier": "a"}});
        let touched =
            index.apply(Event::Applied(Resource::EdgeNodes, json!({"metadata": metadata, "spec": spec})));
        let Slot::Present(settings) = index.settings("n1") else { panic!("{:?}", index.settings("n1")) };
        (touched.parts.contains(&("n1".into(), Part::Settings)), settings.body.bytes.clone())
    };
    let (_, before) = apply(json!({}));
    assert_eq!(&before[..], br#"{"labels":{"tier":"a"}}"#);
    assert_eq!(apply(json!({"onDelete": "Keep"})), (false, before.clone()));
    assert_eq!(
        apply(json!({"onDelete": "Stop"})),
        (true, br#"{"labels":{"tier":"a"},"onDelete":"Stop"}"#[..].into())
    );
    assert_eq!(apply(json!({})), (true, before));
}
