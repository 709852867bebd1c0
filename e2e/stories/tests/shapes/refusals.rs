//! What schema and CEL refuse, with the words that a user reads; and what lies just inside the bounds.

use selvedge_stories::{Outcome, expect};

use crate::Stage;

/// Kind, name, JSON patch operations (a merge patch when it begins with a brace), words of the answer.
type Case = (&'static str, &'static str, &'static str, &'static str);

const REFUSED: [Case; 18] = [
    (
        "device",
        "boiler-1",
        r#"{"spec":{"protocol":{"simulated":{}}}}"#,
        "spec.protocol: Invalid value: must have exactly one member: modbus or simulated",
    ),
    (
        "device",
        "boiler-1",
        r#"{"spec":{"protocol":{"modbus":null}}}"#,
        "must have exactly one member: modbus or simulated",
    ),
    (
        "device",
        "boiler-1",
        r#"{"spec":{"protocol":{"modbus":{"tcp":null}}}}"#,
        "spec.protocol.modbus: Invalid value: must have exactly one member: tcp",
    ),
    (
        "device",
        "boiler-1",
        r#"{"spec":{"protocol":{"modbus":{"tcp":{"port":0}}}}}"#,
        "spec.protocol.modbus.tcp.port: Invalid value: 0: spec.protocol.modbus.tcp.port in body should be greater than or equal to 1",
    ),
    (
        "device",
        "boiler-1",
        r#"{"spec":{"protocol":{"modbus":{"unitId":256}}}}"#,
        "should be less than or equal to 255",
    ),
    ("device", "boiler-1", r#"{"spec":{"nodeName":"shop-0043"}}"#, "a moved device could have two masters"),
    (
        "device",
        "boiler-1",
        r#"{"spec":{"modelRef":{"name":"room"}}}"#,
        "delete the device and create it with the other model",
    ),
    ("device", "boiler-1", r#"{"spec":{"desired":{"setpoint":{"celsius":60}}}}"#, "spec.desired.setpoint"),
    ("device", "boiler-1", r#"{"spec":{"desired":{"setpoint":[60]}}}"#, "spec.desired.setpoint"),
    (
        "device",
        "boiler-1",
        r#"{"spec":{"properties":[{"name":"pump"},{"name":"pump"}]}}"#,
        r#"Duplicate value: {"name":"pump"}"#,
    ),
    (
        "device",
        "boiler-1",
        r#"{"spec":{"properties":[{"name":"pump","readInterval":"1.5s"}]}}"#,
        "readInterval",
    ),
    (
        "device",
        "boiler-1",
        r#"{"spec":{"properties":[{"name":"pump","source":{"modbus":{"table":"Coil","address":1},"simulated":{}}}]}}"#,
        "must have exactly one member: modbus or simulated",
    ),
    (
        "device",
        "boiler-1",
        r#"{"spec":{"properties":[{"name":"pump","source":{"modbus":{"table":"Unknown","address":1}}}]}}"#,
        r#"supported values: "Coil", "DiscreteInput", "HoldingRegister", "InputRegister""#,
    ),
    (
        "devicemodel",
        "boiler",
        r#"[{"op":"replace","path":"/spec/properties/0/type","value":"int"}]"#,
        "the type of a property cannot be changed: add a property with another name",
    ),
    (
        "devicemodel",
        "boiler",
        r#"[{"op":"replace","path":"/spec/properties/0/name","value":"0temperature"}]"#,
        "should match '^[A-Za-z][A-Za-z0-9_-]{0,62}$'",
    ),
    ("devicemodel", "boiler", r#"{"spec":{"properties":[]}}"#, "spec.properties"),
    (
        "edgeapplication",
        "hello",
        r#"{"spec":{"selector":{"matchLabels":{"tier":null}}}}"#,
        "must not be empty: name at least one label",
    ),
    (
        "edgeapplication",
        "hello",
        r#"{"spec":{"template":{"spec":{"containers":[]}}}}"#,
        "spec.template.spec.containers",
    ),
];

pub fn say_what_is_wrong_where(stage: &Stage) -> Outcome {
    for (kind, name, patch, words) in REFUSED {
        let (taken, _, said) = dry_patch(stage, kind, name, patch)?;
        expect(
            &format!("{kind} {name} {patch} is refused with {words:?}"),
            !taken && said.contains(words),
            said,
        )?;
    }
    for (kind, name, words) in [
        ("EdgeNode", "shop.0042".to_owned(), "metadata.name must be a DNS label: 1-63"),
        ("EdgeNode", "n".repeat(64), "metadata.name must be a DNS label: 1-63"),
        ("EdgeApplication", "a".repeat(53), "metadata.name must be a DNS label of at most 52 characters"),
    ] {
        let (taken, _, said) = dry_create(stage, kind, &name)?;
        expect(&format!("{kind} {name} is refused"), !taken && said.contains(words), said)?;
    }
    Ok(())
}

pub fn let_through_what_is_just_inside(stage: &Stage) -> Outcome {
    const TAKEN: [(&str, &str, &str); 7] = [
        ("device", "boiler-1", r#"{"spec":{"protocol":{"modbus":null,"simulated":{}}}}"#),
        ("device", "boiler-1", r#"{"spec":{"protocol":{"modbus":{"unitId":255,"tcp":{"port":65535}}}}}"#),
        (
            "device",
            "boiler-1",
            r#"{"spec":{"desired":{"a":1.5,"b":"18446744073709551615","c":false,"d":"b24="}}}"#,
        ),
        (
            "device",
            "boiler-1",
            r#"{"spec":{"properties":[{"name":"pump","readInterval":"10ms","deadband":0.5}]}}"#,
        ),
        ("devicemodel", "boiler", r#"[{"op":"replace","path":"/spec/properties/0/name","value":"a"}]"#),
        (
            "edgeapplication",
            "hello",
            r#"{"spec":{"selector":{"matchLabels":null,"matchExpressions":[{"key":"tier","operator":"Exists"}]}}}"#,
        ),
        ("edgeapplication", "hello", r#"{"spec":{"template":{"spec":{"terminationGracePeriodSeconds":0}}}}"#),
    ];
    for (kind, name, patch) in TAKEN {
        let (taken, _, said) = dry_patch(stage, kind, name, patch)?;
        expect(&format!("{kind} {name} {patch} is taken"), taken, said)?;
    }
    for (kind, name) in
        [("EdgeNode", "n".repeat(63)), ("EdgeNode", "7".to_owned()), ("EdgeApplication", "a".repeat(52))]
    {
        let (taken, _, said) = dry_create(stage, kind, &name)?;
        expect(&format!("{kind} {name} is taken"), taken, said)?;
    }
    Ok(())
}

fn dry_patch(stage: &Stage, kind: &str, name: &str, patch: &str) -> Outcome<(bool, String, String)> {
    let form = if patch.starts_with('[') { "json" } else { "merge" };
    stage.attempt(
        "kubectl",
        &["patch", kind, name, "-n", "shop", "--dry-run=server", "--type", form, "-p", patch],
        "",
    )
}

fn dry_create(stage: &Stage, kind: &str, name: &str) -> Outcome<(bool, String, String)> {
    let spec = match kind {
        "EdgeNode" => serde_json::json!({}),
        _ => serde_json::json!({"selector": {"matchLabels": {"a": "b"}},
            "template": {"spec": {"containers": [{"name": "a", "image": "a"}]}}}),
    };
    let object = serde_json::json!({"apiVersion": "selvedge.dev/v1alpha1", "kind": kind,
        "metadata": {"name": name, "namespace": if kind == "EdgeNode" { None } else { Some("shop") }}, "spec": spec});
    stage.attempt("kubectl", &["create", "--dry-run=server", "-f", "-"], &object.to_string())
}
