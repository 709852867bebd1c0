//! When an ended container starts again: kubelet's rule, computed from what the runtime says.
//!
//! The first restart comes at once, later ones 10 s, 20 s, 40 s ... 5 min after the end; a container
//! that ran for 10 min starts anew from the front. How often it ended soon (its *streak*) stands on the
//! container itself, so that a restarted agent neither forgets nor repeats the waiting.

use selvedge_model::pod::RestartPolicy;

use super::cri::Details;

/// kubelet's first and longest waits, and the run that makes it forget.
const FIRST_WAIT_MS: i64 = 10_000;
const LONGEST_WAIT_MS: i64 = 300_000;
const STEADY_RUN_MS: i64 = 600_000;

/// What becomes of an ended container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It has done its work, or is not to be tried again.
    Done,
    /// It starts again, not before this Unix time in ms.
    Restart(i64),
}

/// What becomes of a container that ended like this.
pub(super) fn after_exit(policy: RestartPolicy, details: &Details, streak: u32) -> Next {
    match policy {
        RestartPolicy::Never | RestartPolicy::Unknown => Next::Done,
        RestartPolicy::OnFailure if details.exit_code == 0 => Next::Done,
        RestartPolicy::Always | RestartPolicy::OnFailure => {
            Next::Restart(details.finished_ms + wait_ms(details, streak))
        }
    }
}

/// How long to wait after the end, in ms.
pub(super) fn wait_ms(details: &Details, streak: u32) -> i64 {
    if streak == 0 || steady(details) {
        return 0;
    }
    // 2^5 * 10 s is past the longest wait already.
    (FIRST_WAIT_MS << (streak - 1).min(5)).min(LONGEST_WAIT_MS)
}

/// The streak of the attempt that follows one that ended like this.
pub(super) fn streak_after(details: &Details, streak: u32) -> u32 {
    if steady(details) { 1 } else { streak.saturating_add(1) }
}

/// Whether the time has come. A clock that was set back must not hold a container for years, so an end
/// in the future counts as long ago.
pub(super) fn is_due(at_ms: i64, details: &Details, now_ms: i64) -> bool {
    now_ms >= at_ms || details.finished_ms > now_ms
}

fn steady(details: &Details) -> bool {
    details.started_ms > 0 && details.finished_ms - details.started_ms >= STEADY_RUN_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(ran_ms: i64, exit_code: i32) -> Details {
        Details { started_ms: 1_000_000, finished_ms: 1_000_000 + ran_ms, exit_code, ..Details::default() }
    }

    #[test]
    fn waits_double_up_to_five_minutes_and_a_steady_run_forgives() {
        let waits: Vec<i64> = (0..9).map(|streak| wait_ms(&ended(10, 1), streak) / 1000).collect();
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(wait_ms(&ended(STEADY_RUN_MS, 1), 8), 0);
        assert_eq!(streak_after(&ended(STEADY_RUN_MS, 1), 8), 1);
        assert_eq!(streak_after(&ended(10, 1), 8), 9);
    }

    #[test]
    fn the_policy_decides() {
        for (policy, code, again) in [
            (RestartPolicy::Always, 0, true),
            (RestartPolicy::Always, 1, true),
            (RestartPolicy::OnFailure, 0, false),
            (RestartPolicy::OnFailure, 1, true),
            (RestartPolicy::Never, 1, false),
        ] {
            let next = after_exit(policy, &ended(10, code), 0);
            assert_eq!(next != Next::Done, again, "{policy:?} {code}");
        }
    }

    #[test]
    fn a_clock_set_back_holds_nothing() {
        let details = ended(10, 1);
        let Next::Restart(at) = after_exit(RestartPolicy::Always, &details, 3) else { unreachable!() };
        assert!(!is_due(at, &details, details.finished_ms + 1));
        assert!(is_due(at, &details, 5));
    }
}
