//! How a step of a story ends: well, or with what was expected, what was found, and where to look.

use std::time::Duration;

use selvedge_cluster::clock::{Deadline, wait_for};

use crate::KubectlError;

/// A step of a story that did not end well.
#[derive(Debug, thiserror::Error)]
pub enum StoryError {
    /// The cluster or a host could not be brought into the state that the story needs.
    #[error(transparent)]
    Cluster(#[from] selvedge_cluster::ClusterError),
    /// A host could not do what was asked.
    #[error(transparent)]
    Edge(#[from] selvedge_cluster::edge_host::EdgeError),
    /// The device's server could not do what was asked.
    #[error(transparent)]
    Modbus(#[from] selvedge_cluster::modbus::ModbusError),
    /// An image is missing or could not be imported.
    #[error(transparent)]
    Images(#[from] selvedge_cluster::images::ImagesError),
    /// The release before this one could not be had.
    #[error(transparent)]
    Release(#[from] selvedge_cluster::release::ReleaseError),
    /// A program of Debian's could not be had.
    #[error(transparent)]
    Debian(#[from] selvedge_cluster::debian::DebianError),
    /// kubectl or helm refused.
    #[error(transparent)]
    Kubectl(#[from] KubectlError),
    /// A condition did not come true in time.
    #[error("{what}: not within {} s; last seen:\n{last}", within.as_secs())]
    NotInTime {
        /// The condition.
        what: String,
        /// How long it was waited for.
        within: Duration,
        /// What was there instead.
        last: String,
    },
    /// Something is not as it should be.
    #[error("{what}; found:\n{found}")]
    Unexpected {
        /// What should be.
        what: String,
        /// What is.
        found: String,
    },
    /// A file or process of this machine failed.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why.
        source: std::io::Error,
    },
}

/// The result of a step or of a whole story.
pub type Outcome<T = ()> = Result<T, StoryError>;

/// Waits until `probe` answers `Ok`. Its `Err` says what it saw instead, for the message at the deadline.
///
/// # Errors
/// [`StoryError::NotInTime`] at the deadline.
pub fn eventually<T>(
    what: &str,
    within: Duration,
    mut probe: impl FnMut() -> Result<T, String>,
) -> Outcome<T> {
    let mut last = String::new();
    let probe = || match probe() {
        Ok(answer) => Some(answer),
        Err(seen) => {
            last = seen;
            None
        }
    };
    wait_for(Deadline::after(within), probe).ok_or_else(|| StoryError::NotInTime {
        what: what.to_owned(),
        within,
        last,
    })
}

/// Holds `truth` against what was `found`.
///
/// # Errors
/// [`StoryError::Unexpected`] when it does not hold.
pub fn expect(what: &str, truth: bool, found: impl std::fmt::Display) -> Outcome {
    if truth {
        Ok(())
    } else {
        Err(StoryError::Unexpected { what: what.to_owned(), found: found.to_string() })
    }
}

/// An error and what caused it, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
