use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use selvedge_crds::EdgeApplicationStatus;
use selvedge_crds::edgenode::ApplicationState;
use selvedge_model::rollout::Rollout;
use serde::Deserialize;
use serde_json::{Value, json};

use super::observe::{Namespace, Node, Observed, Revision};
use super::plan::{Step, plan};
use super::status::status;
use crate::golden;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    case: String,
    /// Image of the one container; the revision's name follows from it.
    #[serde(default = "image")]
    image: Value,
    #[serde(default = "enabled")]
    namespace: BTreeMap<String, String>,
    /// Name to number.
    #[serde(default)]
    revisions: BTreeMap<String, i64>,
    /// The revision of `status.rollout`.
    rollout: Option<String>,
    #[serde(default)]
    admitted: Vec<String>,
    /// Name to `<on|off> <revision|-> <state|-> [message]`, all of tier shop but those named other-….
    #[serde(default)]
    nodes: BTreeMap<String, String>,
}

fn image() -> Value {
    "web:1".into()
}

fn enabled() -> BTreeMap<String, String> {
    [("selvedge.dev/edge".to_owned(), "enabled".to_owned())].into()
}

fn node(name: &str, text: &str) -> Node {
    let mut parts = text.splitn(4, ' ').map(|part| part.replace('-', ""));
    let mut part = || parts.next().unwrap_or_default();
    let (online, revision, state, message) = (part(), part(), part(), part());
    let revision =
        if revision.is_empty() { revision } else { format!("web-{}", revision.trim_start_matches("web")) };
    let reported = ApplicationState {
        namespace: "shops".into(),
        name: "web".into(),
        revision,
        state,
        message,
        ..Default::default()
    };
    Node {
        name: name.into(),
        uid: format!("uid-{name}"),
        labels: [("tier".to_owned(), if name.starts_with("other") { "lab" } else { "shop" }.to_owned())]
            .into(),
        connected: online == "on",
        state: (!reported.state.is_empty()).then_some(reported),
    }
}

fn observed(case: Case) -> Observed {
    let selector = json!({"matchLabels": {"tier": "shop"}});
    let spec = json!({
        "selector": selector,
        "template": {"spec": {"containers": [{"name": "web", "image": case.image}]}},
    });
    let mut status = EdgeApplicationStatus::default();
    if let Some(revision) = case.rollout {
        status.rollout = Some(Rollout { admitted: case.admitted, ..Rollout::all(&revision) });
        status.current_revision = revision;
    }
    let revision = |(name, number)| Revision { name, number, selector: selector.clone() };
    Observed {
        namespace: "shops".into(),
        name: "web".into(),
        uid: "app-uid".into(),
        spec,
        status,
        in_namespace: Namespace::of(&case.namespace),
        revisions: case.revisions.into_iter().map(revision).collect(),
        nodes: case.nodes.iter().map(|(name, text)| node(name, text)).collect(),
    }
}

#[test]
fn what_is_done_about_an_application() {
    let mut text = String::new();
    for case in golden::cases::<Case>("edgeapplication") {
        writeln!(text, "{}", case.case).unwrap();
        let observed = observed(case);
        let plan = plan(&observed);
        for step in &plan.steps {
            match step {
                Step::Create { name, number, data } => {
                    writeln!(text, "  → create {name}, number {number}: {data}")
                }
                Step::Renumber { name, number } => writeln!(text, "  → renumber {name} to {number}"),
                Step::Delete { name } => writeln!(text, "  → delete {name}"),
            }
            .unwrap();
        }
        text += &golden::rendered(&status(&observed, &plan, Some(1), Timestamp::UNIX_EPOCH));
        text.push('\n');
    }
    golden::check("edgeapplication", &text);
}

/// Sixty-four late nodes at a time: they make room as they arrive, and those admitted keep their place.
#[test]
fn late_nodes_are_admitted_by_the_dozen_and_all_arrive() {
    let mut case: Case = serde_json::from_value(json!({"case": "", "rollout": ""})).unwrap();
    case.nodes = (0..200).map(|n| (format!("n{n:03}"), "on web0000000000 Running".into())).collect();
    let mut observed = observed(case);
    let first = plan(&observed);
    let current = first.current.clone();
    let Some(Step::Create { name, .. }) = first.steps.first() else { panic!("{:?}", first.steps) };
    assert_eq!(*name, current);
    assert_eq!(
        first.rollout.as_ref().unwrap().admitted,
        [""; 0],
        "the write of a new interval admits nobody"
    );
    let mut writes = 0;
    let mut rollout = first.rollout;
    while observed.nodes.iter().any(|node| node.revision() != current) {
        observed.status.rollout = rollout;
        observed.status.current_revision = current.clone();
        let before = observed.status.rollout.clone().unwrap().admitted;
        let next = plan(&observed).rollout.unwrap();
        assert!(next.admitted.len() <= 64);
        let late =
            |uid: &String| observed.nodes.iter().any(|node| node.uid == *uid && node.revision() != current);
        assert!(
            before.iter().filter(|uid| late(uid)).all(|uid| next.admitted.contains(uid)),
            "lost its place"
        );
        // The first half of the admitted arrive.
        for uid in next.admitted.iter().take(next.admitted.len().div_ceil(2)) {
            let node = observed.nodes.iter_mut().find(|node| node.uid == *uid).unwrap();
            node.state.as_mut().unwrap().revision.clone_from(&current);
        }
        rollout = Some(next);
        writes += 1;
        assert!(writes < 100, "does not end");
    }
    observed.status.rollout = rollout;
    assert_eq!(plan(&observed).rollout.unwrap().admitted, [""; 0]);
}
