//! Objects in, the sets of nodes out: each `tests/index/<case>.yaml` beside the text that it makes.
//! `UPDATE_GOLDENS=1 cargo test -p selvedge-hub --test index` writes the texts anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::path::Path;

use selvedge_hub::index::{Event, Index, Pins, Resource, Slot};
use selvedge_model::VersionKey;
use serde::Deserialize as _;
use serde_json::Value;

fn resource(object: &Value) -> Resource {
    match object["kind"].as_str().unwrap() {
        "EdgeNode" => Resource::EdgeNodes,
        "Namespace" => Resource::Namespaces,
        "EdgeApplication" => Resource::EdgeApplications,
        "ControllerRevision" => Resource::ControllerRevisions,
        "DeviceModel" => Resource::DeviceModels,
        "Device" => Resource::Devices,
        "ConfigMap" => Resource::ConfigMaps(object["metadata"]["namespace"].as_str().unwrap().into()),
        "Secret" => Resource::Secrets(object["metadata"]["namespace"].as_str().unwrap().into()),
        kind => panic!("{kind} is no kind of the index"),
    }
}

fn render(yaml: &str) -> String {
    let mut index = Index::default();
    index.set_version_key(VersionKey::new(&[7; VersionKey::LENGTH]).unwrap());
    let (mut nodes, mut objects) = (Vec::new(), Vec::new());
    for (revision, document) in (100..).zip(serde_yaml::Deserializer::from_str(yaml)) {
        let mut object = Value::deserialize(document).unwrap();
        object["metadata"]["resourceVersion"] = i32::to_string(&revision).into();
        if object["kind"] == "EdgeNode" {
            nodes.push(object["metadata"]["name"].as_str().unwrap().to_owned());
        }
        objects.push(object.clone());
        index.apply(Event::Applied(resource(&object), object));
    }
    // What was dropped when nothing named it is fetched, as the feed does, when a node is found to need it.
    for node in &nodes {
        let _ = index.set(node, &Pins::new());
    }
    for (wanted, key) in index.take_unfetched() {
        let fetched = |object: &&Value| resource(object) == wanted && object["metadata"]["name"] == *key.name;
        for object in objects.iter().filter(fetched) {
            index.apply(Event::Applied(resource(object), object.clone()));
        }
    }
    for resource in Resource::CORE
        .into_iter()
        .chain([Resource::ConfigMaps("shop".into()), Resource::Secrets("shop".into())])
    {
        index.apply(Event::Listed(resource, 200));
    }
    let mut out = String::new();
    for node in nodes {
        writeln!(out, "{node}").unwrap();
        for (key, slot) in index.set(&node, &Pins::new()) {
            match slot {
                Slot::Present(present) => {
                    let body = std::str::from_utf8(&present.body.bytes).unwrap();
                    writeln!(
                        out,
                        "  {key} uid={} source={}\n    {body}",
                        present.uid, present.source_revision
                    )
                    .unwrap();
                }
                Slot::Held(held) => {
                    writeln!(out, "  {key} held {}: {}", held.reason.name(), held.message).unwrap()
                }
                Slot::Absent => panic!("{key} is listed and absent"),
            }
        }
    }
    out
}

#[test]
fn sets_are_as_written_down() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/index");
    let mut cases = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        cases += 1;
        let text = render(&std::fs::read_to_string(&path).unwrap());
        let golden = path.with_extension("txt");
        if std::env::var_os("UPDATE_GOLDENS").is_some() {
            std::fs::write(&golden, &text).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        assert!(text == expected, "{} makes\n{text}and not\n{expected}", path.display());
    }
    assert!(cases > 0);
}
