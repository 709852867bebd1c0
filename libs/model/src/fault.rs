//! One thing that is wrong with an object: where, what, and the way out.

use std::fmt;

/// A fault of a user's object. Rendered as `<path>: <message>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Field path as users write it: `spec.template.spec.containers[0].ports[1].hostPort`.
    pub path: String,
    /// What is wrong with which value, the limit, and what to do. Starts in lower case.
    pub message: String,
}

impl Fault {
    /// A fault at `path`.
    #[must_use]
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// The faults of `new` that `old` does not have, counted: an update that leaves what is wrong alone passes
/// (ratcheting, KEP-4008). Indices of lists are not compared, so that an item may move.
#[must_use]
pub fn introduced(new: Vec<Fault>, old: &[Fault]) -> Vec<Fault> {
    let mut known: Vec<_> = old.iter().map(|fault| (without_indices(&fault.path), &fault.message)).collect();
    let is_new = |fault: &Fault| {
        let found = known.iter().position(|known| *known == (without_indices(&fault.path), &fault.message));
        found.map(|at| known.swap_remove(at)).is_none()
    };
    new.into_iter().filter(is_new).collect()
}

fn without_indices(path: &str) -> String {
    let mut inside = false;
    path.chars()
        .filter(|c| {
            inside = (inside || *c == '[') && *c != ']';
            !(inside && c.is_ascii_digit())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Fault, introduced};

    #[test]
    fn only_what_an_update_adds_is_introduced() {
        let old = [Fault::new("a[0].b", "wrong"), Fault::new("c", "wrong")];
        let new = vec![
            Fault::new("a[1].b", "wrong"),
            Fault::new("a[2].b", "wrong"),
            Fault::new("a[0].b", "wrong otherwise"),
        ];
        assert_eq!(introduced(new.clone(), &old), new[1..]);
    }
}
