//! What kind of history a seed makes: how slow things are, and what breaks how often.

use crate::rng::Rng;

/// See the module. Times in milliseconds, chances in percent.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Nodes, and agents.
    pub nodes: usize,
    /// How long users and faults are at work.
    pub busy: u64,
    /// Longest pause between two changes.
    pub change_every: u64,
    /// Longest pause between two faults.
    pub fault_every: u64,
    /// Longest way of a message.
    pub latency: u64,
    /// Longest lag of a watch, drawn per replica and kind.
    pub lag: u64,
    /// Longest time of an answer of the API server.
    pub api: u64,
    /// Watches that bring no bookmark at their end.
    pub no_bookmark: u64,
    /// ConfigMaps of so many bytes: a few of them do not fit into one delta.
    pub weight: usize,
    /// In the end every late node is admitted.
    pub admit_all: bool,
    /// The cluster is restored from a snapshot, to an older revision.
    pub restore: bool,
    /// Chance that a change is the deletion of a CRD. None in histories with a restore, which would restore CRDs, too.
    pub crds: u64,
    /// Replicas and agents of the version before run beside those of this one, and each start may be of the other.
    /// None in histories with a restore, which the version before could not prove.
    pub skew: bool,
    /// In the end all of them start anew.
    pub upgrade: bool,
    /// The edgenode-controller is away: nobody is superseded by it.
    pub no_controller: bool,
}

impl Plan {
    /// The plan of a seed; without `restores` the cluster is never restored.
    pub fn draw(rng: &mut Rng, restores: bool) -> Self {
        let slow = |rng: &mut Rng, quick: u64, slow: u64| if rng.chance(70) { quick } else { slow };
        let mut plan = Self {
            nodes: rng.index(3) + 1,
            busy: rng.range(10_000, 45_000),
            change_every: slow(rng, 3_000, 500),
            fault_every: slow(rng, 8_000, 2_500),
            latency: slow(rng, 50, 3_000),
            lag: slow(rng, 200, 15_000),
            api: slow(rng, 30, 2_000),
            no_bookmark: slow(rng, 5, 60),
            weight: if rng.chance(3) { 90_000 } else { 0 },
            admit_all: rng.chance(70),
            no_controller: rng.chance(20),
            restore: rng.chance(50) && restores,
            crds: if rng.chance(30) { 10 } else { 0 },
            skew: rng.chance(50),
            upgrade: rng.chance(50),
        };
        if plan.restore {
            (plan.crds, plan.skew) = (0, false);
        }
        // Without a controller no mark is raised, and what nobody lives to remember cannot be known.
        plan.no_controller &= !plan.restore;
        plan
    }
}
