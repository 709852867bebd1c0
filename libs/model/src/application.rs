//! The rules of an EdgeApplication, over the raw JSON of its spec.

use serde_json::Value;

use crate::fault::Fault;
use crate::names::{DNS_LABEL, is_dns_label};
use crate::pod::{consistency, security, support};
use crate::selector;

/// Everything that is wrong with `spec` in a namespace of the Pod Security level `level`.
#[must_use]
pub fn check(spec: &Value, level: security::Level) -> Vec<Fault> {
    const TEMPLATE: &str = "spec.template";
    let template = &spec["template"];
    let mut faults = selector::check("spec.selector", &spec["selector"]);
    faults.extend(support::check(TEMPLATE, template));
    faults.extend(consistency::check(TEMPLATE, template));
    faults.extend(security::check(TEMPLATE, template, level));
    for (index, change) in spec["overrides"].as_array().into_iter().flatten().enumerate() {
        let path = format!("spec.overrides[{index}]");
        let name = change["name"].as_str().unwrap_or_default();
        if !is_dns_label(name) {
            faults.push(Fault::new(format!("{path}.name"), format!("{name:?} is not {DNS_LABEL}")));
        }
        faults.extend(selector::check(&format!("{path}.selector"), &change["selector"]));
        faults.extend(consistency::check_override(&path, change, template));
    }
    faults
}

#[cfg(test)]
#[path = "application_tests.rs"]
mod tests;
