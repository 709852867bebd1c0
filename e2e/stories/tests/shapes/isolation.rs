//! What the chart's pods may do to their nodes, and over the network. Policies are read here, and taken by a
//! real API server in `chart.rs`. That they are enforced is not tested: the network of our tests does not.

use selvedge_stories::{Outcome, expect};
use serde_json::{Value, json};

use crate::Stage;
use crate::chart::{EVERYTHING, items, objects, render};

/// Pod Security `restricted`, and a root file system that cannot be written.
pub fn pods_are_restricted(stage: &Stage) -> Outcome {
    let objects = objects(&render(stage, &EVERYTHING)?)?;
    let pods: Vec<&Value> = objects.iter().filter_map(template).map(|template| &template["spec"]).collect();
    expect("there are six", pods.len() == 6, pods.len())?;
    for namespace in objects.iter().filter(|object| object["kind"] == "Namespace") {
        let level = &namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"];
        expect("so is a namespace that the chart makes", level == "restricted", namespace)?;
    }
    for pod in pods {
        expect("a pod is restricted", restricted(pod), pod)?;
        for (path, value) in LOOSE {
            let mut loose = pod.clone();
            let (parent, key) = path.rsplit_once('/').unwrap_or_default();
            if let Some(parent) = loose.pointer_mut(parent) {
                parent[key] = serde_json::from_str(value).unwrap_or_default();
            }
            expect(&format!("{path}: {value} is refused"), !restricted(&loose), loose)?;
        }
    }
    Ok(())
}

/// What no pod of ours may have, each of which is seen.
const LOOSE: [(&str, &str); 12] = [
    ("/securityContext/runAsNonRoot", "false"),
    ("/securityContext/runAsUser", "0"),
    ("/securityContext/seccompProfile", "null"),
    ("/hostNetwork", "true"),
    ("/hostPID", "true"),
    ("/hostIPC", "true"),
    ("/volumes", r#"[{"name": "node", "hostPath": {"path": "/"}}]"#),
    ("/initContainers", r#"[{"name": "first"}]"#),
    ("/containers/0/ports", r#"[{"containerPort": 80, "hostPort": 80}]"#),
    ("/containers/0/securityContext/allowPrivilegeEscalation", "true"),
    ("/containers/0/securityContext/readOnlyRootFilesystem", "false"),
    ("/containers/0/securityContext/capabilities", r#"{"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}"#),
];

fn restricted(pod: &Value) -> bool {
    let context = &pod["securityContext"];
    let user = context["runAsNonRoot"] == true && context["runAsUser"] != 0;
    let seccomp = context["seccompProfile"] == json!({"type": "RuntimeDefault"});
    let host = ["hostNetwork", "hostPID", "hostIPC"].iter().any(|what| pod[*what] == true);
    // What our pods have; more would be allowed.
    let volumes = items(&pod["volumes"]).all(|volume| volume.get("projected").is_some());
    // Exactly this, so a container takes nothing back of what its pod says.
    let own = json!({
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
    });
    let containers =
        ["containers", "initContainers"].into_iter().flat_map(|part| items(&pod[part])).all(|of| {
            of["securityContext"] == own && items(&of["ports"]).all(|port| port.get("hostPort").is_none())
        });
    user && seccomp && !host && volumes && containers
}

/// What is not drawn is shut, and what is drawn leads to a port that is there.
pub fn pods_are_behind_policies(stage: &Stage) -> Outcome {
    let found = open(&objects(&render(stage, &EVERYTHING)?)?).join("\n");
    expect("policies fit the pods", found.is_empty(), found)?;
    let found = open(&objects(&render(stage, &["--set", "networkPolicy.enabled=false"])?)?);
    // Two directions of six Deployments, whose nine ports are not let in.
    expect("without policies all is open", found.len() == 2 * 6 + 9, found.join("\n"))
}

/// Directions that no policy shuts, and ports that no policy opens or no pod has.
fn open(objects: &[Value]) -> Vec<String> {
    let policies: Vec<&Value> = objects.iter().filter(|object| object["kind"] == "NetworkPolicy").collect();
    let mut found = Vec::new();
    for workload in objects {
        let Some(template) = template(workload) else { continue };
        let name = &workload["metadata"]["name"];
        let of_it = policies.iter().filter(|policy| {
            policy["metadata"]["namespace"] == workload["metadata"]["namespace"]
                && selects(&policy["spec"]["podSelector"], &template["metadata"]["labels"])
        });
        let of_it: Vec<&Value> = of_it.map(|policy| &policy["spec"]).collect();
        for direction in ["Ingress", "Egress"] {
            let shut = of_it.iter().any(|spec| items(&spec["policyTypes"]).any(|of| of == direction));
            found.extend((!shut).then(|| format!("{name}: {direction} is open")));
        }
        let let_in: Vec<&Value> = of_it
            .iter()
            .flat_map(|spec| items(&spec["ingress"]))
            .flat_map(|rule| items(&rule["ports"]))
            .map(|port| &port["port"])
            .collect();
        let has: Vec<&Value> = items(&template["spec"]["containers"])
            .flat_map(|container| items(&container["ports"]))
            .map(|port| &port["containerPort"])
            .collect();
        found.extend(
            has.iter().filter(|port| !let_in.contains(port)).map(|port| format!("{name}: {port} is shut")),
        );
        found.extend(
            let_in.iter().filter(|port| !has.contains(port)).map(|port| format!("{name} has no {port}")),
        );
    }
    found
}

fn template(object: &Value) -> Option<&Value> {
    let template = if object["kind"] == "Pod" { Some(object) } else { object.pointer("/spec/template") };
    template.filter(|template| template["spec"]["containers"].is_array())
}

fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted = selector["matchLabels"].as_object().into_iter().flatten();
    selector["matchExpressions"].is_null() && wanted.into_iter().all(|(label, value)| labels[label] == *value)
}
