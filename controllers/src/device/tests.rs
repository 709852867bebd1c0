use std::fmt::Write as _;
use std::sync::Arc;

use jiff::Timestamp;
use selvedge_model::node::Allowed;
use serde::Deserialize;
use serde_json::{Value, json};

use super::neighbours::{Key, Neighbours};
use super::observe::{Node, Observed, OnNode};
use super::plan::plan;
use super::status::status;
use crate::golden;

#[derive(Deserialize)]
struct Case {
    case: String,
    spec: Value,
    #[serde(default)]
    status: Value,
    model: Option<Value>,
    /// Absent: no such node. Else whether it is connected, or "unknown"; or "closed": it does not let us in.
    node: Option<Value>,
}

#[test]
fn what_is_said_of_a_device() {
    let mut text = String::new();
    for case in golden::cases::<Case>("device") {
        let observed = Observed {
            namespace: "shops".into(),
            spec: case.spec,
            status: serde_json::from_value(case.status).unwrap_or_default(),
            model: case.model.map(Arc::new),
            node: case.node.map(|node| OnNode { connected: node.as_bool(), let_in: node != "closed" }),
        };
        let plan = plan(&observed);
        writeln!(text, "{}", case.case).unwrap();
        if plan.swept {
            writeln!(text, "  paced").unwrap();
        }
        text += &golden::rendered(&status(&plan, Some(1), Timestamp::UNIX_EPOCH));
        text.push('\n');
    }
    golden::check("device", &text);
}

fn key(name: &str) -> Key {
    ("shops".to_owned(), name.to_owned())
}

/// A node that is connected or not, and lets all in.
fn is(connected: Option<bool>) -> Option<Node> {
    Some(Node { connected, ..Node::default() })
}

/// How a device stands to such a node.
fn on(connected: Option<bool>) -> Option<OnNode> {
    Some(OnNode { connected, let_in: true })
}

#[test]
fn a_change_touches_the_devices_that_stand_on_it_and_no_others() {
    let mut neighbours = Neighbours::default();
    let (boiler, room) = (json!({"properties": []}), json!({"properties": [1]}));
    assert!(neighbours.model(&key("boiler"), Some(boiler.clone())).is_empty());
    assert!(neighbours.node("n1", is(None)).is_empty());
    assert_eq!(neighbours.of(key("b1"), key("boiler"), "n1"), (Some(Arc::new(boiler.clone())), on(None)));
    assert_eq!(neighbours.of(key("r1"), key("room"), "n2"), (None, None));
    assert_eq!(neighbours.node("n1", is(Some(true))), [key("b1")]);
    assert!(neighbours.node("n1", is(Some(true))).is_empty(), "it says the same");
    assert_eq!(neighbours.node("n2", is(Some(false))), [key("r1")], "it came");
    assert_eq!(neighbours.model(&key("room"), Some(room)), [key("r1")]);
    assert!(neighbours.model(&key("boiler"), Some(boiler)).is_empty(), "only its status changed");
    assert_eq!(neighbours.node("n2", None), [key("r1")], "it is gone");
    // Created anew, elsewhere.
    neighbours.of(key("r1"), key("boiler"), "n1");
    assert!(neighbours.model(&key("room"), None).is_empty());
    assert_eq!(neighbours.node("n1", is(Some(false))), [key("b1"), key("r1")]);
    neighbours.forget(&key("b1"));
    assert_eq!(neighbours.node("n1", None), [key("r1")]);
}

#[test]
fn a_node_may_choose_namespaces() {
    let mut neighbours = Neighbours::default();
    let team = |name: &str| Some([("team".to_owned(), name.to_owned())].into());
    let allowed = Allowed::of(&json!({"matchLabels": {"team": "a"}}));
    neighbours.node("n1", Some(Node { allowed, ..Node::default() }));
    neighbours.node("n2", is(None));
    let let_in = |neighbours: &mut Neighbours| {
        ["n1", "n2"].map(|node| neighbours.of(key(node), key("boiler"), node).1.map(|on| on.let_in))
    };
    assert_eq!(let_in(&mut neighbours), [Some(true); 2], "before the namespace is known");
    assert_eq!(neighbours.namespace("shops", team("b")), [key("n1")], "n2 does not choose");
    assert_eq!(let_in(&mut neighbours), [Some(false), Some(true)]);
    assert!(neighbours.namespace("shops", team("b")).is_empty(), "it says the same");
    assert!(neighbours.namespace("other", team("a")).is_empty(), "another one");
    assert_eq!(neighbours.namespace("shops", team("a")), [key("n1")]);
    assert_eq!(let_in(&mut neighbours), [Some(true); 2]);
    assert_eq!(neighbours.node("n1", is(None)), [key("n1")], "it lets all in");
}

#[test]
fn most_are_away_is_more_than_half_of_those_that_exist() {
    let mut neighbours = Neighbours::default();
    for (node, connected) in [("a", Some(false)), ("b", Some(true)), ("c", Some(false)), ("d", None)] {
        neighbours.node(node, is(connected));
    }
    assert!(!neighbours.most_are_away());
    neighbours.node("d", None);
    assert!(neighbours.most_are_away(), "two of three");
    neighbours.node("c", None);
    neighbours.node("a", is(Some(true)));
    assert!(!neighbours.most_are_away());
}
