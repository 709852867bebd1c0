//! What the shipped ServiceAccounts may do, asked of a real API server. The list of rights is reviewed in
//! `docs/reference/permissions.md`; here stand the walls that the security of the whole leans on.

use std::time::Duration;

use selvedge_stories::{Outcome, eventually, expect};
use serde_json::json;

use crate::{
    Stage,
    chart::{NAMESPACE, render},
};

/// May this account do this, to this resource (`[group/]resource[:subresource]`), in this namespace (empty:
/// cluster-wide), by this name (empty: to all)?
type Question = (&'static str, &'static str, &'static str, &'static str, &'static str, bool);

const SYSTEM: &str = NAMESPACE;
const JOIN: &str = "selvedge-join";
const CSRS: &str = "certificates.k8s.io/certificatesigningrequests";
const SIGNERS: &str = "certificates.k8s.io/signers";
const EVENTS: &str = "events.k8s.io/events";
const BINDINGS: &str = "rbac.authorization.k8s.io/rolebindings";
const WEBHOOKS: &str = "admissionregistration.k8s.io/validatingwebhookconfigurations";
const REFERENCES: &str = "selvedge-hub-references";

const QUESTIONS: [Question; 34] = [
    // One account alone reads the CA's key.
    ("edgenode-controller", "get", "secrets", SYSTEM, "selvedge-ca", true),
    ("edgenode-controller", "get", "secrets", SYSTEM, "selvedge-webhook-tls", false),
    ("edgenode-controller", "list", "secrets", SYSTEM, "", false),
    ("edgenode-controller", "list", "secrets", JOIN, "", true),
    ("edgenode-controller", "get", "secrets", "shop", "", false),
    ("selvedge-webhook", "get", "secrets", SYSTEM, "selvedge-ca", false),
    ("edgeapplication-controller", "get", "secrets", SYSTEM, "selvedge-ca", false),
    ("selvedge-hub", "get", "secrets", SYSTEM, "selvedge-ca", false),
    ("selvedge-hub", "get", "secrets", JOIN, "", false),
    // And one account alone the key with which Secrets are hashed.
    ("selvedge-hub", "get", "secrets", SYSTEM, "selvedge-secret-versions", true),
    ("selvedge-hub", "list", "secrets", SYSTEM, "", false),
    ("edgenode-controller", "get", "secrets", SYSTEM, "selvedge-secret-versions", false),
    // The hub reads references only where it was let in, and signs nothing.
    ("selvedge-hub", "list", "secrets", "shop", "", false),
    ("selvedge-hub", "list", "configmaps", "shop", "", false),
    ("selvedge-hub", "get", "configmaps", SYSTEM, "selvedge-cluster", true),
    ("selvedge-hub", "create", CSRS, "", "", true),
    ("selvedge-hub", "list", CSRS, "", "", false),
    ("selvedge-hub", "update", "certificates.k8s.io/certificatesigningrequests:approval", "", "", false),
    ("selvedge-hub", "approve", SIGNERS, "", "selvedge.dev/agent", false),
    ("selvedge-hub", "sign", SIGNERS, "", "selvedge.dev/agent", false),
    // The record of identity stands in annotations, which a write of status cannot change.
    ("selvedge-hub", "patch", "selvedge.dev/edgenodes:status", "", "", true),
    ("selvedge-hub", "patch", "selvedge.dev/edgenodes", "", "", false),
    ("selvedge-hub", "create", "pods", "shop", "", false),
    // Events are written by the hub and never read.
    ("selvedge-hub", "create", EVENTS, "shop", "", true),
    ("selvedge-hub", "list", EVENTS, "shop", "", false),
    ("selvedge-hub", "delete", EVENTS, "shop", "", false),
    // No certificate of the cluster's own.
    ("edgenode-controller", "sign", SIGNERS, "", "selvedge.dev/agent", true),
    ("edgenode-controller", "sign", SIGNERS, "", "kubernetes.io/kube-apiserver-client", false),
    ("edgenode-controller", "approve", SIGNERS, "", "kubernetes.io/kubelet-serving", false),
    // One binding, and no other.
    ("edgeapplication-controller", "list", BINDINGS, "", "selvedge-hub-references", true),
    ("edgeapplication-controller", "list", BINDINGS, "", "", false),
    ("edgeapplication-controller", "delete", BINDINGS, "shop", "other", false),
    // The webhook mends its own configuration and no other.
    ("selvedge-webhook", "patch", WEBHOOKS, "", "selvedge-webhook", true),
    ("selvedge-webhook", "patch", WEBHOOKS, "", "other", false),
];

pub fn are_as_narrow_as_they_look(stage: &Stage) -> Outcome {
    let components = ["edgenode-controller", "edgeapplication-controller", "devicemodel-controller"];
    let components = components.into_iter().chain(["device-controller", "webhook", "hub"]);
    let files: Vec<String> = components.map(|name| format!("templates/rbac/{name}.yaml")).collect();
    let words: Vec<&str> = files.iter().flat_map(|file| ["--show-only", file.as_str()]).collect();
    let rights = render(stage, &words)?;
    stage.tools.kubectl_with(&["apply", "--server-side", "-f", "-"], &rights)?;
    let outcome = ask(stage).and_then(|()| binds_the_hub_alone(stage));
    stage.tools.kubectl_with(&["delete", "--ignore-not-found", "-f", "-"], &rights)?;
    outcome
}

fn ask(stage: &Stage) -> Outcome {
    for (account, verb, resource, namespace, name, answer) in QUESTIONS {
        let (group, resource) = resource.split_once('/').unwrap_or(("", resource));
        let (resource, subresource) = resource.split_once(':').unwrap_or((resource, ""));
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": format!("system:serviceaccount:{NAMESPACE}:{account}"), "resourceAttributes": {
                "verb": verb, "group": group, "resource": resource, "subresource": subresource,
                "namespace": namespace, "name": name,
            }},
        });
        let question = format!("{account} may {verb} {resource} {subresource} {namespace}/{name}: {answer}");
        // The authorizer's cache of roles follows within moments.
        eventually(&question, Duration::from_secs(5), || {
            let args = ["create", "-f", "-", "-o", "jsonpath={.status.allowed}"];
            let said =
                stage.tools.kubectl_with(&args, &review.to_string()).map_err(|error| error.to_string())?;
            if said == answer.to_string() { Ok(()) } else { Err(said) }
        })?;
    }
    Ok(())
}

