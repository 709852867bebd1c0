use serde_json::{Value, json};

use super::check;
use crate::pod::security::Level;

/// The faults of a spec with this template, one a line.
fn template(template: Value) -> String {
    spec(json!({"selector": {"matchLabels": {"tier": "shop"}}, "template": template}))
}

fn spec(spec: Value) -> String {
    check(&spec, Level::Privileged).iter().map(|fault| format!("{fault}\n")).collect()
}

fn web() -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {
        "containers": [{
            "name": "web", "image": "registry.example:5000/shop/web:1.4",
            "env": [
                {"name": "MODE", "value": "a"},
                {"name": "GREETING", "valueFrom": {"configMapKeyRef": {"name": "hello", "key": "greeting"}}},
            ],
            "envFrom": [{"prefix": "X_", "configMapRef": {"name": "hello"}}],
            "ports": [{"name": "http", "containerPort": 8080, "hostPort": 8080}],
            "volumeMounts": [{"name": "pages", "mountPath": "/etc/hello"}],
        }],
        "volumes": [{"name": "pages", "configMap": {"name": "hello", "items": [{"key": "page.html", "path": "a/b"}]}}],
    }})
}

#[test]
fn the_template_of_a_deployment_from_the_api_passes() {
    // What the API server writes into a Deployment by itself.
    let mut template_ = web();
    template_["metadata"]["creationTimestamp"] = Value::Null;
    let spec = &mut template_["spec"];
    for (name, value) in [
        ("dnsPolicy", json!("ClusterFirst")),
        ("restartPolicy", json!("Always")),
        ("schedulerName", json!("default-scheduler")),
        ("securityContext", json!({})),
        ("terminationGracePeriodSeconds", json!(30)),
    ] {
        spec[name] = value;
    }
    for (name, value) in [
        ("imagePullPolicy", json!("IfNotPresent")),
        ("resources", json!({})),
        ("terminationMessagePath", json!("/dev/termination-log")),
        ("terminationMessagePolicy", json!("File")),
    ] {
        spec["containers"][0][name] = value;
    }
    spec["containers"][0]["ports"][0]["protocol"] = json!("TCP");
    spec["volumes"][0]["configMap"]["defaultMode"] = json!(420);
    assert_eq!(template(template_), "");
}

