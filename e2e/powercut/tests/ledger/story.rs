//! One history: a ledger that lives, is cut off, and lives again, beside a twin in memory that says what
//! it must hold.

use std::{collections::BTreeMap, path::Path};

use bytes::Bytes;
use rand::{Rng, RngExt as _, SeedableRng as _, rngs::StdRng};
use selvedge_agent::ledger::{
    LEDGER_FILE, Machine, MemoryStore, Meta, Row, RowKey, Slot, SqliteStore, Store, open,
};
use selvedge_powercut::{Loss, Mounted};
use selvedge_protocol::agent::{EntryReport, to_hub::Message as ToHub};

use crate::hub::{CLUSTER, Hub, Step};

/// Cuts of one ledger.
const LIVES: usize = 5;
/// Steps of one life that no cut ended.
const STEPS: usize = 60;
/// Changes of the disk until the power goes, at most: more than most lives have.
const CHANGES: u64 = 400;
const VERSION: &str = "1";

/// How the ledger is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opener {
    /// As the agent does.
    Shipped,
    /// The same with another `synchronous`.
    Synchronous(&'static str),
}

/// What the histories went through.
#[derive(Debug, Default)]
pub struct Tally {
    pub cuts: u64,
    /// Cuts while the log held what was not synced.
    pub in_log: u64,
    /// Cuts while the database itself did: in a checkpoint.
    pub in_database: u64,
    pub while_opening: u64,
    /// Steps whose end was cut off, and that were there afterwards; and those that were not.
    pub came_through: u64,
    pub undone: u64,
}

/// What a ledger holds.
#[derive(Clone, Debug, Default, PartialEq)]
struct Holds {
    meta: Meta,
    rows: BTreeMap<RowKey, Row>,
    bodies: BTreeMap<(RowKey, bool), Bytes>,
    reports: BTreeMap<RowKey, EntryReport>,
}

/// What a ledger may hold after a cut.
#[derive(Clone, Debug, Default)]
struct Truth {
    store: MemoryStore,
    reports: BTreeMap<RowKey, EntryReport>,
}

impl Truth {
    fn open(&self) -> Machine<MemoryStore> {
        Machine::open(self.store.clone(), VERSION, CLUSTER).expect("memory holds")
    }

    /// As it is once a start has been written down.
    fn started(&self) -> Self {
        Self { store: self.open().store().clone(), reports: self.reports.clone() }
    }
}

/// Lives a ledger from `seed`; says what it lost.
pub fn run(disk: &Mounted, seed: u64, opener: Opener, tally: &mut Tally) -> Result<(), String> {
    let mut random = StdRng::seed_from_u64(seed);
    disk.format();
    let mut hub = Hub::default();
    // The last of them is what the ledger was doing when the power went.
    let mut may_hold = vec![Truth::default()];
    for life in 0..LIVES {
        let fuse = random.random_ratio(3, 4).then(|| random.random_range(1..=CHANGES));
        disk.change(|disk| fuse.into_iter().for_each(|changes| disk.cut_after(changes)));
        may_hold = live(disk, opener, &mut hub, &may_hold, &mut random, tally)
            .map_err(|failure| format!("life {life}: {failure}"))?;
        let loss = match random.random_range(0..6) {
            0 => Loss::Everything,
            1 => Loss::Nothing,
            2 | 3 => Loss::Pages,
            _ => Loss::Sectors,
        };
        tally.cuts += 1;
        disk.change(|disk| {
            let unsynced = disk.unsynced();
            tally.in_log += u64::from(unsynced.iter().any(|name| name.ends_with("-wal")));
            tally.in_database += u64::from(unsynced.contains(&LEDGER_FILE));
            disk.restore(loss, &mut random);
        });
    }
    Ok(())
}

