//! Accidents that happen to simulated agents: which, when, and for how long. Pure.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

/// One accident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// The connection ends without a goodbye.
    Cut,
    /// The agent neither reads nor writes for a while, up to longer than a hub waits.
    Stall,
    /// The agent reads a frame only now and then.
    SlowReader,
    /// The agent has lost its connection and dials anew; the hub is told nothing of the old one.
    HalfOpen,
    /// The process dies at once and starts again from what is on its disk.
    Crash,
    /// A copy of the disk lives on another machine for a while, with the same identity.
    Duplicate,
    /// The ledger is gone; the identity is not.
    LostLedger,
    /// The clock is wrong, by up to a day.
    ClockSkew,
}

impl Fault {
    /// Every accident.
    pub const ALL: [Self; 8] = [
        Self::Cut,
        Self::Stall,
        Self::SlowReader,
        Self::HalfOpen,
        Self::Crash,
        Self::Duplicate,
        Self::LostLedger,
        Self::ClockSkew,
    ];

    /// As written on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Stall => "stall",
            Self::SlowReader => "slow-reader",
            Self::HalfOpen => "half-open",
            Self::Crash => "crash",
            Self::Duplicate => "duplicate",
            Self::LostLedger => "lost-ledger",
            Self::ClockSkew => "clock-skew",
        }
    }

    /// By name.
    ///
    /// # Errors
    /// The names that there are.
    pub fn named(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|fault| fault.name() == name).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|fault| fault.name()).collect();
            format!("{name:?} is no accident; there are: {}", names.join(", "))
        })
    }
}

/// When the next accident happens to one agent, and which.
#[derive(Debug)]
pub struct Fate {
    random: SmallRng,
    faults: Vec<Fault>,
    /// Mean time between two accidents of this agent, seconds.
    mean: f64,
}

impl Fate {
    /// The fate of agent `number` of a fleet of `agents` to which `rate` accidents happen a second.
    #[must_use]
    pub fn new(seed: u64, number: u32, faults: &[Fault], rate: f64, agents: u32) -> Self {
        let random = SmallRng::seed_from_u64(seed ^ (u64::from(number) << 32));
        Self { random, faults: faults.to_vec(), mean: f64::from(agents) / rate.max(1e-9) }
    }

    /// The next accident and how long it is away; none when nothing ever happens. Accidents come without
    /// memory (a Poisson process), so that two sometimes come close together.
    pub fn next_fault(&mut self) -> Option<(Duration, Fault)> {
        let fault = *self.faults.get(self.random.random_range(0..self.faults.len().max(1)))?;
        let wait = -self.mean * (1.0 - self.random.random::<f64>()).ln();
        Some((Duration::from_secs_f64(wait.min(1e6)), fault))
    }

    /// How long an accident lasts that does: from nothing to longer than two heartbeats.
    pub fn length(&mut self) -> Duration {
        Duration::from_millis(self.random.random_range(200..40_000))
    }

    /// By how much a wrong clock is wrong, milliseconds.
    pub fn skew(&mut self) -> i64 {
        self.random.random_range(-86_400_000..86_400_000)
    }

    /// Any random number: nonces, jitter.
    pub fn random(&mut self) -> &mut SmallRng {
        &mut self.random
    }
}
