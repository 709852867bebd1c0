//! The status of one Device, as far as its controller writes it: `Accepted`, and `Ready` while it is not
//! the hub's to say. `observedGeneration` is the hub's: it says which generation is in force at the edge.

use jiff::Timestamp;
use selvedge_operator::status::condition;
use serde_json::{Value, json};

use super::plan::{Plan, Said};

/// What the status should say.
#[must_use]
pub fn status(plan: &Plan, generation: Option<i64>, now: Timestamp) -> Value {
    let said = |type_: &str, said: &Said| condition(type_, said.0, said.1, said.2.clone(), generation, now);
    let accepted = said("Accepted", &plan.accepted);
    let ready = plan.ready.as_ref().map(|ready| said("Ready", ready));
    let conditions: Vec<_> = [Some(accepted), ready].into_iter().flatten().collect();
    json!({"conditions": conditions})
}
