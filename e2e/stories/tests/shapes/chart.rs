//! The chart: values, what it renders, and whether a real API server takes it.

use selvedge_stories::{Outcome, expect};
use serde_json::{Value, json};

use crate::{Stage, io, unexpected};

/// Where it is installed.
pub const NAMESPACE: &str = "selvedge-system";

/// Values with which everything that is optional is there.
pub const EVERYTHING: [&str; 4] = [
    "--set",
    "hub.endpoints={https://hub.example:443,https://[fd00::1]:30443,https://hub.example:444}",
    "--set",
    "serviceMonitor.enabled=true",
];

/// What the chart renders with `words` (`--set …`), as YAML.
pub fn render(stage: &Stage, words: &[&str]) -> Outcome<String> {
    let chart = stage.path("charts/selvedge");
    let mut args = vec!["template", "selvedge", &chart, "--namespace", NAMESPACE, "--kube-version", "1.33.0"];
    args.extend(words);
    Ok(stage.tools.helm(&args)?)
}

/// The objects of rendered YAML.
pub fn objects(text: &str) -> Outcome<Vec<Value>> {
    serde_yaml::Deserializer::from_str(text)
        .map(serde::Deserialize::deserialize)
        .filter(|object| !matches!(object, Ok(Value::Null)))
        .collect::<Result<_, serde_yaml::Error>>()
        .map_err(|error| unexpected("the chart renders YAML", error))
}

/// The items of a list; none when there is no list.
pub fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

pub fn passes_lint(stage: &Stage) -> Outcome {
    stage.tools.helm(&["lint", "--strict", "--quiet", &stage.path("charts/selvedge")])?;
    Ok(())
}

pub fn refuses_values(stage: &Stage) -> Outcome {
    for (value, words) in [
        ("hub.replica=3", "additional properties 'replica' not allowed"),
        ("hub.replicas=0", "hub/replicas"),
        ("hub.image.name=hub", "additional properties 'name' not allowed"),
        ("hub.statusWrites.concurrencyShares=0", "hub/statusWrites/concurrencyShares"),
        ("hub.endpoints={hub.example}", "hub/endpoints/0"),
        ("hub.endpoints={https://hub.example/path:443}", "hub/endpoints/0"),
        ("image.pullPolicy=Sometimes", "image/pullPolicy"),
        ("log.format=xml", "log/format"),
        // Without a port, a policy would let out to all of them.
        ("networkPolicy.apiServerPorts=null", "missing property 'apiServerPorts'"),
        ("networkPolicy.apiServerPorts={https}", "networkPolicy/apiServerPorts/0"),
        ("networkPolicy.metricsFrom[0].namespace=a", "additional properties 'namespace' not allowed"),
    ] {
        let refused = render(stage, &["--set", value]);
        let found = refused.map_or_else(|error| error.to_string(), |_| "it renders".into());
        expect(&format!("--set {value} is refused"), found.contains(words), found)?;
    }
    let chart = stage.path("charts/selvedge");
    let (taken, _, said) = stage.attempt("helm", &["template", &chart, "--kube-version", "1.32.9"], "")?;
    expect(
        "an older Kubernetes is refused",
        !taken && said.contains("requires kubeVersion: >=1.33.0-0"),
        said,
    )
}

