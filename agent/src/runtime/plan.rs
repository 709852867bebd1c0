//! What to do: a pure function of what should run, what the runtime and the disk show, and the time.
//!
//! A difference of hash is a reason to compare, never a reason to restart (sync rule 4): what restarts a
//! container is a difference in the fields of that container, and each step says which. The cases are
//! in `testdata/plans.yaml`, the plans in `testdata/plans.txt`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use selvedge_model::pod::ImagePullPolicy;

use super::{
    cri::{Container, ContainerState, Details, Sandbox, WorkloadKey},
    desired::{Blocked, WantedContainer, Workload},
    fields::HostPort,
    restart::{self, Next},
    volumes::VolumeId,
};

/// All that exists of one workload.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// Newest first.
    pub(super) sandboxes: Vec<FoundSandbox>,
    /// Content of each volume on disk.
    pub(super) volumes: BTreeMap<VolumeId, String>,
    /// Whether it has directories on disk.
    pub(super) on_disk: bool,
}

/// A sandbox and what is in it.
#[derive(Clone, Debug)]
pub(super) struct FoundSandbox {
    pub(super) sandbox: Sandbox,
    pub(super) containers: Vec<FoundContainer>,
}

/// A container and how it came out.
#[derive(Clone, Debug)]
pub(super) struct FoundContainer {
    pub(super) container: Container,
    /// None: not known at this pass.
    pub(super) details: Option<Details>,
    /// The last line that an ended container wrote.
    pub(super) last_line: String,
}

impl FoundSandbox {
    /// The latest attempt at a container.
    pub(super) fn latest(&self, name: &str) -> Option<&FoundContainer> {
        let named = self.containers.iter().filter(|found| found.container.name == name);
        named.max_by_key(|found| found.container.attempt)
    }
}

impl FoundContainer {
    pub(super) fn streak(&self) -> u32 {
        self.container.notes.as_ref().map_or(0, |notes| notes.streak)
    }
}

/// One thing to do. Steps of one workload are done in order; the first that fails ends them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    WriteVolume {
        volume: VolumeId,
    },
    EnsureImage {
        image: String,
        policy: ImagePullPolicy,
    },
    /// Stops the containers named, then takes the sandbox away with all that is in it.
    RemoveSandbox {
        id: String,
        stop: Vec<String>,
        grace_seconds: u64,
        why: String,
    },
    RunSandbox {
        attempt: u32,
    },
    RemoveContainer {
        id: String,
        name: String,
        /// None: it does not run.
        grace_seconds: Option<u64>,
        why: String,
    },
    StartContainer {
        name: String,
        attempt: u32,
        streak: u32,
        /// The sandbox that it goes into; none: the one that was just run.
        sandbox: Option<(String, u32)>,
    },
    RemoveVolume {
        volume: VolumeId,
    },
    /// Everything on disk of a workload that is gone.
    RemoveFiles,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WriteVolume { volume } => write!(f, "write volume {volume}"),
            Self::EnsureImage { image, policy } => write!(f, "ensure image {image} ({policy:?})"),
            Self::RemoveSandbox { id, stop, grace_seconds, why } => {
                write!(f, "remove sandbox {id}")?;
                if !stop.is_empty() {
                    write!(f, ", stopping {} within {grace_seconds} s", stop.join(" "))?;
                }
                write!(f, ": {why}")
            }
            Self::RunSandbox { attempt } => write!(f, "run sandbox, attempt {attempt}"),
            Self::RemoveContainer { id, name, grace_seconds, why } => {
                write!(f, "remove container {name} {id}")?;
                if let Some(grace) = grace_seconds {
                    write!(f, ", stopping it within {grace} s")?;
                }
                write!(f, ": {why}")
            }
            Self::StartContainer { name, attempt, streak, sandbox } => {
                write!(f, "start container {name}, attempt {attempt}, streak {streak}")?;
                match sandbox {
                    Some((id, _)) => write!(f, ", in sandbox {id}"),
                    None => f.write_str(", in the new sandbox"),
                }
            }
            Self::RemoveVolume { volume } => write!(f, "remove volume {volume}"),
            Self::RemoveFiles => f.write_str("remove its files"),
        }
    }
}

