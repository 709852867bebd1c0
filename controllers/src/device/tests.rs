use std::fmt::Write as _;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::neighbours::{Key, Neighbours};
use super::observe::Observed;
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
    /// Absent: no such node. Else whether it is connected, or "unknown".
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
            node: case.node.map(|node| node.as_bool()),
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

#[test]
fn a_change_touches_the_devices_that_stand_on_it_and_no_others() {
    let mut neighbours = Neighbours::default();
    let (boiler, room) = (json!({"properties": []}), json!({"properties": [1]}));
    assert!(neighbours.model(&key("boiler"), Some(boiler.clone())).is_empty());
    assert!(neighbours.node("n1", Some(None)).is_empty());
    assert_eq!(neighbours.of(key("b1"), key("boiler"), "n1"), (Some(Arc::new(boiler.clone())), Some(None)));
    assert_eq!(neighbours.of(key("r1"), key("room"), "n2"), (None, None));
    assert_eq!(neighbours.node("n1", Some(Some(true))), [key("b1")]);
    assert!(neighbours.node("n1", Some(Some(true))).is_empty(), "it says the same");
    assert_eq!(neighbours.node("n2", Some(Some(false))), [key("r1")], "it came");
    assert_eq!(neighbours.model(&key("room"), Some(room)), [key("r1")]);
    assert!(neighbours.model(&key("boiler"), Some(boiler)).is_empty(), "only its status changed");
    assert_eq!(neighbours.node("n2", None), [key("r1")], "it is gone");
    // Created anew, elsewhere.
    neighbours.of(key("r1"), key("boiler"), "n1");
    assert!(neighbours.model(&key("room"), None).is_empty());
    assert_eq!(neighbours.node("n1", Some(Some(false))), [key("b1"), key("r1")]);
    neighbours.forget(&key("b1"));
    assert_eq!(neighbours.node("n1", None), [key("r1")]);
}

#[test]
fn most_are_away_is_more_than_half_of_those_that_exist() {
    let mut neighbours = Neighbours::default();
    for (node, connected) in [("a", Some(false)), ("b", Some(true)), ("c", Some(false)), ("d", None)] {
        neighbours.node(node, Some(connected));
    }
    assert!(!neighbours.most_are_away());
    neighbours.node("d", None);
    assert!(neighbours.most_are_away(), "two of three");
    neighbours.node("c", None);
    neighbours.node("a", Some(Some(true)));
    assert!(!neighbours.most_are_away());
}
