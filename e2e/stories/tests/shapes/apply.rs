//! The ways to change one thing and leave the rest.

use selvedge_stories::{Outcome, StoryError, expect};
use serde_json::{Value, json};

use crate::{Stage, unexpected};

fn get(stage: &Stage, kind: &str, name: &str) -> Outcome<Value> {
    stage
        .tools
        .object(&[kind, name, "-n", "shop"])
        .ok_or_else(|| unexpected(&format!("{kind} {name}"), "nothing"))
}

/// Server-side apply as `manager`, without force.
fn own(stage: &Stage, manager: &str, object: &Value) -> Outcome<String> {
    let field_manager = format!("--field-manager={manager}");
    let args = ["apply", "--server-side", &field_manager, "--validate=false", "-f", "-"];
    Ok(stage.tools.kubectl_with(&args, &object.to_string())?)
}

pub fn merge_patch(stage: &Stage) -> Outcome {
    let patch = r#"{"spec":{"desired":{"setpoint":60}}}"#;
    stage.tools.kubectl(&["patch", "device", "boiler-1", "-n", "shop", "--type", "merge", "-p", patch])?;
    let found = get(stage, "device", "boiler-1")?;
    let expected = json!({"setpoint": 60, "pump": true});
    expect("only the setpoint changed", found["spec"]["desired"] == expected, &found["spec"]["desired"])?;
    let patch = r#"{"spec":{"desired":{"setpoint":null}}}"#;
    stage.tools.kubectl(&["patch", "device", "boiler-1", "-n", "shop", "--type", "merge", "-p", patch])?;
    let found = get(stage, "device", "boiler-1")?;
    expect(
        "null takes one away",
        found["spec"]["desired"] == json!({"pump": true}),
        &found["spec"]["desired"],
    )
}

pub fn client_side(stage: &Stage) -> Outcome {
    let path = stage.repository.join("examples/4-simulated.yaml");
    let text = std::fs::read_to_string(path).map_err(crate::io("read an example"))?;
    let changed = text.replace("light: 40", "light: 70");
    expect("the example has a value to change", changed != text, &text)?;
    let (same, difference, _) = stage.attempt("kubectl", &["diff", "-f", "-"], &changed)?;
    let lines: Vec<&str> =
        difference.lines().filter(|line| line.starts_with(['+', '-']) && line.contains("light:")).collect();
    expect("diff shows the change", !same && lines == ["-    light: 40", "+    light: 70"], &difference)?;
    stage.tools.kubectl_with(&["apply", "-f", "-"], &changed)?;
    let found = get(stage, "device", "room-1")?;
    expect("apply makes it", found["spec"]["desired"]["light"] == 70, &found["spec"])?;
    stage.tools.kubectl_with(&["apply", "-f", "-"], &text)?;
    Ok(())
}