/// Whoever takes over the edgeapplication-controller lets the hub read references where a label says so, and
/// nobody else anything anywhere.
fn binds_the_hub_alone(stage: &Stage) -> Outcome {
    let user = format!("--as=system:serviceaccount:{NAMESPACE}:edgeapplication-controller");
    let bind = |name: &str, role: &str, account: &str, namespace: &str| {
        let (role, account) = (format!("--clusterrole={role}"), format!("--serviceaccount={account}"));
        let words =
            ["create", "rolebinding", name, &role, &account, "-n", namespace, "--dry-run=server", &user];
        stage.attempt("kubectl", &words, "")
    };
    let hub = format!("{NAMESPACE}:selvedge-hub");
    let (bound, _, said) = bind(REFERENCES, REFERENCES, &hub, "shop")?;
    expect("it binds the hub's references", bound, said)?;
    for role in ["admin", "cluster-admin", "selvedge:edgenode-controller"] {
        let (bound, _, said) = bind(REFERENCES, role, &hub, "shop")?;
        expect(
            &format!("it cannot bind {role}"),
            !bound && said.contains("attempting to grant RBAC permissions"),
            said,
        )?;
    }
    let own = format!("{NAMESPACE}:edgeapplication-controller");
    for (what, name, account, namespace, because) in [
        ("itself", REFERENCES, &own, "shop", "binds the hub alone"),
        ("the hub under another name", "other", &hub, "shop", "binds the hub alone"),
        ("the hub where no label is", REFERENCES, &hub, "default", "is let into namespaces with the label"),
        ("the hub beside the CA", REFERENCES, &hub, NAMESPACE, "is let into namespaces with the label"),
    ] {
        // The API server begins to hold a new policy within moments.
        eventually(&format!("it cannot bind {what}"), Duration::from_secs(30), || {
            match bind(name, REFERENCES, account, namespace) {
                Ok((false, _, said)) if said.contains(because) => Ok(()),
                Ok((_, _, said)) => Err(said),
                Err(error) => Err(error.to_string()),
            }
        })?;
    }
    Ok(())
}
