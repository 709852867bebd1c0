//! Containers: makes what runs on this node what should run here, through CRI v1.
//!
//! In: the workloads that the ledger has in force, with their ConfigMaps and Secrets. Out: a report for each, and
//! what the runtime is. One pass is observe (runtime and disk) → [`plan::plan`] (pure) → jobs, one a
//! workload, that do the planned steps beside each other: a slow image or a long grace period of one
//! workload holds up no other. What runs is found by labels, so an agent that starts anew adopts it.

mod cri;
mod desired;
mod execute;
mod expand;
mod fields;
mod grpc;
mod logs;
mod observe;
mod plan;
mod reference;
mod restart;
mod state;
mod volumes;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use selvedge_model::{ContentHash, EntryKey, WorkloadEntry, pod::ImagePullPolicy};
use selvedge_protocol::agent::{Phase, WorkloadState};
use tokio::{
    task::{AbortHandle, Id, JoinSet},
    time::Instant,
};

use cri::{ContainerState, Cri, CriError, Identity, WorkloadKey};
use desired::Workload;
use execute::Job;
pub use grpc::Grpc;
use plan::{Desired, Found, Observed, Plan, Step};
pub use reference::Referenced;
use state::Failure;
use volumes::Disk;

/// First wait after a failed job; doubles, with jitter, up to the longest.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Most causes of failure are looked at for nothing, so that their end is seen soon.
const LONGEST_RETRY: Duration = Duration::from_secs(10);
/// A pull asks a registry that the whole fleet shares. kubelet's longest wait.
const LONGEST_PULL_RETRY: Duration = Duration::from_secs(300);
/// A runtime that is restarted is back by then; its containers ran on, so nothing is said before.
const UNAVAILABLE_AFTER: Duration = Duration::from_secs(8);

/// A workload that the ledger has in force.
#[derive(Clone, Debug)]
pub struct DesiredWorkload {
    /// Namespace of the application.
    pub namespace: String,
    /// Name of the application.
    pub name: String,
    /// Uid of the application.
    pub uid: String,
    /// Content hash of `entry`.
    pub content_hash: ContentHash,
    /// The entry.
    pub entry: Arc<WorkloadEntry>,
    /// The ConfigMaps and Secrets that it names and that are here.
    pub references: BTreeMap<EntryKey, Referenced>,
}

/// What is true of a workload.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkloadReport {
    /// Namespace of the application.
    pub namespace: String,
    /// Name of the application.
    pub name: String,
    /// Uid of the application.
    pub uid: String,
    /// What was really applied last; none: nothing yet, as far as this agent knows.
    pub content_hash: Option<ContentHash>,
    /// State, with the revision that was applied.
    pub state: WorkloadState,
}

/// What the container runtime is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeInfo {
    /// `containerd://2.4.2`; empty: none was reached yet.
    pub name_version: String,
    /// Why it cannot be used now.
    pub error: Option<String>,
}

/// The containers of this node.
pub struct Runtime<C = Grpc> {
    cri: Arc<C>,
    disk: Disk,
    identity: Option<Identity>,
    /// Since when it does not answer, and why.
    outage: Option<(Instant, CriError)>,
    known: observe::Known,
    keep_unknown: bool,
    workloads: BTreeMap<WorkloadKey, Known>,
    jobs: JoinSet<Result<(), Failure>>,
    running: HashMap<Id, WorkloadKey>,
}

/// What the agent knows of one workload beyond what the runtime shows.
#[derive(Default)]
struct Known {
    /// As it was resolved last, to be used again while its content stays.
    resolved: Option<Arc<Workload>>,
    /// Uid, content and revision that were applied last.
    applied: Option<(String, ContentHash, String)>,
    job: Option<RunningJob>,
    failure: Option<Retry>,
    /// The job that ended well last, and when.
    done: Option<(Task, Instant)>,
    report: Option<WorkloadReport>,
}

/// What a job is for: the content (none: its removal) and the steps.
#[derive(Clone, PartialEq)]
struct Task {
    content: Option<ContentHash>,
    steps: Vec<Step>,
}

