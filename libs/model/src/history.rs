//! Marks: a number that only rises in one history of a cluster, and leaps where a restore could have made another
//! (sync rule 8).
//!
//! The EdgeNode controller's leader raises the mark every few seconds; what an agent holds bears the mark that was
//! read with it. Each leader, and one that finds its own mark gone, begins a *term* by a leap of chance. So after a
//! restore the marks that were lost are given to nobody: an agent that bears one of them is of another history, for
//! ever, and however high revisions have risen since.

use std::fmt;
use std::str::FromStr;

/// Terms that are remembered: one a leader. What is older than all of them is not judged.
const MOST_TERMS: usize = 64;

/// The marks of one history, oldest term first. As text: `3-17,9201-9377`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History(Vec<Term>);

/// Marks without a leap between them, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Term {
    first: u64,
    last: u64,
}

/// The text of a history says nothing that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a history is terms such as 3-17,9201-9377, each above the one before")]
pub struct HistoryError;

/// What a leader writes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next {
    /// The history with one more mark.
    pub history: History,
    /// The mark that this leader wrote last is not in what it reads now: the cluster was restored.
    pub restored: bool,
}

impl History {
    /// The newest mark; 0: none.
    #[must_use]
    pub fn latest(&self) -> u64 {
        self.0.last().map_or(0, |term| term.last)
    }

    /// Whether a mark is of this history, or older than all that is remembered of it. 0 is no mark.
    #[must_use]
    pub fn includes(&self, mark: u64) -> bool {
        let Some(oldest) = self.0.first() else { return mark == 0 };
        mark < oldest.first || self.0.iter().any(|term| (term.first..=term.last).contains(&mark))
    }

    /// The next mark of a leader that wrote `own` last and reads this now; none: it has written nothing yet.
    /// `leap` is drawn anew for each call.
    #[must_use]
    pub fn next(&self, own: Option<u64>, leap: u32) -> Next {
        let mut history = self.clone();
        match history.0.last_mut() {
            Some(term) if own == Some(term.last) => term.last += 1,
            _ => {
                // Above 1: no mark of the new term continues the old one.
                let first = self.latest().max(own.unwrap_or(0)).saturating_add(2 + u64::from(leap));
                history.0.push(Term { first, last: first });
                let forgotten = history.0.len().saturating_sub(MOST_TERMS);
                history.0.drain(..forgotten);
            }
        }
        Next { history, restored: own.is_some_and(|own| !self.includes(own)) }
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, Term { first, last }) in self.0.iter().enumerate() {
            let comma = if nth == 0 { "" } else { "," };
            write!(f, "{comma}{first}-{last}")?;
        }
        Ok(())
    }
}

impl FromStr for History {
    type Err = HistoryError;

    fn from_str(text: &str) -> Result<Self, HistoryError> {
        let mut terms = Vec::new();
        let mut above = 0;
        for term in text.split(',').filter(|term| !term.trim().is_empty()) {
            let (first, last) = term.split_once('-').ok_or(HistoryError)?;
            let number = |text: &str| text.trim().parse::<u64>().map_err(|_| HistoryError);
            let (first, last) = (number(first)?, number(last)?);
            if first <= above || last < first {
                return Err(HistoryError);
            }
            above = last;
            terms.push(Term { first, last });
        }
        Ok(Self(terms))
    }
}

#[cfg(test)]
mod tests {
    use super::{History, MOST_TERMS, Next};

    fn history(text: &str) -> History {
        text.parse().unwrap()
    }

    #[test]
    fn a_leader_raises_its_mark_and_another_one_leaps() {
        let Next { history: first, restored } = History::default().next(None, 5);
        assert_eq!((first.to_string().as_str(), restored), ("7-7", false));
        let second = first.next(Some(7), 5).history;
        assert_eq!(second.to_string(), "7-8");
        let other = second.next(None, 5);
        assert_eq!((other.history.to_string().as_str(), other.restored), ("7-8,15-15", false));
        // Its write was carried out though it heard of a failure, or another one led meanwhile.
        assert!(!other.history.next(Some(8), 5).restored);
    }

    #[test]
    fn marks_that_a_restore_took_are_never_given_again() {
        // The leader had written 20 when the cluster went back to 12.
        let restored = history("3-12");
        for own in [Some(20), None] {
            let next = restored.next(own, 0);
            assert_eq!(next.restored, own.is_some(), "one that began after the restore knows of none");
            assert!(next.history.includes(12) && next.history.includes(3) && next.history.includes(0));
            let mut history = next.history;
            for _ in 0..100 {
                history = history.next(Some(history.latest()), 0).history;
            }
            assert!(!history.includes(13), "{history}");
            assert!(own.is_none() || (13..=20).all(|lost| !history.includes(lost)), "{history}");
        }
    }

    #[test]
    fn what_is_forgotten_is_not_judged() {
        let mut marks = History::default();
        for _ in 0..=MOST_TERMS {
            marks = marks.next(None, 1).history;
        }
        assert!(marks.includes(3), "the first term was forgotten, not lost");
        assert!(marks.to_string().len() <= MOST_TERMS * 42);
        assert!(!History::default().includes(1) && History::default().includes(0));
    }

    #[test]
    fn text_is_read_back_and_nonsense_is_not() {
        for text in ["", "1-1", "3-17,9201-9377"] {
            assert_eq!(history(text).to_string(), text);
        }
        for text in ["x", "3", "5-4", "1-4,4-9", "0-3"] {
            assert!(text.parse::<History>().is_err(), "{text}");
        }
    }
}
