use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use jiff::Timestamp;
use selvedge_crds::EdgeApplicationStatus;
use selvedge_crds::edgenode::ApplicationState;
use selvedge_model::node::Allowed;
use selvedge_model::rollout::Rollout;
use serde::Deserialize;
use serde_json::{Value, json};

use super::fleet::{Asks, Fleet, Key, Node};
use super::observe::{Namespace, Observed, Revision};
use super::plan::{Plan, Step, decide};
use super::status::status;
use crate::golden;

mod counting;

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
        uid: format!("uid-{name}").into(),
        labels: [("tier".to_owned(), if name.starts_with("other") { "lab" } else { "shop" }.to_owned())]
            .into(),
        allowed: Allowed::default(),
        connected: online == "on",
        applications: (!reported.state.is_empty()).then(|| (web(), Arc::new(reported))).into_iter().collect(),
    }
}

fn web() -> Key {
    Key::new("shops", "web")
}

fn fleet(nodes: &BTreeMap<String, String>) -> Fleet {
    let mut fleet = Fleet::default();
    for (name, text) in nodes {
        fleet.is(node(name, text));
    }
    fleet
}

fn plan(observed: &Observed, fleet: &mut Fleet) -> Plan {
    let decided = decide(observed);
    let asks = Asks { selector: decided.selector.clone(), ..Asks::default() };
    super::plan::plan(observed, decided, fleet.tally(&web(), &observed.uid, &asks))
}

fn observed(case: &Case) -> Observed {
    let selector = json!({"matchLabels": {"tier": "shop"}});
    let spec = json!({
        "selector": selector,
        "template": {"spec": {"containers": [{"name": "web", "image": case.image}]}},
    });
    let mut status = EdgeApplicationStatus::default();
    if let Some(revision) = &case.rollout {
        status.rollout = Some(Rollout { admitted: case.admitted.clone(), ..Rollout::all(revision) });
        status.current_revision.clone_from(revision);
    }
    let revision = |(name, number): (&String, &i64)| Revision {
        name: name.clone(),
        number: *number,
        selector: selector.clone(),
    };
    Observed {
        namespace: "shops".into(),
        name: "web".into(),
        uid: "app-uid".into(),
        spec,
        status,
        in_namespace: Namespace::of(&case.namespace),
        revisions: case.revisions.iter().map(revision).collect(),
    }
}

#[test]
fn what_is_done_about_an_application() {
    let mut text = String::new();
    for case in golden::cases::<Case>("edgeapplication") {
        writeln!(text, "{}", case.case).unwrap();
        let observed = observed(&case);
        let plan = plan(&observed, &mut fleet(&case.nodes));
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
    let (mut observed, mut fleet) = (observed(&case), fleet(&case.nodes));
    let first = plan(&observed, &mut fleet);
    let current = first.current.clone();
    let Some(Step::Create { name, .. }) = first.steps.first() else { panic!("{:?}", first.steps) };
    assert_eq!(*name, current);
    assert_eq!(
        first.rollout.as_ref().unwrap().admitted,
        [""; 0],
        "the write of a new interval admits nobody"
    );
    let (mut late, mut writes): (BTreeSet<_>, _) = (case.nodes.into_keys().collect(), 0);
    let mut rollout = first.rollout;
    while !late.is_empty() {
        observed.status.rollout = rollout;
        observed.status.current_revision = current.clone();
        let before = observed.status.rollout.clone().unwrap().admitted;
        let next = plan(&observed, &mut fleet).rollout.unwrap();
        assert!(next.admitted.len() <= 64);
        let is_late = |uid: &&String| late.contains(uid.trim_start_matches("uid-"));
        assert!(before.iter().filter(is_late).all(|uid| next.admitted.contains(uid)), "lost its place");
        // The first half of the admitted arrive.
        for uid in next.admitted.iter().take(next.admitted.len().div_ceil(2)) {
            let name = uid.trim_start_matches("uid-");
            late.remove(name);
            let touched = fleet.is(node(name, &format!("on {} Running", current.replace("web-", ""))));
            assert_eq!(touched, [Arc::new(web())]);
        }
        rollout = Some(next);
        writes += 1;
        assert!(writes < 100, "does not end");
    }
    observed.status.rollout = rollout;
    assert_eq!(plan(&observed, &mut fleet).rollout.unwrap().admitted, [""; 0]);
}
