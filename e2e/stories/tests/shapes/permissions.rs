//! What the chart's ServiceAccounts may do, right by right, against the table that a person reviewed:
//! `docs/reference/permissions.md`. In: what the chart renders, and the table. Out: what is wrong with
//! either, by name. `rights.rs` asks a real API server for the walls among them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use selvedge_stories::{Outcome, expect};
use serde_json::Value;

use crate::chart::{EVERYTHING, NAMESPACE, items, objects, render};
use crate::{Stage, io};

const TABLE: &str = "docs/reference/permissions.md";
const CLUSTER: &str = "cluster";
const HUB: &str = "selvedge-hub";
/// Of the chart's ClusterRoles one is bound at run time: by the edgeapplication-controller, to the hub.
const BOUND_AT_RUN_TIME: &str = "ClusterRole selvedge-hub-references";
const LABELLED: &str = "labelled namespaces";

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    account: String,
    /// `cluster`, `labelled namespaces`, or a namespace.
    scope: String,
    /// As kubectl writes it: `devices.selvedge.dev/status`.
    resource: String,
    /// `*`: every one.
    name: String,
    verb: String,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { account, scope, resource, name, verb } = self;
        write!(f, "{account}, {scope}: {verb} {resource} {name}")
    }
}

impl Right {
    fn reads(&self) -> bool {
        ["get", "list", "watch"].contains(&&*self.verb)
    }
}