/// Why a workload has to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Another one that stays has a host port that this one needs.
    PortHeld(String),
    /// Another one that goes has it still.
    PortLeaving(String),
    /// Something that its next start needs is missing.
    References(String),
}

/// What to do for one workload now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) wait: Option<Wait>,
}

impl Plan {
    /// Whether the world is as desired.
    pub(super) fn is_settled(&self) -> bool {
        self.steps.is_empty() && self.wait.is_none()
    }
}

/// What should run, by key.
pub(super) type Desired = BTreeMap<WorkloadKey, Result<Arc<Workload>, Blocked>>;
/// What there is, by key.
pub(super) type Observed = BTreeMap<WorkloadKey, Found>;

/// A port of the node: number, and whether UDP.
type Claim = (u16, bool);

/// Plans for every workload that is desired or found. `keep_unknown`: what is found and not desired
/// stays, because what is desired is not known for certain.
pub(super) fn plan(
    desired: &Desired,
    observed: &Observed,
    now_ms: i64,
    keep_unknown: bool,
) -> BTreeMap<WorkloadKey, Plan> {
    let mut ports = Ports::of(desired, observed, keep_unknown);
    let nothing = Found::default();
    let keys: BTreeSet<_> = desired.keys().chain(observed.keys()).collect();
    let mut plans = BTreeMap::new();
    for key in keys {
        let found = observed.get(key).unwrap_or(&nothing);
        let plan = match desired.get(key) {
            Some(Ok(workload)) => upsert(workload, found, &mut ports, now_ms),
            // What cannot be taken up leaves its predecessor in force.
            Some(Err(_)) => Plan::default(),
            None if keep_unknown => Plan::default(),
            None => remove(found),
        };
        plans.insert(key.clone(), plan);
    }
    plans
}

fn remove(found: &Found) -> Plan {
    let why = "not wanted on this node any more";
    let mut steps: Vec<_> =
        found.sandboxes.iter().map(|sandbox| remove_sandbox(sandbox, None, why)).collect();
    if found.on_disk {
        steps.push(Step::RemoveFiles);
    }
    Plan { steps, wait: None }
}

fn remove_sandbox(found: &FoundSandbox, grace_seconds: Option<u64>, why: impl Into<String>) -> Step {
    let running = || found.containers.iter().map(|c| &c.container).filter(|c| runs(c));
    let noted = || running().filter_map(|c| Some(c.notes.as_ref()?.grace_seconds)).max().unwrap_or_default();
    Step::RemoveSandbox {
        id: found.sandbox.id.clone(),
        stop: running().map(|container| container.id.clone()).collect(),
        grace_seconds: grace_seconds.unwrap_or_else(noted),
        why: why.into(),
    }
}

/// `Unknown` may run: the runtime lost track of it.
fn runs(container: &Container) -> bool {
    matches!(container.state, ContainerState::Running | ContainerState::Unknown)
}

