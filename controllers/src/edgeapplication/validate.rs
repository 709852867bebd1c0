//! Whether the spec may become a revision.

use selvedge_model::fault::Fault;

use super::observe::Observed;
use crate::rules;

/// What holds a spec back. The revision that was in force stays so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The namespace does not take part.
    NamespaceNotEnabled,
    /// The spec breaks rules.
    Invalid(Vec<Fault>),
}

/// Checks the spec.
///
/// # Errors
/// [`Hold`].
pub fn validate(observed: &Observed) -> Result<(), Hold> {
    if !observed.in_namespace.enabled {
        return Err(Hold::NamespaceNotEnabled);
    }
    let faults = rules::application(&observed.spec, observed.in_namespace.level.as_deref());
    if faults.is_empty() { Ok(()) } else { Err(Hold::Invalid(faults)) }
}
