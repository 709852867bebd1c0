//! The checker: one event after another, and what each of them must not be.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use selvedge_model::{ContentHash, SessionId};

use crate::event::{Agent, Event, InForce, Name, Row, Verdict, Wanted};
use crate::violation::{Invariant, Violation};

/// Violations that are kept: the first ones explain the others.
const MOST_VIOLATIONS: usize = 100;

/// Number of an event, from 1.
type Nth = u64;

/// At which node (none: every node), under which key.
type Place = (Option<Name>, Name);

/// One agent as its events tell.
#[derive(Clone, Debug, Default)]
struct Known {
    epoch: u64,
    /// What it has acknowledged, by key, and when.
    answered: BTreeMap<Name, (Name, ContentHash, Nth)>,
    in_force: BTreeMap<Name, (InForce, Nth)>,
    /// Highest source revision in force by key and uid.
    newest: HashMap<(Name, Name), (u64, Nth)>,
    /// It starts under another version next.
    upgraded: bool,
    /// Youngest uid in force by key: when it was born, and when it came into force.
    youngest: HashMap<Name, (Nth, Nth)>,
}

/// See the crate.
#[derive(Clone, Debug, Default)]
pub struct Checker {
    nth: Nth,
    at: u64,
    violations: Vec<Violation>,
    desired: HashMap<Place, HashSet<(Name, ContentHash)>>,
    /// First `Desired` of each uid.
    born: HashMap<Name, Nth>,
    withdrawn: HashMap<Place, HashSet<Name>>,
    vanished: HashSet<Name>,
    /// Since when nothing that is desired changes.
    settled: Option<Nth>,
    /// Node and key of what may change all the same.
    unsettled: HashSet<(Name, Name)>,
    paced: HashSet<Name>,
    passed: HashSet<(Name, Name, Name)>,
    agents: HashMap<Agent, Known>,
    applied: HashMap<Place, HashSet<ContentHash>>,
    /// Reports without a verdict: what they say, and when.
    reports: HashMap<(SessionId, Name, u64), (u64, Nth)>,
    /// What stands in the API, by node and key: the highest that it ever said.
    stood: HashMap<(Name, Name), (u64, Nth)>,
    /// Newest session that wrote, by uid of the object.
    fences: HashMap<Name, (SessionId, Nth)>,
}

impl Checker {
    /// Takes the next event, which happened `at` milliseconds after the rig began.
    pub fn observe(&mut self, at: u64, event: Event) {
        self.nth += 1;
        self.at = at;
        match event {
            Event::Desired { node, key, uid, hash } => {
                self.born.entry(uid.clone()).or_insert(self.nth);
                self.desired.entry((node, key)).or_default().insert((uid, hash));
            }
            Event::Withdrawn { node, key, uid } => {
                self.withdrawn.entry((node, key)).or_default().insert(uid);
            }
            Event::Vanished { key } => {
                self.vanished.insert(key);
            }
            Event::Paced { key } => {
                self.paced.insert(key);
            }
            Event::Passed { node, key, revision } => {
                self.passed.insert((node, key, revision));
            }
            Event::Upgraded { agent } => self.agents.entry(agent).or_default().upgraded = true,
            Event::Settled { but } => {
                self.settled = Some(self.nth);
                self.unsettled = but.into_iter().collect();
            }
            Event::Booted { agent, fresh, rows } => self.booted(agent, fresh, rows),
            Event::Epoch { agent, epoch } => {
                let known = self.agents.entry(agent).or_default();
                known.epoch = epoch;
                known.newest.clear();
                known.youngest.clear();
            }
            Event::Answered { agent, rows, removed, .. } => self.answered(&agent, rows, &removed),
            Event::InForce { agent, key, version } => self.in_force(&agent, key, version),
            Event::OutOfForce { agent, key } => self.out_of_force(&agent, &key),
            Event::Kept { node, session, what, count, most } => {
                if count > most {
                    let text = format!("session {session} keeps {count} {what}, and {most} are the most");
                    self.found(Invariant::I7, &node, &"".into(), text, &[]);
                }
            }
            Event::Applied { node, key, hash } => {
                self.applied.entry((Some(node), key)).or_default().insert(hash);
            }
            Event::Reported { session, key, seq, says } => {
                self.reports.insert((session, key, seq), (says, self.nth));
            }
            Event::Verdict { node, session, key, seq, verdict } => {
                self.verdict(&node, session, key, seq, verdict);
            }
            Event::Status { node, key, object, session, says, claims } => {
                self.status(&node, &key, object, session, says, &claims);
            }
            Event::Rest { agent, session, wanted, rows, said } => {
                self.rest(&agent, session, &wanted, &rows);
                self.said(&agent, &said);
            }
            Event::Lingers { node, what } => {
                let text = format!("all is quiet, and the status says: {what}");
                self.found(Invariant::Lingering, &node, &"".into(), text, &[]);
            }
            Event::Restored => self.fences.clear(),
            Event::Began { .. }
            | Event::Ended { .. }
            | Event::Sent { .. }
            | Event::Crashed { .. }
            | Event::Noted { .. } => {}
        }
    }