fn upsert(workload: &Workload, found: &Found, ports: &mut Ports, now_ms: i64) -> Plan {
    let mut plan = Plan::default();
    let mut lacking = None;
    for (name, files) in &workload.volumes {
        match files {
            Ok(files) if found.volumes.get(name) == Some(&files.content) => {}
            Ok(_) => plan.steps.push(Step::WriteVolume { volume: name.clone() }),
            Err(message) => lacking = Some(message.clone()),
        }
    }
    let current = current(workload, found);
    let mut changes = Changes::default();
    for wanted in &workload.containers {
        changes.consider(workload, wanted, current, found.sandboxes.first(), now_ms);
    }
    let starting = |wanted: &&WantedContainer| changes.starts.iter().any(|start| start.name == wanted.name);
    let unready = workload.containers.iter().filter(starting).find_map(|c| c.process.as_ref().err());
    if let Some(message) = lacking.or_else(|| unready.cloned()) {
        plan.wait = Some(Wait::References(message));
        if !changes.starts.is_empty() {
            return plan;
        }
    }
    let grace = workload.grace.as_secs();
    let stale: Vec<_> = found
        .sandboxes
        .iter()
        .filter(|sandbox| current.is_none_or(|current| current.sandbox.id != sandbox.sandbox.id))
        .map(|stale| remove_sandbox(stale, Some(grace), why_stale(workload, stale)))
        .collect();
    if current.is_none() {
        match ports.conflict(workload) {
            // Its own sandbox stays as it is: to take down what runs would help nobody.
            Some(conflict @ Wait::PortHeld(_)) => return Plan { wait: Some(conflict), ..plan },
            // Its own ports must get free as well, or two that swap theirs would wait for ever.
            Some(conflict) => {
                plan.steps.extend(stale);
                return Plan { wait: Some(conflict), ..plan };
            }
            None => ports.claim(workload),
        }
    }
    // Before anything is stopped: an image that cannot be had leaves running what runs.
    for wanted in workload.containers.iter().filter(starting) {
        let step = Step::EnsureImage { image: wanted.fields.image.clone(), policy: wanted.pull };
        if !plan.steps.contains(&step) {
            plan.steps.push(step);
        }
    }
    plan.steps.extend(stale);
    let sandbox = current.map(|current| (current.sandbox.id.clone(), current.sandbox.attempt));
    if sandbox.is_none() {
        let attempt = found.sandboxes.iter().map(|s| s.sandbox.attempt + 1).max().unwrap_or(0);
        plan.steps.push(Step::RunSandbox { attempt });
    }

    if let Some(current) = current {
        for unwanted in current.containers.iter().map(|found| &found.container) {
            if !workload.containers.iter().any(|wanted| wanted.name == unwanted.name) {
                let why = "not in the template any more".to_owned();
                plan.steps.push(remove_container(unwanted, grace, why));
            }
        }
    }
    let old = |removals: Vec<(Container, String)>| {
        removals.into_iter().map(|(container, why)| remove_container(&container, grace, why))
    };
    plan.steps.extend(old(changes.before));
    plan.steps.extend(changes.starts.into_iter().map(|start| Step::StartContainer {
        name: start.name,
        attempt: start.attempt,
        streak: start.streak,
        sandbox: sandbox.clone(),
    }));
    plan.steps.extend(old(changes.after));
    for name in found.volumes.keys().filter(|name| !workload.volumes.contains_key(*name)) {
        plan.steps.push(Step::RemoveVolume { volume: name.clone() });
    }
    plan
}

fn remove_container(container: &Container, grace: u64, why: String) -> Step {
    Step::RemoveContainer {
        id: container.id.clone(),
        name: container.name.clone(),
        grace_seconds: runs(container).then_some(grace),
        why,
    }
}

/// The sandbox to go on with: the newest that is ready and as wanted, or one whose work is done (a
/// reboot does not run finished work again).
fn current<'a>(workload: &Workload, found: &'a Found) -> Option<&'a FoundSandbox> {
    let fits = |found: &&FoundSandbox| why_different(workload, found).is_none();
    let ready = found.sandboxes.iter().filter(fits).find(|found| found.sandbox.ready);
    ready.or_else(|| {
        let newest = found.sandboxes.first().filter(fits)?;
        let done = workload.containers.iter().all(|wanted| {
            newest.latest(&wanted.name).is_some_and(|last| {
                differences(&last.container, wanted).is_empty()
                    && last.container.state == ContainerState::Exited
                    && last.details.as_ref().is_some_and(|details| {
                        restart::after_exit(workload.restart_policy, details, 0) == Next::Done
                    })
            })
        });
        done.then_some(newest)
    })
}

fn why_different(workload: &Workload, found: &FoundSandbox) -> Option<&'static str> {
    match &found.sandbox.fields {
        None => Some("its annotation cannot be read"),
        Some(fields) => fields.difference(&workload.sandbox),
    }
}

fn why_stale(workload: &Workload, found: &FoundSandbox) -> String {
    match why_different(workload, found) {
        Some(field) => format!("{field} differs"),
        None if found.sandbox.ready => "there is a newer one".to_owned(),
        None => "it is not ready".to_owned(),
    }
}

fn differences(container: &Container, wanted: &WantedContainer) -> Vec<&'static str> {
    if container.content == wanted.content {
        return Vec::new();
    }
    match &container.notes {
        None => vec!["unreadable annotation"],
        Some(notes) => notes.fields.differences(&wanted.fields),
    }
}

struct Start {
    name: String,
    attempt: u32,
    streak: u32,
}

/// What changes among the containers of one workload.
#[derive(Default)]
struct Changes {
    /// Removed before the starts: their names and attempts are needed.
    before: Vec<(Container, String)>,
    starts: Vec<Start>,
    /// Removed after them: until the next attempt exists, the last one says how it ended.
    after: Vec<(Container, String)>,
}

