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