/// Objects, arguments and rights, one a line: what a reviewer wants to see change.
pub fn renders_what_was_reviewed(stage: &Stage) -> Outcome {
    let text = render(stage, &EVERYTHING)?;
    // The webhook owns it by server-side apply: one that is rendered would be taken away by an upgrade.
    expect("no caBundle is rendered", !text.contains("caBundle:"), "caBundle:")?;
    let objects = objects(&text)?;
    for crd in objects.iter().filter(|object| object["kind"] == "CustomResourceDefinition") {
        let policy = &crd["metadata"]["annotations"]["helm.sh/resource-policy"];
        expect("CRDs outlive helm uninstall", policy == "keep", &crd["metadata"])?;
    }
    let mut lines: Vec<String> = objects.iter().flat_map(summary).collect();
    lines.push(String::new());
    let summary = lines.join("\n");
    let path = stage.repository.join("e2e/stories/tests/shapes/chart.txt");
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        std::fs::write(&path, &summary).map_err(io("write the golden file"))?;
    }
    let reviewed = std::fs::read_to_string(path).map_err(io("read the golden file"))?;
    expect(
        "chart.txt is what is rendered (else: UPDATE_GOLDENS=1, and read the diff)",
        summary == reviewed,
        summary,
    )?;
    let without = render(stage, &["--set", "crds.install=false"])?;
    expect("CRDs can be left out", !without.contains("kind: CustomResourceDefinition"), "a CRD")?;
    let staged = render(stage, &["--set", "image.tag=2.0.0", "--set", "hub.image.tag=1.0.0"])?;
    let images: Vec<&str> = staged.lines().filter(|line| line.trim().starts_with("image: ")).collect();
    let old = |line: &&&str| line.ends_with("/selvedge-hub:1.0.0");
    let new = images.iter().filter(|line| line.ends_with(":2.0.0")).count();
    let one = images.iter().filter(old).count() == 1 && new == images.len() - 1;
    expect("the hub alone can be of another release", one, images.join("\n"))
}

fn summary(object: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| items(value).map(&text).collect::<Vec<_>>().join(",");
    let name = [&object["metadata"]["namespace"], &object["metadata"]["name"]]
        .into_iter()
        .filter_map(Value::as_str)
        .collect::<Vec<_>>()
        .join("/");
    let mut lines = vec![format!("{} {name}", text(&object["kind"]))];
    for rule in items(&object["rules"]) {
        let names = list(&rule["resourceNames"]);
        let names = if names.is_empty() { names } else { format!(" named {names}") };
        let (group, resources) = (list(&rule["apiGroups"]), list(&rule["resources"]));
        let dot = if group.is_empty() { "" } else { "." };
        lines.push(format!("  {}: {resources}{dot}{group}{names}", list(&rule["verbs"])));
    }
    for subject in items(&object["subjects"]) {
        let role = &object["roleRef"];
        lines.push(format!(
            "  {} {} <- {}",
            text(&role["kind"]),
            text(&role["name"]),
            text(&subject["name"])
        ));
    }
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in items(&object["spec"][direction]) {
            let port = |of: &Value| format!("{}/{}", of["port"], of["protocol"].as_str().unwrap_or("TCP"));
            let ports: Vec<String> = items(&rule["ports"]).map(port).collect();
            let peer = if rule[peers].is_null() { "anywhere".into() } else { rule[peers].to_string() };
            lines.push(format!("  {direction} {} {peers} {peer}", ports.join(",")));
        }
    }
    let pod = &object["spec"]["template"]["spec"];
    for container in items(&pod["containers"]) {
        let replicas = &object["spec"]["replicas"];
        lines.push(format!("  {replicas} x {} {}", text(&container["image"]), list(&container["args"])));
    }
    lines
}

/// Every object, with the namespace's Pod Security warnings as errors.
pub fn is_taken_by_the_api_server(stage: &Stage) -> Outcome {
    stage.tools.kubectl_with(&["apply", "-f", "-"], NAMESPACES)?;
    let text = render(stage, &["--set", "hub.service.type=NodePort", "--set", "hub.service.nodePort=30443"])?;
    let args = [
        "apply",
        "--dry-run=server",
        "--warnings-as-errors",
        "--force-conflicts",
        "--server-side",
        "-f",
        "-",
    ];
    let said = stage.tools.kubectl_with(&args, &text)?;
    let expected = objects(&text)?.len();
    expect("all objects are taken", said.lines().count() == expected, said)?;
    let chart = stage.path("charts/selvedge");
    // The CRDs of this API server were applied by kubectl.
    let install = ["install", "selvedge", &chart, "-n", NAMESPACE, "--dry-run=server", "--take-ownership"];
    let said = stage.tools.helm(&install)?;
    expect("helm says what to do next", said.contains("kubectl get selvedge -A"), said)
}

