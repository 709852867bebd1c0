//! What every schema keeps: bounds everywhere, only members that mean something, a size that
//! client-side apply can carry; and how types decode what a newer version wrote.

use selvedge_crds::{DeviceModelSpec, DeviceSpec, manifest};
use serde_json::{Value, json};

/// Calls `visit` with every schema of a CRD and its path.
fn walk(path: &str, schema: &Value, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), property, visit);
    }
    for (key, suffix) in [("items", "[]"), ("additionalProperties", "{}")] {
        if schema[key].is_object() {
            walk(&format!("{path}{suffix}"), &schema[key], visit);
        }
    }
}

/// Every schema of every kind, with its path from the kind.
fn schemas() -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for crd in selvedge_crds::crds() {
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap_or_default().to_owned();
        let root = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        walk(&kind, root, &mut |path, schema| all.push((path.to_owned(), schema.clone())));
    }
    assert!(all.len() > 150, "the walk saw {} schemas only", all.len());
    all
}

#[test]
fn everything_that_can_grow_has_a_bound() {
    let unbounded = |schema: &Value| match schema["type"].as_str() {
        Some("string") => {
            schema["maxLength"].is_null() && schema["enum"].is_null() && schema["format"] != "date-time"
        }
        Some("array") => schema["maxItems"].is_null(),
        Some("object") => !schema["additionalProperties"].is_null() && schema["maxProperties"].is_null(),
        Some("integer" | "number" | "boolean") => false,
        _ => ["maxLength", "maxItems", "maxProperties"].iter().any(|bound| schema[*bound].is_null()),
    };
    let found: Vec<_> =
        schemas().into_iter().filter(|(_, schema)| unbounded(schema)).map(|(path, _)| path).collect();
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn every_field_is_described() {
    let silent = |(path, schema): &(String, Value)| {
        !path.ends_with("[]")
            && !path.ends_with("{}")
            && schema["description"].as_str().unwrap_or("").is_empty()
    };
    let found: Vec<_> = schemas().into_iter().filter(silent).map(|(path, _)| path).collect();
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn no_schema_offers_the_member_that_only_decoding_knows() {
    for (path, schema) in schemas() {
        let members = schema["enum"].as_array().cloned().unwrap_or_default();
        // A condition's status has Kubernetes' own Unknown.
        assert!(path.ends_with("conditions[].status") || !members.contains(&json!("Unknown")), "{path}");
    }
}

#[test]
fn the_api_server_fills_in_nothing_but_keys_of_lists() {
    let defaulted: Vec<_> =
        schemas().into_iter().filter(|(_, s)| !s["default"].is_null()).map(|(path, _)| path).collect();
    assert_eq!(defaulted, ["EdgeApplication.spec.template.spec.containers[].ports[].protocol"]);
}

#[test]
fn pod_objects_keep_unknown_fields_and_lists_have_the_keys_of_upstream() {
    let template = "EdgeApplication.spec.template";
    let mut lists = Vec::new();
    for (path, schema) in schemas().into_iter().filter(|(path, _)| path.starts_with(template)) {
        if schema["type"] == "object" && schema["additionalProperties"].is_null() {
            assert_eq!(schema["x-kubernetes-preserve-unknown-fields"], true, "{path}");
        }
        if let Some(keys) = schema["x-kubernetes-list-map-keys"].as_array() {
            lists.push((path[template.len()..].to_owned(), keys.clone()));
        }
    }
    let expected = [
        (".spec.containers", json!(["name"])),
        (".spec.containers[].env", json!(["name"])),
        (".spec.containers[].ports", json!(["containerPort", "protocol"])),
        (".spec.containers[].volumeMounts", json!(["mountPath"])),
        (".spec.volumes", json!(["name"])),
    ];
    lists.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(lists, expected.map(|(path, keys)| (path.to_owned(), keys.as_array().unwrap().clone())));
}

#[test]
fn crds_fit_the_annotation_of_client_side_apply() {
    for manifest in manifest::plain().unwrap() {
        // The annotation takes 256 KiB in all; other tools want some of it.
        assert!(manifest.text.len() < 200_000, "{} has {} bytes", manifest.file, manifest.text.len());
    }
}

#[test]
fn the_chart_holds_what_the_types_say() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/selvedge/templates/crds");
    for manifest in manifest::chart().unwrap() {
        let found = std::fs::read_to_string(format!("{folder}/{}", manifest.file)).unwrap();
        assert!(found == manifest.text, "{} is stale: run `make generate`", manifest.file);
    }
}

#[test]
fn what_a_newer_version_wrote_decodes_and_is_never_written_back() {
    let property = |value_type: &str, source: Value| json!({"properties": [{"name": "a", "type": value_type, "source": source}]});
    let newer = [
        property("decimal", json!({"modbus": {"table": "Coil", "address": 1}})),
        property("int", json!({"modbus": {"table": "FileRecord", "address": 1}})),
        property("int", json!({"modbus": {"table": "Coil", "address": 1, "encoding": "Bcd16"}})),
        property("int", json!({"simulated": {"waveform": "Noise"}})),
    ];
    for value in newer {
        let model: DeviceModelSpec = serde_json::from_value(value.clone()).unwrap();
        let error = serde_json::to_value(&model).unwrap_err();
        assert!(error.to_string().contains("Unknown cannot be serialized"), "{value} gave {error}");
    }
    // A member of a union that is not known leaves a union without members, which the rules call invalid.
    let device: DeviceSpec = serde_json::from_value(json!({
        "modelRef": {"name": "m"}, "nodeName": "n", "protocol": {"opcua": {"endpoint": "opc.tcp://x"}},
    }))
    .unwrap();
    assert!(device.protocol.modbus.is_none() && device.protocol.simulated.is_none());
}

#[test]
fn what_is_not_set_is_not_written() {
    let written = json!({
        "modelRef": {"name": "m"}, "nodeName": "n",
        "protocol": {"modbus": {"tcp": {"host": "h", "port": 502}, "unitId": 1}},
        "properties": [{"name": "a", "source": {"simulated": {"waveform": "Sine"}}}],
        "desired": {"a": 1.5},
    });
    let device: DeviceSpec = serde_json::from_value(written.clone()).unwrap();
    assert_eq!(serde_json::to_value(&device).unwrap(), written);
}