    /// What does not hold, in the order in which it was found; the first 100.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// What an agent has acknowledged and still has, by its events; empty: nothing, or nobody knows it.
    #[must_use]
    pub fn answered_by(&self, agent: &Agent) -> Vec<Row> {
        let known = self.agents.get(agent).into_iter().flat_map(|known| &known.answered);
        known.map(|(key, (uid, hash, _))| Row { key: key.clone(), uid: uid.clone(), hash: *hash }).collect()
    }

    /// How many events were observed.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.nth
    }

    fn found(&mut self, invariant: Invariant, node: &Name, key: &Name, text: String, because: &[Nth]) {
        if self.violations.len() < MOST_VIOLATIONS {
            let mut events = because.to_vec();
            events.push(self.nth);
            let (node, key, at) = (node.clone(), key.clone(), self.at);
            self.violations.push(Violation { invariant, node, key, text, at, events });
        }
    }

    /// I4, from the agent to the hub: what was acknowledged is still there.
    fn booted(&mut self, agent: Agent, fresh: bool, rows: Vec<Row>) {
        let nth = self.nth;
        let rows: BTreeMap<Name, (Name, ContentHash, Nth)> =
            rows.into_iter().map(|row| (row.key, (row.uid, row.hash, nth))).collect();
        let mut lost = Vec::new();
        if fresh {
            let epoch = self.agents.get(&agent).map_or(0, |known| known.epoch);
            self.agents.insert(agent.clone(), Known { epoch, ..Known::default() });
        }
        let known = self.agents.entry(agent.clone()).or_default();
        let forgets = std::mem::take(&mut known.upgraded);
        if !fresh {
            let keys: BTreeSet<&Name> = known.answered.keys().chain(rows.keys()).collect();
            for key in keys {
                let told = known.answered.get(key);
                let found = rows.get(key);
                let same =
                    |(a, b): (&(Name, ContentHash, Nth), &(Name, ContentHash, Nth))| a.0 == b.0 && a.1 == b.1;
                let forgot = forgets && found.is_none();
                if !told.zip(found).is_some_and(same) && !forgot {
                    let text = |row: Option<&(Name, ContentHash, Nth)>| {
                        row.map_or("nothing".to_owned(), |(uid, hash, _)| format!("{hash:?} of {uid}"))
                    };
                    let text = format!("it answered {}, and finds {}", text(told), text(found));
                    lost.push((key.clone(), text, told.map(|told| told.2)));
                }
            }
        }
        known.answered = rows;
        for (key, text, since) in lost {
            self.found(Invariant::I4, &agent.node, &key, text, since.as_slice());
        }
    }

    fn answered(&mut self, agent: &Agent, rows: Vec<Row>, removed: &[(Name, Name)]) {
        let nth = self.nth;
        let mut repeated = Vec::new();
        let known = self.agents.entry(agent.clone()).or_default();
        for (key, uid) in removed {
            if known.answered.get(key).is_some_and(|row| row.0 == *uid) {
                known.answered.remove(key);
            }
        }
        for row in rows {
            if let Some((uid, hash, since)) = known.answered.get(&row.key)
                && (uid, hash) == (&row.uid, &row.hash)
            {
                repeated.push((row.key.clone(), row.hash, *since));
            }
            known.answered.insert(row.key, (row.uid, row.hash, nth));
        }
        for (key, hash, since) in repeated {
            let text = format!("{hash:?} was delivered to {agent}, which had answered it");
            self.found(Invariant::Repetition, &agent.node, &key, text, &[since]);
        }
    }

    fn in_force(&mut self, agent: &Agent, key: Name, version: InForce) {
        self.check_settled(agent, &key, Some(&version));
        self.check_desired(agent, &key, &version);
        self.check_pace(agent, &key, &version);
        let nth = self.nth;
        let born = self.born.get(&version.uid).copied().unwrap_or(nth);
        let mut older = Vec::new();
        let known = self.agents.entry(agent.clone()).or_default();
        if version.source == 0 {
            // Carried over from an older epoch, of which nothing is compared with this one.
            known.in_force.insert(key, (version, nth));
            return;
        }
        let newest = known.newest.entry((key.clone(), version.uid.clone())).or_insert((0, nth));
        if version.source < newest.0 {
            let text = format!("{agent} went back from source revision {} to {}", newest.0, version.source);
            older.push((text, newest.1));
        } else {
            *newest = (version.source, nth);
        }
        let youngest = known.youngest.entry(key.clone()).or_insert((born, nth));
        if born < youngest.0 {
            let text = format!("{agent} went back to uid {}, which is older than one it had", version.uid);
            older.push((text, youngest.1));
        } else {
            *youngest = (born, nth);
        }
        known.in_force.insert(key.clone(), (version, nth));
        for (text, since) in older {
            self.found(Invariant::I1, &agent.node, &key, text, &[since]);
        }
    }

    /// I3.
    fn check_desired(&mut self, agent: &Agent, key: &Name, version: &InForce) {
        let content = (version.uid.clone(), version.hash);
        let asked = |node: Option<Name>| {
            self.desired.get(&(node, key.clone())).is_some_and(|contents| contents.contains(&content))
        };
        if !asked(Some(agent.node.clone())) && !asked(None) {
            let text = format!("{:?} of {} is in force and was never desired", version.hash, version.uid);
            self.found(Invariant::I3, &agent.node, key, text, &[]);
        }
    }

    /// I8.
    fn check_settled(&mut self, agent: &Agent, key: &Name, version: Option<&InForce>) {
        let Some(settled) = self.settled else { return };
        if self.unsettled.contains(&(agent.node.clone(), key.clone())) {
            return;
        }
        let before = self.agents.get(agent).and_then(|known| known.in_force.get(key));
        let content = |version: &InForce| (version.uid.clone(), version.hash);
        if before.map(|before| content(&before.0)) != version.map(content) {
            let was = before.map(|before| content(&before.0));
            let text = format!(
                "nothing desired changed, and {agent} went from {was:?} to {:?}",
                version.map(content)
            );
            self.found(Invariant::I8, &agent.node, key, text, &[settled]);
        }
    }

    /// Sync rule 11.
    fn check_pace(&mut self, agent: &Agent, key: &Name, version: &InForce) {
        if !self.paced.contains(key) {
            return;
        }
        let Some((before, since)) = self.agents.get(agent).and_then(|known| known.in_force.get(key)) else {
            return;
        };
        let passed = (agent.node.clone(), key.clone(), version.revision.clone());
        if before.uid == version.uid && before.revision != version.revision && !self.passed.contains(&passed)
        {
            let text = format!(
                "{agent} went from {} to {}, and was neither live when that passed nor admitted",
                before.revision, version.revision
            );
            let since = *since;
            self.found(Invariant::Late, &agent.node, key, text, &[since]);
        }
    }

    /// Sync rule 2.
    fn out_of_force(&mut self, agent: &Agent, key: &Name) {
        self.check_settled(agent, key, None);
        let Some(known) = self.agents.get_mut(agent) else { return };
        let Some((version, since)) = known.in_force.remove(key) else { return };
        let let_go = |node: Option<Name>| {
            self.withdrawn.get(&(node, key.clone())).is_some_and(|uids| uids.contains(&version.uid))
        };
        if !let_go(Some(agent.node.clone())) && !let_go(None) {
            let text = format!("{} was taken away from {agent}, and nobody had withdrawn it", version.uid);
            self.found(Invariant::Absence, &agent.node, key, text, &[since]);
        }
    }

    /// I4, from the hub to the agent: what was said to be written stands in the API.
    fn verdict(&mut self, node: &Name, session: SessionId, key: Name, seq: u64, verdict: Verdict) {
        let Some((says, since)) = self.reports.remove(&(session, key.clone(), seq)) else { return };
        // What was said of an entry whose source went is about nothing: however it is answered, nothing is lost.
        let withdrawn = |node: Option<Name>| self.withdrawn.contains_key(&(node, key.clone()));
        let withdrawn = withdrawn(Some(node.clone())) || withdrawn(None) || self.vanished.contains(&key);
        match verdict {
            Verdict::Written => {
                let stands = self.stood.get(&(node.clone(), key.clone())).map_or(0, |stood| stood.0);
                if stands < says && !withdrawn {
                    let text = format!("report {says} was answered as written; {stands} stands in the API");
                    self.found(Invariant::I4, node, &key, text, &[since]);
                }
            }
            Verdict::Gone => {
                if !withdrawn {
                    let text =
                        format!("report {says} was answered as gone, and nobody had withdrawn the key");
                    self.found(Invariant::I4, node, &key, text, &[since]);
                }
            }
            Verdict::Superseded | Verdict::Refused => {}
        }
    }

    fn status(
        &mut self,
        node: &Name,
        key: &Name,
        object: Name,
        session: SessionId,
        says: u64,
        claims: &[ContentHash],
    ) {
        let nth = self.nth;
        let fence = self.fences.entry(object).or_insert((session, nth));
        let newer = *fence;
        if session >= newer.0 {
            *fence = (session, nth);
        } else {
            let text = format!("session {session} wrote over {}", newer.0);
            self.found(Invariant::I6, node, key, text, &[newer.1]);
        }
        let stood = self.stood.entry((node.clone(), key.clone())).or_insert((says, nth));
        if says > stood.0 {
            *stood = (says, nth);
        }
        let applied = self.applied.get(&(Some(node.clone()), key.clone()));
        if !claims.is_empty() && !claims.iter().any(|hash| applied.is_some_and(|all| all.contains(hash))) {
            let text = format!("the status says that one of {claims:?} is in force; none was ever applied");
            self.found(Invariant::I5, node, key, text, &[]);
        }
    }

    /// I2.
    fn rest(&mut self, agent: &Agent, session: Option<SessionId>, wanted: &[(Name, Wanted)], rows: &[Row]) {
        let none: Name = "".into();
        if session.is_none() {
            return self.found(Invariant::I2, &agent.node, &none, "it found no hub".into(), &[]);
        }
        let wanted: BTreeMap<&Name, &Wanted> = wanted.iter().map(|(key, wanted)| (key, wanted)).collect();
        let rows: BTreeMap<&Name, &Row> = rows.iter().map(|row| (&row.key, row)).collect();
        let keys: BTreeSet<&Name> = wanted.keys().chain(rows.keys()).copied().collect();
        for key in keys {
            let row = rows.get(key);
            let has = row.map_or("nothing".to_owned(), |row| format!("{:?} of {}", row.hash, row.uid));
            let text = match wanted.get(key) {
                Some(Wanted::Held) => continue,
                Some(Wanted::OneOf(versions)) => {
                    if row.is_some_and(|row| versions.iter().any(|v| v.0 == row.uid && v.1 == row.hash)) {
                        continue;
                    }
                    format!("all is quiet, {agent} should have one of {versions:?} and has {has}")
                }
                None => format!("all is quiet, {agent} has {has}, which it should not have"),
            };
            self.found(Invariant::I2, &agent.node, key, text, &[]);
        }
    }

    /// I4, at rest: what was said last stands in the API.
    fn said(&mut self, agent: &Agent, said: &[(Name, u64)]) {
        for (key, says) in said {
            let stands = self.stood.get(&(agent.node.clone(), key.clone())).copied().unwrap_or_default();
            if stands.0 < *says {
                let text =
                    format!("all is quiet, {agent} said {says} last, and {} stands in the API", stands.0);
                self.found(Invariant::I4, &agent.node, key, text, &[stands.1]);
            }
        }
    }
}

#[cfg(test)]
mod tests;
