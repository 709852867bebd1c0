//! What to say of a workload: derived from what the runtime shows at this pass, never remembered.

use selvedge_protocol::agent::{Phase, WorkloadState};

use super::{
    cri::ContainerState,
    desired::{Blocked, Workload},
    plan::{Found, FoundContainer, Plan, Step, Wait},
    restart::{self, Next},
};

/// A status is no log: this much is enough to know where to look. The runtime's own words are longer,
/// because what went wrong stands at their end.
const LAST_LINE_CHARS: usize = 200;
const RUNTIME_MESSAGE_CHARS: usize = 600;

/// Whether some container was made and could not be started: then nothing is applied.
pub(super) fn never_started(found: &Found) -> bool {
    let containers = found.sandboxes.first().into_iter().flat_map(|sandbox| &sandbox.containers);
    containers.filter_map(|found| found.details.as_ref()).any(|details| details.reason == START_ERROR)
}

/// containerd's word for it.
const START_ERROR: &str = "StartError";

/// Why steps of a workload failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// CamelCase, as it stands in the status.
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// The state of a workload. The revision in force is the caller's to fill in.
pub(super) fn state(
    desired: Result<&Workload, &Blocked>,
    found: &Found,
    plan: &Plan,
    failure: Option<&Failure>,
    working: bool,
) -> WorkloadState {
    let seen = Seen::of(desired.ok(), found);
    let (phase, reason, message) = match (desired, failure) {
        (Err(Blocked::Unsupported(message)), _) => (Phase::Failed, "Unsupported", message.clone()),
        (Err(Blocked::Waiting(message)), _) => {
            (seen.running_or_pending(), "WaitingForReferences", message.clone())
        }
        // A container that cannot start says so itself, and better.
        (Ok(workload), Some(failure)) if failure.reason == "StartFailed" && never_started(found) => {
            seen.phase(workload, plan, working)
        }
        (Ok(_), Some(failure)) => (Phase::Failed, failure.reason, failure.message.clone()),
        (Ok(workload), None) => match &plan.wait {
            Some(Wait::PortHeld(message)) => (Phase::Failed, "PortTaken", message.clone()),
            Some(Wait::PortLeaving(message)) => (Phase::Pending, "PortTaken", message.clone()),
            Some(Wait::References(message)) => {
                (seen.running_or_pending(), "WaitingForReferences", message.clone())
            }
            None => seen.phase(workload, plan, working),
        },
    };
    WorkloadState {
        phase: phase.into(),
        reason: reason.to_owned(),
        message,
        revision: String::new(),
        restarts: seen.restarts,
        started_unix_ms: seen.started_ms,
    }
}

/// The workload's containers, as far as they are wanted.
struct Seen<'a> {
    running: usize,
    ended: Vec<&'a FoundContainer>,
    restarts: u32,
    /// Of the youngest that runs; 0: none.
    started_ms: i64,
}

impl<'a> Seen<'a> {
    fn of(desired: Option<&Workload>, found: &'a Found) -> Self {
        let mut seen = Self { running: 0, ended: Vec::new(), restarts: 0, started_ms: 0 };
        let Some(sandbox) = found.sandboxes.first() else { return seen };
        let wanted = |name: &str| desired.is_none_or(|w| w.containers.iter().any(|c| c.name == name));
        let latest = sandbox.containers.iter().filter(|c| {
            wanted(&c.container.name)
                && sandbox.latest(&c.container.name).is_some_and(|last| last.container.id == c.container.id)
        });
        for last in latest {
            seen.restarts += last.container.attempt;
            match last.container.state {
                ContainerState::Running if sandbox.sandbox.ready => {
                    seen.running += 1;
                    let started = last.details.as_ref().map_or(0, |details| details.started_ms);
                    seen.started_ms = seen.started_ms.max(started);
                }
                ContainerState::Exited => seen.ended.push(last),
                _ => {}
            }
        }
        seen
    }

    fn running_or_pending(&self) -> Phase {
        if self.running > 0 { Phase::Running } else { Phase::Pending }
    }

    fn phase(&self, workload: &Workload, plan: &Plan, working: bool) -> (Phase, &'static str, String) {
        let anew = plan.steps.iter().any(|step| matches!(step, Step::RunSandbox { .. }));
        if anew && self.running == 0 {
            // How its predecessor ended, at a reboot say, is no matter any more.
            return (Phase::Pending, "Starting", String::new());
        }
        let mut failed = None;
        let mut succeeded = 0;
        for last in &self.ended {
            let Some(details) = &last.details else { continue };
            let name = &last.container.name;
            match restart::after_exit(workload.restart_policy, details, last.streak()) {
                Next::Restart(_) => {
                    let reason = if details.reason == START_ERROR { "StartFailed" } else { "CrashLoop" };
                    let again = match restart::wait_ms(details, last.streak()) / 1000 {
                        0 => "at once".to_owned(),
                        wait => format!("{wait} s after that"),
                    };
                    let restarts = last.container.attempt;
                    let message = format!(
                        "container {name} {}; restarted {restarts} times, again {again}",
                        ending(last)
                    );
                    failed = Some((Phase::Failed, reason, message));
                }
                Next::Done if details.exit_code == 0 => succeeded += 1,
                Next::Done => {
                    let message = format!("container {name} {}, and is not to be restarted", ending(last));
                    failed.get_or_insert((Phase::Failed, "ContainerExited", message));
                }
            }
        }
        if let Some(failed) = failed {
            return failed;
        }
        let wanted = workload.containers.len();
        if succeeded == wanted {
            (Phase::Succeeded, "", String::new())
        } else if self.running + succeeded < wanted {
            (Phase::Pending, "Starting", String::new())
        } else if working || !plan.is_settled() {
            (Phase::Running, "Updating", String::new())
        } else {
            (Phase::Running, "", String::new())
        }
    }
}

/// How a container ended. Its last line is told although it is the application's own text: where nobody
/// can read logs, it is the one thing that says what to do.
fn ending(last: &FoundContainer) -> String {
    let Some(details) = &last.details else { return "ended".to_owned() };
    let mut text = format!("ended with code {}", details.exit_code);
    if !matches!(details.reason.as_str(), "" | "Error" | "Completed") {
        text.push_str(&format!(" ({})", details.reason));
    }
    let (said, most) = if details.message.is_empty() {
        (&last.last_line, LAST_LINE_CHARS)
    } else {
        (&details.message, RUNTIME_MESSAGE_CHARS)
    };
    if !said.is_empty() {
        text.push_str(&format!(", saying {:?}", said.chars().take(most).collect::<String>()));
    }
    text
}