/// One life, from the start to the cut; gives what the ledger may hold after it.
fn live(
    disk: &Mounted,
    opener: Opener,
    hub: &mut Hub,
    may_hold: &[Truth],
    random: &mut impl Rng,
    tally: &mut Tally,
) -> Result<Vec<Truth>, String> {
    let opened = opener.open(disk.path());
    if disk.is_off() {
        tally.while_opening += 1;
        // The start itself may have been written down, or not.
        return Ok(may_hold.iter().flat_map(|truth| [truth.clone(), truth.started()]).collect());
    }
    let mut machine = opened?;
    let found = holds(&mut machine);
    let fits = |truth: &Truth| {
        let mut twin = truth.open();
        let reports = truth.reports.clone();
        let expected = Holds { reports, ..look(&mut twin) };
        (found == expected).then_some((twin, truth.reports.clone()))
    };
    let Some((index, (mut twin, mut reports))) =
        may_hold.iter().enumerate().find_map(|(index, truth)| Some((index, fits(truth)?)))
    else {
        return Err(difference(&found, may_hold));
    };
    match index {
        0 if may_hold.len() > 1 => tally.undone += 1,
        0 => {}
        _ => tally.came_through += 1,
    }
    hub.agent_started();
    for _ in 0..random.random_range(1..=STEPS) {
        let step = hub.next(&twin, random);
        let before = Truth { store: twin.store().clone(), reports: reports.clone() };
        let expected = hub.play(&mut twin, &step).expect("memory holds");
        let done = hub.play(&mut machine, &step);
        if let Step::Reports(changes) = &step {
            let _ = machine.store().save_reports(changes);
            for (key, report) in changes {
                match report {
                    Some(report) => drop(reports.insert(key.clone(), report.clone())),
                    None => drop(reports.remove(key)),
                }
            }
        }
        let after = Truth { store: twin.store().clone(), reports: reports.clone() };
        if disk.is_off() {
            // What was acknowledged although the power went is there for certain.
            let acknowledged = matches!(done.as_deref(), Ok([ToHub::Ack(_)]));
            return Ok(if acknowledged { vec![after] } else { vec![before, after] });
        }
        let done = done.map_err(|error| format!("{step:?} failed with the power on: {error}"))?;
        if done != expected {
            return Err(format!("{step:?} was answered {done:?}, not {expected:?}"));
        }
    }
    // Most agents end by the cut, some by a stop that closes the file first.
    if random.random_ratio(1, 2) {
        disk.change(|disk| disk.cut());
    }
    drop(machine);
    disk.change(|disk| disk.cut());
    Ok(vec![Truth { store: twin.store().clone(), reports }])
}

impl Opener {
    fn open(self, dir: &Path) -> Result<Machine<SqliteStore>, String> {
        match self {
            Self::Shipped => {
                let opened = open(dir, VERSION, CLUSTER).map_err(|error| format!("{error:?}"))?;
                if opened.notice.is_empty() { Ok(opened.machine) } else { Err(opened.notice) }
            }
            Self::Synchronous(mode) => {
                let store = SqliteStore::open(&dir.join(LEDGER_FILE)).map_err(|error| error.to_string())?;
                let set = store.connection().pragma_update(None, "synchronous", mode);
                set.map_err(|error| error.to_string())?;
                Machine::open(store, VERSION, CLUSTER).map_err(|error| error.to_string())
            }
        }
    }
}

fn holds(machine: &mut Machine<SqliteStore>) -> Holds {
    let reports = machine.store().reports().expect("the power is on");
    let keyed = |report: EntryReport| {
        let key = report.key.clone().and_then(|key| RowKey::try_from(key).ok()).expect("a report has a key");
        (key, report)
    };
    Holds { reports: reports.into_iter().map(keyed).collect(), ..look(machine) }
}

fn look<S: Store>(machine: &mut Machine<S>) -> Holds {
    let (meta, rows) = (machine.meta().clone(), machine.rows().clone());
    let mut bodies = BTreeMap::new();
    for key in rows.keys() {
        for slot in [Slot::InForce, Slot::Pending] {
            if let Some(body) = machine.store().body(key, slot).expect("the power is on") {
                bodies.insert((key.clone(), slot == Slot::Pending), body);
            }
        }
    }
    Holds { meta, rows, bodies, reports: BTreeMap::new() }
}

/// What is wrong, against the newest that the ledger should hold.
fn difference(found: &Holds, may_hold: &[Truth]) -> String {
    let Some(truth) = may_hold.last() else { return "nothing can fit".into() };
    let wanted = Holds { reports: truth.reports.clone(), ..look(&mut truth.open()) };
    let rows = |holds: &Holds| -> BTreeMap<String, u64> {
        let revision =
            |row: &Row| row.answered.as_ref().map_or(0, |answered| answered.version.source_revision);
        holds.rows.iter().map(|(key, row)| (key.to_string(), revision(row))).collect()
    };
    let reports = |holds: &Holds| -> BTreeMap<String, u64> {
        holds.reports.iter().map(|(key, report)| (key.to_string(), report.seq)).collect()
    };
    format!(
        "the ledger lost what it had acknowledged.\n holds {:?}\n  rows {:?}\n  reports {:?}\n should {:?}\n  \
         rows {:?}\n  reports {:?}\n  bodies equal: {}",
        found.meta,
        rows(found),
        reports(found),
        wanted.meta,
        rows(&wanted),
        reports(&wanted),
        found.bodies == wanted.bodies,
    )
}
