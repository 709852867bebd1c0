use std::fmt::Write as _;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

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
            model: case.model,
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