impl Changes {
    fn consider(
        &mut self,
        workload: &Workload,
        wanted: &WantedContainer,
        current: Option<&FoundSandbox>,
        newest: Option<&FoundSandbox>,
        now_ms: i64,
    ) {
        let start = |attempt, streak| Start { name: wanted.name.clone(), attempt, streak };
        let Some(current) = current else {
            // A sandbox that broke is a restart of what was in it; one that was changed is a new start.
            let before = newest
                .filter(|newest| why_different(workload, newest).is_none())
                .and_then(|newest| newest.latest(&wanted.name))
                .filter(|last| differences(&last.container, wanted).is_empty());
            self.starts.push(start(before.map_or(0, |last| last.container.attempt + 1), 0));
            return;
        };
        let Some(last) = current.latest(&wanted.name) else {
            self.starts.push(start(0, 0));
            return;
        };
        let container = &last.container;
        for older in &current.containers {
            if older.container.name == wanted.name && older.container.id != container.id {
                self.before.push((older.container.clone(), "an older attempt".to_owned()));
            }
        }
        let differs = differences(container, wanted);
        if !differs.is_empty() {
            self.before.push((container.clone(), format!("{} changed", differs.join(", "))));
            self.starts.push(start(0, 0));
            return;
        }
        match container.state {
            ContainerState::Running => {}
            // Left by an agent that ended between making and starting it, or by a runtime that did.
            ContainerState::Created | ContainerState::Unknown => {
                self.before.push((container.clone(), format!("it is {:?}", container.state)));
                self.starts.push(start(container.attempt, last.streak()));
            }
            ContainerState::Exited => {
                let Some(details) = &last.details else { return };
                match restart::after_exit(workload.restart_policy, details, last.streak()) {
                    Next::Restart(at) if restart::is_due(at, details, now_ms) => {
                        let streak = restart::streak_after(details, last.streak());
                        self.starts.push(start(container.attempt + 1, streak));
                        self.after.push((container.clone(), "an older attempt".to_owned()));
                    }
                    Next::Restart(_) | Next::Done => {}
                }
            }
        }
    }
}

/// Who has which port of the node.
struct Ports {
    /// Sandboxes that hold it, and whether they keep it.
    held: BTreeMap<Claim, Vec<(WorkloadKey, bool)>>,
    /// Workloads that get it in this pass.
    claimed: BTreeMap<Claim, WorkloadKey>,
}

impl Ports {
    fn of(desired: &Desired, observed: &Observed, keep_unknown: bool) -> Self {
        let mut held: BTreeMap<Claim, Vec<_>> = BTreeMap::new();
        for (key, found) in observed {
            for port in
                found.sandboxes.iter().filter_map(|s| s.sandbox.fields.as_ref()).flat_map(|f| &f.host_ports)
            {
                let stays = match desired.get(key) {
                    Some(Ok(workload)) => {
                        workload.sandbox.host_ports.iter().any(|p| p.claim() == port.claim())
                    }
                    Some(Err(_)) => true,
                    None => keep_unknown,
                };
                held.entry(port.claim()).or_default().push((key.clone(), stays));
            }
        }
        Self { held, claimed: BTreeMap::new() }
    }

    fn conflict(&self, workload: &Workload) -> Option<Wait> {
        let mut leaving = None;
        for port in &workload.sandbox.host_ports {
            let text = |port: &HostPort, key: &WorkloadKey| format!("host port {port} is held by {key}");
            if let Some(other) = self.claimed.get(&port.claim()) {
                return Some(Wait::PortHeld(text(port, other)));
            }
            let others = self.held.get(&port.claim()).into_iter().flatten();
            for (other, stays) in others.filter(|(key, _)| *key != workload.key) {
                if *stays {
                    return Some(Wait::PortHeld(text(port, other)));
                }
                leaving = Some(Wait::PortLeaving(format!("{}, which gives it up", text(port, other))));
            }
        }
        leaving
    }

    fn claim(&mut self, workload: &Workload) {
        let claims = workload.sandbox.host_ports.iter().map(|port| (port.claim(), workload.key.clone()));
        self.claimed.extend(claims);
    }
}