struct RunningJob {
    task: Task,
    fetching: Arc<AtomicBool>,
    abort: AbortHandle,
}

struct Retry {
    failure: Failure,
    /// The content that failed: another one is tried at once.
    content: Option<ContentHash>,
    wait: Duration,
    at: Instant,
}

impl Runtime {
    /// A runtime behind a CRI socket. Never fails: a runtime that is not there is a state, told by
    /// [`Runtime::info`], and healed when it comes. Volumes and logs go under `state_dir`, volumes of Secrets under
    /// `memory_dir`, which must be on a tmpfs.
    #[must_use]
    pub fn connect(socket: &Path, state_dir: &Path, memory_dir: &Path) -> Self {
        Self::over(Grpc::new(socket), state_dir, memory_dir)
    }
}

#[allow(private_bounds)]
impl<C: Cri> Runtime<C> {
    fn over(cri: C, state_dir: &Path, memory_dir: &Path) -> Self {
        Self {
            cri: Arc::new(cri),
            disk: Disk::new(state_dir, memory_dir),
            identity: None,
            outage: None,
            known: observe::Known::default(),
            keep_unknown: false,
            workloads: BTreeMap::new(),
            jobs: JoinSet::new(),
            running: HashMap::new(),
        }
    }

    /// What the container runtime is, as of the last pass.
    #[must_use]
    pub fn info(&self) -> RuntimeInfo {
        RuntimeInfo {
            name_version: self.identity.as_ref().map(|known| known.name_version.clone()).unwrap_or_default(),
            error: self.outage.as_ref().map(|(_, error)| error.to_string()),
        }
    }

    /// While `true`, what runs and is not desired runs on: for an agent whose ledger was lost, until it
    /// has been told everything again.
    pub fn keep_unknown(&mut self, keep: bool) {
        self.keep_unknown = keep;
    }

