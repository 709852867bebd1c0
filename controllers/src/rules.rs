//! The rules of `selvedge-model`, as the controllers ask them: the same that the webhook asks, so that an
//! object which came in without it (or before its model) is judged alike.
//!
//! In: raw specs. Out: what is wrong with them; empty: nothing.

use selvedge_model::fault::Fault;
use selvedge_model::pod::security::Level;
use selvedge_model::{application, device::rules};
use serde_json::Value;

/// What is wrong with the spec of an EdgeApplication in a namespace whose Pod Security level is `level`
/// (the value of its `enforce` label).
#[must_use]
pub fn application(spec: &Value, level: Option<&str>) -> Vec<Fault> {
    application::check(spec, Level::of(level))
}

/// What is wrong with the spec of a DeviceModel.
#[must_use]
pub fn model(spec: &Value) -> Vec<Fault> {
    rules::check_model(spec)
}

/// What is wrong with the spec of a Device; without its model's spec, as far as that can be said.
#[must_use]
pub fn device(spec: &Value, model: Option<&Value>) -> Vec<Fault> {
    rules::check_device(spec, model)
}