#[test]
fn every_unsupported_field_is_named_by_its_path() {
    let mut template_ = web();
    template_["spec"]["hostNetwork"] = json!(true);
    template_["spec"]["initContainers"] = json!([]);
    template_["spec"]["containers"][0]["livenessProbe"] = json!({"httpGet": {"port": 80}});
    template_["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "1"}});
    template_["spec"]["containers"][0]["env"][1]["valueFrom"]["fieldRef"] =
        json!({"fieldPath": "spec.nodeName"});
    template_["spec"]["volumes"][0]["configMap"]["items"][0]["mode"] = json!(1);
    let faults = template(template_);
    for line in [
        "spec.template.spec.hostNetwork: true is not supported at the edge: write false or remove it",
        "spec.template.spec.initContainers: is not supported at the edge: remove it (supported here: containers, \
         restartPolicy, terminationGracePeriodSeconds, volumes)",
        "spec.template.spec.containers[0].livenessProbe: is not supported at the edge: remove it",
        "spec.template.spec.containers[0].resources: {\"limits\":{\"cpu\":\"1\"}} is not supported at the edge: remove it",
        "spec.template.spec.containers[0].env[1].valueFrom.fieldRef: is not supported at the edge: remove it \
         (supported here: configMapKeyRef, secretKeyRef)",
        "spec.template.spec.volumes[0].configMap.items[0].mode: is not supported at the edge: remove it (supported \
         here: key, path)",
    ] {
        assert!(faults.contains(line), "no {line:?} in\n{faults}");
    }
    assert_eq!(faults.lines().count(), 6, "{faults}");
}

#[test]
fn wrong_types_and_missing_fields_are_said() {
    assert_eq!(template(json!({})), "spec.template.spec: is required\n");
    assert_eq!(
        template(json!({"spec": {"containers": []}})),
        "spec.template.spec.containers: has 0 items: needs at least 1\n"
    );
    let mut template_ = web();
    let container = &mut template_["spec"]["containers"][0];
    container["env"][0]["value"] = json!(1);
    container["ports"][0]["containerPort"] = json!(70_000);
    container["imagePullPolicy"] = json!("Sometimes");
    container["command"] = json!("sh");
    container["volumeMounts"][0]["mountPath"] = Value::Null;
    let faults = template(template_);
    for line in [
        "spec.template.spec.containers[0].env[0].value: 1 must be text (put it in quotes",
        "spec.template.spec.containers[0].ports[0].containerPort: 70000 must be a whole number from 1 to 65535",
        "spec.template.spec.containers[0].imagePullPolicy: \"Sometimes\" must be one of Always, IfNotPresent, Never",
        "spec.template.spec.containers[0].command: \"sh\" must be a list",
        "spec.template.spec.containers[0].volumeMounts[0].mountPath: is required",
    ] {
        assert!(faults.contains(line), "no {line:?} in\n{faults}");
    }
}

#[test]
fn what_does_not_fit_together_is_said() {
    let faults = template(json!({"spec": {
        "containers": [
            {"name": "web", "image": "Web:1", "workingDir": "srv", "env": [
                {"name": "A", "value": "1"}, {"name": "A"}, {"name": "B=C"},
                {"name": "D", "value": "1", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
                {"name": "E", "valueFrom": {}}],
             "envFrom": [{}],
             "ports": [{"containerPort": 80, "hostPort": 80}, {"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}],
             "volumeMounts": [{"name": "none", "mountPath": "/a"}, {"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "b"}]},
            {"name": "web", "image": "web", "ports": [{"containerPort": 81, "hostPort": 80, "name": "HTTP"}]},
        ],
        "volumes": [{"name": "v", "configMap": {"name": "c", "items": [{"key": "a/b", "path": "../x"}]}}, {"name": "v"}],
    }}));
    let paths: Vec<_> = faults
        .lines()
        .map(|line| line.split(": ").next().unwrap().trim_start_matches("spec.template.spec."))
        .collect();
    assert_eq!(
        paths,
        [
            "volumes[0].configMap.items[0].key",
            "volumes[0].configMap.items[0].path",
            "volumes[1].name",
            "volumes[1]",
            "containers[0].image",
            "containers[0].workingDir",
            "containers[0].env[1].name",
            "containers[0].env[2].name",
            "containers[0].env[3]",
            "containers[0].env[4].valueFrom",
            "containers[0].envFrom[0]",
            "containers[0].ports[1]",
            "containers[0].volumeMounts[0].name",
            "containers[0].volumeMounts[1].mountPath",
            "containers[0].volumeMounts[2].mountPath",
            "containers[1].name",
            "containers[1].ports[0].name",
            "containers[1].ports[0].hostPort",
        ],
        "{faults}"
    );
}

#[test]
fn secrets_are_named_where_config_maps_are() {
    let faults = template(json!({"spec": {
        "containers": [{"name": "web", "image": "web:1",
            "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": true}}}],
            "envFrom": [{"prefix": "P_", "secretRef": {"name": "s"}}],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "secret": {"secretName": "s", "defaultMode": 256, "items": [
            {"key": "k", "path": "a/b"}]}}],
    }}));
    assert_eq!(faults, "");
    let faults = template(json!({"spec": {
        "containers": [{"name": "web", "image": "web:1",
            "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "S", "key": "a/b"},
                "configMapKeyRef": {"name": "c", "key": "k"}}}],
            "envFrom": [{"secretRef": {"name": "S"}, "configMapRef": {"name": "c"}}]}],
        "volumes": [{"name": "v", "configMap": {"name": "c"}, "secret": {"secretName": "S", "items": [
            {"key": "k", "path": "/b"}]}}],
    }}));
    let lines: Vec<_> = faults.lines().map(|line| line.trim_start_matches("spec.template.spec.")).collect();
    for (line, begins) in lines.iter().zip([
        "volumes[0]: has both configMap and secret: keep one",
        "volumes[0].secret.secretName: \"S\" is not a DNS name",
        "volumes[0].secret.items[0].path: \"/b\" must be a relative path",
        "containers[0].env[0].valueFrom: has both configMapKeyRef and secretKeyRef: keep one",
        "containers[0].env[0].valueFrom.secretKeyRef.name: \"S\" is not",
        "containers[0].env[0].valueFrom.secretKeyRef.key: \"a/b\" is no key of a ConfigMap or Secret",
        "containers[0].envFrom[0]: has both configMapRef and secretRef: keep one",
        "containers[0].envFrom[0].secretRef.name: \"S\" is not",
    ]) {
        assert!(line.starts_with(begins), "{line}\nand not\n{begins}");
    }
    assert_eq!(lines.len(), 8, "{faults}");
}

#[test]
fn selectors_and_overrides_are_checked() {
    let faults = spec(json!({
        "selector": {"matchExpressions": [{"key": "a b", "operator": "In"}, {"key": "a", "operator": "Near"}]},
        "template": web(),
        "overrides": [{"name": "Beta", "selector": {"matchLabels": {"ring": "-"}}, "containers": [
            {"name": "log"}, {"name": "web", "image": "w x", "env": [{"name": "A"}, {"name": "A"}]}]}],
    }));
    let paths: Vec<_> = faults.lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(
        paths,
        [
            "spec.selector.matchExpressions[0].key",
            "spec.selector.matchExpressions[0].values",
            "spec.selector.matchExpressions[1].operator",
            "spec.overrides[0].name",
            "spec.overrides[0].selector.matchLabels[ring]",
            "spec.overrides[0].containers[0].name",
            "spec.overrides[0].containers[1].image",
            "spec.overrides[0].containers[1].env[1].name",
        ],
        "{faults}"
    );
}