/// What no row can explain.
type Wall = (&'static str, fn(&Right) -> bool);

const WALLS: [Wall; 4] = [
    ("edgenode-controller alone has the CA", |right| {
        let there = [CLUSTER, NAMESPACE].contains(&&*right.scope) && right.resource == "secrets";
        // The answers to writes show the object too. To create one, it must not be there.
        let shown = ["selvedge-ca", "*"].contains(&&*right.name) && right.verb != "create";
        there && shown && right.account != "edgenode-controller"
    }),
    ("the hub writes statuses, requests for certificates and events alone", |right| {
        let written = match &*right.verb {
            "create" if right.resource == "certificatesigningrequests.certificates.k8s.io" => true,
            "create" | "patch" if right.resource == "events.events.k8s.io" => true,
            "patch" => right.resource.ends_with(".selvedge.dev/status"),
            _ => right.reads(),
        };
        right.account == HUB && !written
    }),
    ("nobody makes pods", |right| {
        let kind = right.resource.split('/').next().unwrap_or_default();
        let pods = ["pods", "replicationcontrollers"].contains(&kind) || kind.ends_with(".batch");
        let workloads = kind.ends_with(".apps") && kind != "controllerrevisions.apps";
        (pods || workloads) && !right.reads()
    }),
    ("nobody escalates, impersonates or issues tokens", |right| {
        let tokens = right.resource == "serviceaccounts/token";
        tokens || ["escalate", "impersonate"].contains(&&*right.verb)
    }),
];

pub fn are_explained(stage: &Stage) -> Outcome {
    let renderings = [objects(&render(stage, &[])?)?, objects(&render(stage, &EVERYTHING)?)?];
    let table = std::fs::read_to_string(stage.path(TABLE)).map_err(io("read the table of rights"))?;
    let complaints = review(&renderings, &table);
    expect(&format!("{TABLE} explains every right and no other"), complaints.is_empty(), lines(complaints))
}

fn lines(complaints: BTreeSet<String>) -> String {
    complaints.into_iter().collect::<Vec<_>>().join("\n")
}

/// What is wrong with the rights or with the table.
fn review(renderings: &[Vec<Value>], table: &str) -> BTreeSet<String> {
    let mut complaints = BTreeSet::new();
    let granted: BTreeSet<Right> =
        renderings.iter().flat_map(|objects| granted(objects, &mut complaints)).collect();
    let explained = explained(table, &mut complaints);
    for right in &granted {
        if !explained.contains_key(right) {
            complaints.insert(format!("no row explains: {right}"));
        }
        for (wall, _) in WALLS.iter().filter(|(_, broken)| broken(right)) {
            complaints.insert(format!("{wall}: {right}"));
        }
    }
    for (right, row) in explained.iter().filter(|(right, _)| !granted.contains(right)) {
        complaints.insert(format!("nobody grants: {right}, but a row explains it: {row}"));
    }
    complaints
}

/// The rights that roles give, by way of their bindings.
fn granted(objects: &[Value], complaints: &mut BTreeSet<String>) -> BTreeSet<Right> {
    let of_kind =
        |kinds: &'static [&str]| objects.iter().filter(|object| kinds.contains(&text(&object["kind"])));
    let accounts: BTreeSet<(&str, &str)> = of_kind(&["ServiceAccount"])
        .map(|account| (text(&account["metadata"]["namespace"]), text(&account["metadata"]["name"])))
        .collect();
    let roles: BTreeMap<String, &Value> =
        of_kind(&["Role", "ClusterRole"]).map(|role| (title(role), role)).collect();
    for (title, role) in &roles {
        complaints.extend(widened(title, role));
    }
    let mut rights = BTreeSet::new();
    let mut bound = BTreeSet::new();
    for binding in of_kind(&["RoleBinding", "ClusterRoleBinding"]) {
        let namespace = text(&binding["metadata"]["namespace"]);
        let (kind, name) = (text(&binding["roleRef"]["kind"]), text(&binding["roleRef"]["name"]));
        let role = named(kind, if kind == "Role" { namespace } else { "" }, name);
        let Some(rules) = roles.get(&role) else {
            complaints.insert(format!("{} binds {role}, which is not of this chart", title(binding)));
            continue;
        };
        for subject in items(&binding["subjects"]) {
            let account = (text(&subject["namespace"]), text(&subject["name"]));
            if subject["kind"] == "ServiceAccount" && accounts.contains(&account) {
                let scope = if binding["kind"] == "ClusterRoleBinding" { CLUSTER } else { namespace };
                rights.extend(given(account.1, scope, rules));
            } else {
                let subject = named(text(&subject["kind"]), account.0, account.1);
                let title = title(binding);
                complaints.insert(format!("{title} is for {subject}, which is no account of this chart"));
            }
        }
        bound.insert(role);
    }
    for (title, role) in &roles {
        if title == BOUND_AT_RUN_TIME {
            rights.extend(given(HUB, LABELLED, role));
        } else if !bound.contains(title) {
            complaints.insert(format!("{title} is bound by nobody"));
        }
    }
    rights
}

/// What makes a role wider than it reads.
fn widened(title: &str, role: &Value) -> Vec<String> {
    let mut complaints = Vec::new();
    for rule in items(&role["rules"]) {
        let parts = ["apiGroups", "resources", "resourceNames", "verbs", "nonResourceURLs"];
        let mut words = parts.iter().flat_map(|part| items(&rule[*part])).map(text);
        if words.any(|word| word.contains('*')) {
            complaints.push(format!("{title} has a wildcard: {rule}"));
        }
        if !rule["nonResourceURLs"].is_null() {
            complaints.push(format!("{title} is for paths, not for resources: {rule}"));
        }
    }
    // Rules of other roles become its own, or its own become those of `view` and its like.
    let labels = role["metadata"]["labels"].as_object().into_iter().flatten();
    let aggregated = labels.into_iter().any(|(label, _)| label.starts_with("rbac.authorization.k8s.io/"));
    if aggregated || !role["aggregationRule"].is_null() {
        complaints.push(format!("{title} is aggregated"));
    }
    complaints
}

/// Each rule, taken apart.
fn given(account: &str, scope: &str, role: &Value) -> Vec<Right> {
    let mut rights = Vec::new();
    for rule in items(&role["rules"]) {
        let words = |part: &str| items(&rule[part]).map(|word| text(word).to_owned()).collect::<Vec<_>>();
        let groups = words("apiGroups");
        let resources = words("resources");
        let resources =
            groups.iter().flat_map(|group| resources.iter().map(|of| resource(group, of))).collect();
        let names = words("resourceNames");
        let names = if names.is_empty() { vec!["*".to_owned()] } else { names };
        rights.extend(product(account, scope, resources, names, words("verbs")));
    }
    rights
}

fn resource(group: &str, resource: &str) -> String {
    let dot = if group.is_empty() { "" } else { "." };
    match resource.split_once('/') {
        Some((kind, subresource)) => format!("{kind}{dot}{group}/{subresource}"),
        None => format!("{resource}{dot}{group}"),
    }
}

/// The rights that the table names, each with its row. A heading of the second level is an account; a row is
/// `| scope | resources | names | verbs | why |`.
fn explained<'a>(table: &'a str, complaints: &mut BTreeSet<String>) -> BTreeMap<Right, &'a str> {
    let mut rights = BTreeMap::new();
    let mut account = "";
    for line in table.lines() {
        account = line.strip_prefix("## ").unwrap_or(account);
        if !line.starts_with('|') || line.starts_with("| Scope |") || line.starts_with("|---") {
            continue;
        }
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [scope, resources, names, verbs, why] = cells[..] else {
            complaints.insert(format!("a row has {} cells and not 5: {line}", cells.len()));
            continue;
        };
        if !why.ends_with('.') {
            complaints.insert(format!("a row does not say why: {line}"));
        }
        let words = |cell: &'a str| cell.split(',').map(|word| word.trim().trim_matches('`').to_owned());
        let [resources, names, verbs] = [resources, names, verbs].map(|cell| words(cell).collect());
        for right in product(account, scope, resources, names, verbs) {
            if let Some(row) = rights.insert(right.clone(), line) {
                complaints.insert(format!("two rows explain: {right}: {row}"));
            }
        }
    }
    rights
}

fn product(
    account: &str,
    scope: &str,
    resources: Vec<String>,
    names: Vec<String>,
    verbs: Vec<String>,
) -> Vec<Right> {
    let mut rights = Vec::new();
    for resource in &resources {
        for name in &names {
            for verb in &verbs {
                let words = [account, scope, resource, name, verb].map(str::to_owned);
                let [account, scope, resource, name, verb] = words;
                rights.push(Right { account, scope, resource, name, verb });
            }
        }
    }
    rights
}

fn title(object: &Value) -> String {
    let metadata = &object["metadata"];
    named(text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"]))
}

fn named(kind: &str, namespace: &str, name: &str) -> String {
    let slash = if namespace.is_empty() { "" } else { "/" };
    format!("{kind} {namespace}{slash}{name}")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The review itself, on a chart and a table in which everything is wrong once.
pub fn are_reviewed_strictly(_: &Stage) -> Outcome {
    let found = lines(review(&[objects(RIGHT)?], RIGHT_TABLE));
    expect("what is right passes", found.is_empty(), found)?;
    let found = lines(review(&[objects(&[RIGHT, WRONG].concat())?], &[RIGHT_TABLE, WRONG_TABLE].concat()));
    expect("what is wrong is named", found == COMPLAINTS.trim(), found)
}

const RIGHT: &str = "
{kind: ServiceAccount, metadata: {name: selvedge-hub, namespace: selvedge-system}}
---
kind: Role
metadata: {name: hub, namespace: selvedge-system}
rules:
- {apiGroups: [''], resources: [configmaps], resourceNames: [selvedge-cluster], verbs: [get]}
---
kind: RoleBinding
metadata: {name: hub, namespace: selvedge-system}
roleRef: {kind: Role, name: hub}
subjects: [{kind: ServiceAccount, name: selvedge-hub, namespace: selvedge-system}]
";

const RIGHT_TABLE: &str = "
## selvedge-hub

| Scope | Resource | Names | Verbs | Why |
|---|---|---|---|---|
| selvedge-system | configmaps | selvedge-cluster | get | The CA bundle. |
";

const WRONG: &str = "
---
kind: ClusterRole
metadata: {name: wide, labels: {rbac.authorization.k8s.io/aggregate-to-view: 'true'}}
rules:
- {apiGroups: [apps], resources: ['*'], verbs: [get]}
- {nonResourceURLs: [/metrics], verbs: [get]}
---
kind: ClusterRole
metadata: {name: writer}
rules:
- {apiGroups: [''], resources: [secrets], verbs: [get]}
- {apiGroups: [selvedge.dev], resources: [devices, devices/status], verbs: [patch]}
- {apiGroups: [''], resources: [pods], verbs: [create]}
- {apiGroups: [''], resources: [users], verbs: [impersonate]}
---
kind: ClusterRoleBinding
metadata: {name: writer}
roleRef: {kind: ClusterRole, name: writer}
subjects: [{kind: ServiceAccount, name: selvedge-hub, namespace: selvedge-system}, {kind: User, name: eve},
  {kind: ServiceAccount, name: selvedge-hub, namespace: default}]
---
kind: RoleBinding
metadata: {name: admin, namespace: selvedge-system}
roleRef: {kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: selvedge-hub, namespace: selvedge-system}]
";

const WRONG_TABLE: &str = "\
| cluster | secrets | `*` | get | A row explains what is refused all the same. |
| cluster | devices.selvedge.dev/status | `*` | patch, update | Reports. |
| selvedge-join | secrets | `*` | get | Once. |
| selvedge-system | configmaps | selvedge-cluster | get | |
| cluster | pods | get |
";

const COMPLAINTS: &str = r#"
ClusterRole wide has a wildcard: {"apiGroups":["apps"],"resources":["*"],"verbs":["get"]}
ClusterRole wide is aggregated
ClusterRole wide is bound by nobody
ClusterRole wide is for paths, not for resources: {"nonResourceURLs":["/metrics"],"verbs":["get"]}
ClusterRoleBinding writer is for ServiceAccount default/selvedge-hub, which is no account of this chart
ClusterRoleBinding writer is for User eve, which is no account of this chart
RoleBinding selvedge-system/admin binds ClusterRole cluster-admin, which is not of this chart
a row does not say why: | selvedge-system | configmaps | selvedge-cluster | get | |
a row has 3 cells and not 5: | cluster | pods | get |
edgenode-controller alone has the CA: selvedge-hub, cluster: get secrets *
no row explains: selvedge-hub, cluster: create pods *
no row explains: selvedge-hub, cluster: impersonate users *
no row explains: selvedge-hub, cluster: patch devices.selvedge.dev *
nobody escalates, impersonates or issues tokens: selvedge-hub, cluster: impersonate users *
nobody grants: selvedge-hub, cluster: update devices.selvedge.dev/status *, but a row explains it: | cluster | devices.selvedge.dev/status | `*` | patch, update | Reports. |
nobody grants: selvedge-hub, selvedge-join: get secrets *, but a row explains it: | selvedge-join | secrets | `*` | get | Once. |
nobody makes pods: selvedge-hub, cluster: create pods *
the hub writes statuses, requests for certificates and events alone: selvedge-hub, cluster: create pods *
the hub writes statuses, requests for certificates and events alone: selvedge-hub, cluster: impersonate users *
the hub writes statuses, requests for certificates and events alone: selvedge-hub, cluster: patch devices.selvedge.dev *
two rows explain: selvedge-hub, selvedge-system: get configmaps selvedge-cluster: | selvedge-system | configmaps | selvedge-cluster | get | The CA bundle. |
"#;