/// With upstream's own schema in a CRD, the second owner's apply deletes the first one's container.
pub fn one_container(stage: &Stage) -> Outcome {
    let object = |containers: Value| {
        json!({
            "apiVersion": "selvedge.dev/v1alpha1", "kind": "EdgeApplication",
            "metadata": {"name": "shared", "namespace": "shop"},
            "spec": {"selector": {"matchLabels": {"tier": "shop"}}, "template": {"spec": {"containers": containers}}},
        })
    };
    let web = |image: &str| {
        json!([{"name": "web", "image": image, "ports": [{"containerPort": 80}],
            "env": [{"name": "A", "value": "1"}]}])
    };
    let log = json!([{"name": "log", "image": "log:1"}]);
    own(stage, "web-team", &object(web("web:1")))?;
    own(stage, "log-team", &object(log.clone()))?;
    // The same variable list, one variable each; the same port list, one port each.
    let more = json!([{"name": "web", "image": "web:1", "env": [{"name": "B", "value": "2"}],
        "ports": [{"containerPort": 80, "protocol": "UDP"}]}, log[0]]);
    own(stage, "log-team", &object(more))?;
    own(stage, "web-team", &object(web("web:1")))?;
    let containers = |found: &Value| found["spec"]["template"]["spec"]["containers"].clone();
    let found = containers(&get(stage, "edgeapplication", "shared")?);
    let expected = json!([
        {"name": "web", "image": "web:1", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
         "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "UDP"}]},
        {"name": "log", "image": "log:1"},
    ]);
    expect("both owners' parts are there", found == expected, &found)?;
    own(stage, "log-team", &object(json!([{"name": "web", "image": "web:1"}])))?;
    let found = containers(&get(stage, "edgeapplication", "shared")?);
    expect("what an owner leaves out goes, and nothing else", found == expected_without_log(), found)?;
    stage.tools.kubectl(&["delete", "edgeapplication", "shared", "-n", "shop"])?;
    Ok(())
}

fn expected_without_log() -> Value {
    json!([{"name": "web", "image": "web:1", "env": [{"name": "A", "value": "1"}],
        "ports": [{"containerPort": 80, "protocol": "TCP"}]}])
}

pub fn one_value(stage: &Stage) -> Outcome {
    let object = |desired: Value, properties: Value| {
        json!({
            "apiVersion": "selvedge.dev/v1alpha1", "kind": "Device",
            "metadata": {"name": "shared", "namespace": "shop"},
            "spec": {"modelRef": {"name": "room"}, "nodeName": "shop-0042", "protocol": {"simulated": {}},
                "desired": desired, "properties": properties},
        })
    };
    own(stage, "day", &object(json!({"light": 10}), json!([{"name": "light", "readInterval": "1s"}])))?;
    own(stage, "night", &object(json!({"heat": 5}), json!([{"name": "temperature", "readInterval": "5s"}])))?;
    let found = get(stage, "device", "shared")?;
    expect(
        "both values are there",
        found["spec"]["desired"] == json!({"light": 10, "heat": 5}),
        &found["spec"],
    )?;
    let names = found["spec"]["properties"].as_array().map_or(0, Vec::len);
    expect("both properties are there", names == 2, &found["spec"])?;
    let stolen = own(stage, "night", &object(json!({"light": 0}), json!([])));
    let conflict = matches!(&stolen, Err(StoryError::Kubectl(error)) if error.to_string().contains(".spec.desired.light"));
    expect("another's value is a conflict", conflict, format!("{stolen:?}"))?;
    stage.tools.kubectl(&["delete", "device", "shared", "-n", "shop"])?;
    Ok(())
}

/// The API server prunes before it asks webhooks: what is pruned cannot be refused by name.
pub fn unknown_pod_field(stage: &Stage) -> Outcome {
    let template = json!({
        "metadata": {"labels": {"app": "a"}, "finalizers": ["x/y"]},
        "spec": {
            "nodeSelector": {"disk": "ssd"},
            "containers": [{
                "name": "web", "image": "web:1", "livenessProbe": {"httpGet": {"port": 80}},
                "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                "envFrom": [{"secretRef": {"name": "s"}}],
                "ports": [{"containerPort": 80, "protocol": "TCP", "hostIP": "127.0.0.1"}],
                "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "x"}],
            }],
            "volumes": [{"name": "v", "hostPath": {"path": "/"}},
                {"name": "c", "configMap": {"name": "c", "items": [{"key": "k", "path": "p", "mode": 256}]}}],
        },
        "extra": {"of": "the template"},
    });
    let object = json!({
        "apiVersion": "selvedge.dev/v1alpha1", "kind": "EdgeApplication",
        "metadata": {"name": "unknown", "namespace": "shop"},
        "spec": {"selector": {"matchLabels": {"tier": "shop"}}, "template": template},
    });
    stage.tools.kubectl_with(&["create", "--validate=false", "-f", "-"], &object.to_string())?;
    let found = get(stage, "edgeapplication", "unknown")?;
    stage.tools.kubectl(&["delete", "edgeapplication", "unknown", "-n", "shop"])?;
    expect(
        "the template is as it was written",
        found["spec"]["template"] == template,
        &found["spec"]["template"],
    )
}

/// What the API server filled into a Deployment passes through our schema as it is.
pub fn template_of_a_deployment(stage: &Stage) -> Outcome {
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "containers": [{"name": "web", "image": "web:1", "ports": [{"containerPort": 80}],
                    "env": [{"name": "A", "value": "1"}], "volumeMounts": [{"name": "c", "mountPath": "/c"}]}],
                "volumes": [{"name": "c", "configMap": {"name": "c"}}],
            },
        }},
    });
    stage.tools.kubectl_with(&["create", "-f", "-"], &deployment.to_string())?;
    let template = get(stage, "deployment", "web")?["spec"]["template"].clone();
    stage.tools.kubectl(&["delete", "deployment", "web", "-n", "shop"])?;
    expect("the API server filled something in", template["spec"]["dnsPolicy"] == "ClusterFirst", &template)?;
    let object = json!({
        "apiVersion": "selvedge.dev/v1alpha1", "kind": "EdgeApplication",
        "metadata": {"name": "pasted", "namespace": "shop"},
        "spec": {"selector": {"matchLabels": {"tier": "shop"}}, "template": template},
    });
    stage.tools.kubectl_with(&["create", "--warnings-as-errors", "-f", "-"], &object.to_string())?;
    let found = get(stage, "edgeapplication", "pasted")?;
    stage.tools.kubectl(&["delete", "edgeapplication", "pasted", "-n", "shop"])?;
    expect("the template is as it was", found["spec"]["template"] == template, &found["spec"]["template"])
}