/// Installed without a node to run it on, upgraded, uninstalled and installed again: who owns what.
pub fn installs_over_what_it_kept(stage: &Stage) -> Outcome {
    let chart = stage.path("charts/selvedge");
    let helm = |words: &[&str]| stage.tools.helm(&[words, &["-n", NAMESPACE]].concat());
    stage.tools.kubectl_with(&["apply", "-f", "-"], NAMESPACES)?;
    helm(&["install", "selvedge", &chart, "--take-ownership"])?;

    // As the webhook does it.
    let view = "jsonpath={.clusters[0].cluster.certificate-authority-data}";
    let bundle = stage.tools.kubectl(&["config", "view", "--raw", "-o", view])?;
    let webhooks = ["validate.selvedge.dev", "validate-devicemodel-delete.selvedge.dev"]
        .map(|name| json!({"name": name, "clientConfig": {"caBundle": bundle}}));
    let own = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "selvedge-webhook"}, "webhooks": webhooks,
    });
    let apply = ["apply", "--server-side", "--field-manager=selvedge-webhook", "--validate=false", "-f", "-"];
    stage.tools.kubectl_with(&apply, &own.to_string())?;
    helm(&["upgrade", "selvedge", &chart, "--set", "webhook.replicas=1"])?;
    let bundles = "jsonpath={.webhooks[*].clientConfig.caBundle}";
    let found =
        stage.tools.kubectl(&["get", "validatingwebhookconfiguration", "selvedge-webhook", "-o", bundles])?;
    expect("an upgrade leaves the caBundles", found == format!("{bundle} {bundle}"), found)?;
    with_a_dead_webhook(stage)?;

    helm(&["uninstall", "selvedge", "--wait", "--timeout", "60s"])?;
    stage.tools.kubectl(&[
        "get",
        "device/boiler-1",
        "edgenode/shop-0042",
        "ns/selvedge-join",
        "-n",
        "shop",
    ])?;
    let gone = stage.tools.object(&["deployments", "-n", NAMESPACE]);
    let none = gone.as_ref().and_then(|list| list["items"].as_array()).is_some_and(Vec::is_empty);
    expect("its Deployments are gone", none, format!("{gone:?}"))?;
    helm(&["install", "selvedge", &chart])?;
    helm(&["uninstall", "selvedge", "--wait", "--timeout", "60s"])?;
    Ok(())
}

/// Only changes of what users want wait for the webhook.
fn with_a_dead_webhook(stage: &Stage) -> Outcome {
    let patch = |patch: &str, more: &[&str]| {
        let words = ["patch", "device", "room-1", "-n", "shop", "--type=merge", "-p", patch];
        stage.attempt("kubectl", &[&words[..], more].concat(), "")
    };
    for (what, text, more) in [
        ("metadata", r#"{"metadata":{"labels":{"a":"b"}}}"#, &[][..]),
        ("status", r#"{"status":{"summary":"light=40"}}"#, &["--subresource=status"][..]),
    ] {
        let (passed, _, said) = patch(text, more)?;
        expect(&format!("{what} passes without the webhook"), passed, said)?;
    }
    let (passed, _, said) = patch(r#"{"spec":{"desired":{"light":41}}}"#, &[])?;
    expect("spec does not", !passed && said.contains("failed calling webhook"), said)
}

const NAMESPACES: &str = r"
apiVersion: v1
kind: Namespace
metadata:
  name: selvedge-system
  labels: {pod-security.kubernetes.io/warn: restricted}
---
apiVersion: v1
kind: Namespace
metadata: {name: selvedge-join}
";
