//! How long changes took to the agents. Pure.

use std::collections::HashMap;

use crate::change::Made;

/// Times in milliseconds, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Times(Vec<f64>);

impl Times {
    /// Of samples in any order.
    #[must_use]
    pub fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        Self(samples)
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The sample below which this part of all lies; NaN without samples.
    #[must_use]
    pub fn at(&self, part: f64) -> f64 {
        let index = (part * self.0.len().saturating_sub(1) as f64).round() as usize;
        self.0.get(index).copied().unwrap_or(f64::NAN)
    }

    /// All of them.
    #[must_use]
    pub fn samples(&self) -> &[f64] {
        &self.0
    }
}

/// From the request to each acknowledgement: of changes to one node, and of changes to all.
#[must_use]
pub fn of(made: &HashMap<u64, Made>, arrivals: &[(u64, u64)]) -> (Times, Times) {
    let (mut one, mut all) = (Vec::new(), Vec::new());
    for (revision, at) in arrivals {
        let Some(made) = made.get(revision) else { continue };
        let samples = if made.fanout { &mut all } else { &mut one };
        samples.push(at.saturating_sub(made.asked) as f64 / 1000.0);
    }
    (Times::of(one), Times::of(all))
}

#[cfg(test)]
mod tests {
    use super::{Made, of};

    #[test]
    fn each_acknowledgement_is_timed_from_its_change() {
        let made = [(7, Made { asked: 1_000, fanout: false }), (9, Made { asked: 5_000, fanout: true })];
        let arrivals = [(7, 3_000), (9, 6_000), (9, 9_000), (8, 9_000)];
        let (one, all) = of(&made.into(), &arrivals);
        assert_eq!((one.samples(), all.samples()), (&[2.0][..], &[1.0, 4.0][..]));
        assert_eq!((all.at(0.0), all.at(1.0)), (1.0, 4.0));
        assert!(of(&made.into(), &[]).0.at(0.5).is_nan());
    }
}
