//! The status of one DeviceModel: who uses it, and whether it keeps every rule.

use jiff::Timestamp;
use selvedge_model::fault::Fault;
use selvedge_operator::status::condition;
use serde_json::{Value, json};

/// What the status should say.
#[must_use]
pub fn status(faults: &[Fault], devices: usize, generation: Option<i64>, now: Timestamp) -> Value {
    let (status, reason, message) = if faults.is_empty() {
        (true, "Valid", String::new())
    } else {
        (false, "InvalidSpec", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    };
    let ready = condition("Ready", Some(status), reason, message, generation, now);
    json!({"observedGeneration": generation, "devices": devices, "conditions": [ready]})
}
