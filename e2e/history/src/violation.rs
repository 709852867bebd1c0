//! What a checker found.

use std::fmt;

use crate::event::Name;

/// What must hold (docs/concepts/sync.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Invariant {
    /// Within an epoch, what is in force for one uid never goes back to an older source revision; nor does a
    /// key go back to an older uid.
    I1,
    /// Connected and quiet implies: the answered set is the desired set.
    I2,
    /// Nothing is at the agent that was never desired.
    I3,
    /// Nothing acknowledged is lost.
    I4,
    /// A status in the API was really applied.
    I5,
    /// No report of an older session overwrites one of a newer.
    I6,
    /// What a hub keeps is bounded by connections and objects, however long an outage lasts.
    I7,
    /// A new version alone changes nothing that is in force.
    I8,
    /// Sync rule 2: absence must be knowledge. Nothing is taken away that was not withdrawn.
    Absence,
    /// Sync rule 4: what was answered in a content is not delivered again in it.
    Repetition,
    /// Sync rule 11: a late node keeps its revision until it is admitted.
    Late,
    /// A state that passes is not told for ever.
    Lingering,
}

impl Invariant {
    /// Its name in the rules.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::I1 => "I1",
            Self::I2 => "I2",
            Self::I3 => "I3",
            Self::I4 => "I4",
            Self::I5 => "I5",
            Self::I6 => "I6",
            Self::I7 => "I7",
            Self::I8 => "I8",
            Self::Absence => "sync rule 2 (absence must be knowledge)",
            Self::Repetition => "sync rule 4 (equal content is not delivered again)",
            Self::Late => "sync rule 11 (late nodes)",
            Self::Lingering => "what passes is not told for ever",
        }
    }
}

/// One violation, and what proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What does not hold.
    pub invariant: Invariant,
    /// At which node.
    pub node: Name,
    /// Under which key; empty: of the node as a whole.
    pub key: Name,
    /// What happened, for people.
    pub text: String,
    /// Milliseconds since the rig began.
    pub at: u64,
    /// Numbers of the events that prove it, in order: the n-th that was observed, from 1.
    pub events: Vec<u64>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = if self.key.is_empty() { String::new() } else { format!(" {}", self.key) };
        write!(
            f,
            "{} does not hold at {}{key} after {} ms: {} (events {:?})",
            self.invariant.name(),
            self.node,
            self.at,
            self.text,
            self.events
        )
    }
}