    /// Whether the last pass found nothing of ours, and nothing is being done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.workloads.is_empty()
    }

    /// Comes back when a job has ended, so that the next pass is worth while. Waits for ever while there
    /// is none. May be dropped at any time.
    pub async fn job_ended(&mut self) {
        match self.jobs.join_next_with_id().await {
            Some(ended) => self.finish(ended),
            None => std::future::pending().await,
        }
    }

    /// One pass. Answers a report for every desired workload, in order of namespace and name; the steps
    /// that it found to do go on in the background.
    pub async fn reconcile(&mut self, desired: &[DesiredWorkload]) -> Vec<WorkloadReport> {
        while let Some(ended) = self.jobs.try_join_next_with_id() {
            self.finish(ended);
        }
        let wanted = self.resolve(desired);
        match self.observe().await {
            Ok(observed) => {
                self.outage = None;
                self.work(desired, &wanted, &observed).await
            }
            Err(error) => self.unavailable(desired, error),
        }
    }

    fn resolve(&mut self, desired: &[DesiredWorkload]) -> Desired {
        let mut wanted = Desired::new();
        for entry in desired {
            let key = WorkloadKey { namespace: entry.namespace.clone(), name: entry.name.clone() };
            let known = self.workloads.entry(key.clone()).or_default();
            let same = known
                .resolved
                .take()
                .filter(|old| old.content_hash == entry.content_hash && old.uid == entry.uid);
            let resolved = same.map_or_else(|| desired::resolve(entry).map(Arc::new), Ok);
            known.resolved = resolved.as_ref().ok().cloned();
            wanted.insert(key, resolved);
        }
        wanted
    }

    async fn observe(&mut self) -> Result<Observed, CriError> {
        if self.identity.is_none() || self.outage.is_some() {
            self.identity = Some(self.cri.identify().await?);
        }
        observe::observe(self.cri.as_ref(), &self.disk, &mut self.known).await
    }

    async fn work(
        &mut self,
        desired: &[DesiredWorkload],
        wanted: &Desired,
        observed: &Observed,
    ) -> Vec<WorkloadReport> {
        let plans = plan::plan(wanted, observed, clock(), self.keep_unknown);
        self.bound_logs(observed).await;
        for (key, plan) in &plans {
            let workload = wanted.get(key).and_then(|resolved| resolved.as_ref().ok());
            self.take_up(key, workload, plan).await;
        }
        // What is neither wanted nor found nor worked on is nothing any more.
        self.workloads.retain(|key, known| plans.contains_key(key) || known.job.is_some());

        let nothing = (Found::default(), Plan::default());
        let mut reports = Vec::with_capacity(desired.len());
        for (key, resolved) in wanted {
            let Some(known) = self.workloads.get_mut(key) else { continue };
            let found = observed.get(key).unwrap_or(&nothing.0);
            let plan = plans.get(key).unwrap_or(&nothing.1);
            let content = resolved.as_ref().ok().map(|workload| workload.content_hash);
            let failed = known.failure.as_ref().filter(|retry| retry.content == content);
            let failure = failed.map(|retry| &retry.failure);
            let working = known.job.is_some();
            let mut state = state::state(resolved.as_ref().map(Arc::as_ref), found, plan, failure, working);
            if let Ok(workload) = resolved
                && plan.is_settled()
                && !working
                && !state::never_started(found)
            {
                let applied = (workload.uid.clone(), workload.content_hash, workload.revision.clone());
                known.applied = Some(applied);
            }
            let Some(entry) = desired.iter().find(|d| d.name == key.name && d.namespace == key.namespace)
            else {
                continue;
            };
            // What was applied under another uid is no answer for this one.
            let applied = known.applied.as_ref().filter(|(uid, ..)| *uid == entry.uid);
            state.revision = applied.map(|(.., revision)| revision.clone()).unwrap_or_default();
            let report = WorkloadReport {
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                uid: entry.uid.clone(),
                content_hash: applied.map(|(_, content, _)| *content),
                state,
            };
            known.report = Some(report.clone());
            reports.push(report);
        }
        reports
    }

    /// Starts the job for a plan, unless one runs, or has failed too lately.
    async fn take_up(&mut self, key: &WorkloadKey, workload: Option<&Arc<Workload>>, plan: &Plan) {
        let content = workload.map(|workload| workload.content_hash);
        let now = Instant::now();
        let known = self.workloads.entry(key.clone()).or_default();
        if let Some(job) = &known.job {
            // A fetch of an image that may not be wanted any more ends; everything else is soon done.
            if job.task.content != content && job.fetching.load(Ordering::Relaxed) {
                job.abort.abort();
            }
            return;
        }
        if plan.steps.is_empty() {
            known.failure = None;
            return;
        }
        if let Some(retry) = &known.failure
            && retry.content == content
            && now < retry.at
            && !image_came(self.cri.as_ref(), workload, &retry.failure).await
        {
            return;
        }
        let task = Task { content, steps: plan.steps.clone() };
        // Steps that were done and are to be done again: what they change is not to be seen yet, or
        // never. Either way there is time.
        if known.done.as_ref().is_some_and(|(done, at)| *done == task && now < *at + FIRST_RETRY) {
            return;
        }
        let fetching = Arc::new(AtomicBool::new(false));
        let job = Job {
            cri: Arc::clone(&self.cri),
            disk: self.disk.clone(),
            key: key.clone(),
            workload: workload.cloned(),
            cgroup_parent: self.identity.as_ref().map_or("/selvedge", |known| known.cgroup_parent),
            steps: plan.steps.clone(),
            fetching: Arc::clone(&fetching),
        };
        let abort = self.jobs.spawn(job.run());
        self.running.insert(abort.id(), key.clone());
        known.job = Some(RunningJob { task, fetching, abort });
    }

    fn finish(&mut self, ended: Result<(Id, Result<(), Failure>), tokio::task::JoinError>) {
        let (id, outcome) = match ended {
            Ok((id, outcome)) => (id, outcome),
            Err(error) if error.is_cancelled() => (error.id(), Ok(())),
            Err(error) => (
                error.id(),
                Err(Failure { reason: "AgentFault", message: format!("a job ended badly: {error}") }),
            ),
        };
        let Some(key) = self.running.remove(&id) else { return };
        let Some(known) = self.workloads.get_mut(&key) else { return };
        let Some(RunningJob { task, .. }) = known.job.take() else { return };
        let content = task.content;
        let before = known.failure.take();
        let Err(failure) = outcome else {
            known.done = Some((task, Instant::now()));
            return;
        };
        let longest = if failure.reason == "ImagePullFailed" { LONGEST_PULL_RETRY } else { LONGEST_RETRY };
        let wait = before
            .as_ref()
            .filter(|retry| retry.content == content)
            .map_or(FIRST_RETRY, |retry| retry.wait * 2)
            .min(longest);
        if before.as_ref().is_none_or(|before| before.failure != failure) {
            tracing::warn!(workload = %key, reason = failure.reason, "{}", failure.message);
        }
        let at = Instant::now() + wait.mul_f64(rand::random_range(0.5..1.0));
        known.failure = Some(Retry { failure, content, wait, at });
    }

    async fn bound_logs(&self, observed: &Observed) {
        let containers = observed.values().flat_map(|found| &found.sandboxes).flat_map(|s| &s.containers);
        for found in containers.filter(|found| found.container.state == ContainerState::Running) {
            let Some(details) = found.details.as_ref().filter(|details| !details.log_path.is_empty()) else {
                continue;
            };
            if logs::rotate(Path::new(&details.log_path))
                && let Err(error) = self.cri.reopen_log(&found.container.id).await
            {
                tracing::warn!(container = found.container.name, %error, "its log was rotated and not reopened");
            }
        }
    }

    /// The runtime does not answer: containers run on by themselves, so the last reports hold for a
    /// while; then every workload says why nothing is known of it.
    fn unavailable(&mut self, desired: &[DesiredWorkload], error: CriError) -> Vec<WorkloadReport> {
        if self.outage.is_none() {
            tracing::warn!(%error, "the container runtime cannot be used");
        }
        let now = Instant::now();
        let since = self.outage.as_ref().map_or(now, |(since, _)| *since);
        let settled = now.duration_since(since) >= UNAVAILABLE_AFTER;
        let message = error.to_string();
        self.outage = Some((since, error));
        let report = |entry: &DesiredWorkload| {
            let key = WorkloadKey { namespace: entry.namespace.clone(), name: entry.name.clone() };
            let last = self.workloads.get(&key).and_then(|known| known.report.clone());
            let last = last.filter(|report| report.uid == entry.uid);
            if let (Some(last), false) = (&last, settled) {
                return last.clone();
            }
            WorkloadReport {
                namespace: entry.namespace.clone(),
                name: entry.name.clone(),
                uid: entry.uid.clone(),
                content_hash: last.as_ref().and_then(|report| report.content_hash),
                state: WorkloadState {
                    phase: if settled { Phase::Failed } else { Phase::Pending }.into(),
                    reason: "RuntimeUnavailable".to_owned(),
                    message: message.clone(),
                    revision: last.map(|report| report.state.revision).unwrap_or_default(),
                    restarts: 0,
                    started_unix_ms: 0,
                },
            }
        };
        let mut reports: Vec<_> = desired.iter().map(report).collect();
        reports.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        reports
    }
}

/// Whether an image that could not be fetched is here now, by other hands: looking costs nothing, so
/// this does not wait for the next try.
async fn image_came<C: Cri>(cri: &C, workload: Option<&Arc<Workload>>, failure: &Failure) -> bool {
    if failure.reason != "ImagePullFailed" {
        return false;
    }
    for container in workload.into_iter().flat_map(|workload| &workload.containers) {
        if container.pull == ImagePullPolicy::Always {
            return false;
        }
        if !matches!(cri.image(&container.fields.image).await, Ok(Some(_))) {
            return false;
        }
    }
    true
}

/// The room's one clock for times of day: the runtime tells when containers ended in Unix time.
#[allow(clippy::disallowed_methods)]
fn clock() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
