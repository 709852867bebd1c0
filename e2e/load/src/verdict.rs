//! What a run came to: a table and a verdict, for people. Pure.

use std::fmt::{self, Write as _};
use std::time::Duration;

use selvedge_history::{Invariant, Violation};

use crate::latency::Times;

/// Violations that are shown: the first ones explain the others.
const SHOWN: usize = 20;

/// What is asked of the record, and how it is called for people.
const RULES: [(Invariant, &str); 8] = [
    (Invariant::I1, "nothing in force went back to an older version"),
    (Invariant::I2, "at rest every node has exactly what it should have"),
    (Invariant::I3, "nothing was at a node that was never desired"),
    (Invariant::I4, "nothing acknowledged was lost"),
    (Invariant::I5, "every status was really applied"),
    (Invariant::I6, "no older session wrote over a newer one"),
    (Invariant::Absence, "nothing was taken away that was not withdrawn"),
    (Invariant::Repetition, "nothing was delivered again that was answered"),
];

/// A run, at its end.
#[derive(Debug, Default)]
pub struct Verdict {
    /// What does not hold.
    pub violations: Vec<Violation>,
    /// What the checker saw.
    pub events: u64,
    /// What happened, name and how often, in order.
    pub counts: Vec<(String, String)>,
    /// Changes of one node.
    pub one: Times,
    /// Changes of all nodes.
    pub all: Times,
    /// How long changes and accidents went on.
    pub lasted: Duration,
    /// How long the fleet took to come to rest after them; none: it did not.
    pub settled: Option<Duration>,
}

impl Verdict {
    /// Whether every rule held.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.violations.is_empty() && self.settled.is_some()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        for (what, count) in &self.counts {
            writeln!(f, "  {what:<44} {count:>12}")?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "  {:<32} {:>8} {:>9} {:>9} {:>9}",
            "asked to acknowledged, ms", "n", "p50", "p99", "max"
        )?;
        for (what, times) in [("a change of one node", &self.one), ("a change of all nodes", &self.all)] {
            let mut line = String::new();
            for part in [0.5, 0.99, 1.0] {
                if times.is_empty() {
                    write!(line, " {:>9}", "-")?;
                } else {
                    write!(line, " {:>9.1}", times.at(part))?;
                }
            }
            writeln!(f, "  {what:<32} {:>8}{line}", times.len())?;
        }
        writeln!(f)?;
        for (invariant, text) in RULES {
            let broken = self.violations.iter().filter(|violation| violation.invariant == invariant).count();
            let says = if broken == 0 { "holds".to_owned() } else { format!("BROKEN {broken} times") };
            writeln!(f, "  {text:<56} {says}")?;
        }
        for violation in self.violations.iter().take(SHOWN) {
            writeln!(f, "    {violation}")?;
        }
        if let Some(more) = self.violations.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            writeln!(f, "    and {more} more")?;
        }
        writeln!(f)?;
        match self.settled {
            Some(settled) => {
                writeln!(f, "  at rest {:.1} s after the last change and accident", settled.as_secs_f64())?;
            }
            None => {
                writeln!(f, "  NOT AT REST: see --settle; some agents are not in sync, the counts say why")?
            }
        }
        let verdict = if self.holds() { "every rule held" } else { "A RULE WAS BROKEN" };
        write!(f, "  verdict: {verdict} ({} events in {} s)", self.events, self.lasted.as_secs())
    }
}
