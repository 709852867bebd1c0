//! Leader election on a `coordination.k8s.io/v1` Lease.
//!
//! [`lead`] waits for the Lease, runs the work, renews meanwhile, and gives the Lease back when the work
//! has ended. Losing it drops the work and is an error that ends the process: nothing of a former leader
//! may go on. Clocks of machines are never compared: a candidate measures, on its own clock, for how long
//! the Lease has not changed (as client-go does).

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt as _};
use rand::RngExt as _;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{BoxError, clock, telemetry::chain};

/// A Lease that has not changed for this long is free. The default of Kubernetes' own components.
pub const DURATION: Duration = Duration::from_secs(15);

/// A leader that could not renew for this long has lost: the 5 s before others may take over are for
/// the last of its writes to end.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// Between two looks at the Lease, jittered by up to a quarter.
const RETRY: Duration = Duration::from_secs(2);

/// Longest wait for one answer of the API server.
const REQUEST: Duration = Duration::from_secs(5);

/// Which Lease, and who asks.
#[derive(Clone, Debug)]
pub struct Election {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// This replica: [`crate::process::Process::identity`].
    pub identity: String,
    /// Written onto the Lease while it is held, such as the address at which the leader is reached.
    /// Removed with the release.
    pub annotations: BTreeMap<String, String>,
}

/// Why leading ended.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Somebody else holds the Lease now.
    #[error("lost the Lease {name} to {holder}")]
    Taken {
        /// The Lease.
        name: String,
        /// Who holds it.
        holder: String,
    },
    /// The API server took no renewal for too long.
    #[error("lost the Lease {name}: it could not be renewed for {RENEW_DEADLINE:?}")]
    NotRenewed {
        /// The Lease.
        name: String,
    },
    /// The work failed.
    #[error("the leader's work failed")]
    Work(#[source] BoxError),
}

/// What a candidate has seen of the Lease, on its own clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Sighting {
    spec: LeaseSpec,
    since: Instant,
}

/// What to do about a Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Take it: it does not exist, was given back, or has not changed for its duration.
    Take,
    /// It is ours: renew it.
    Renew,
    /// Somebody else's.
    Wait {
        /// Who holds it.
        holder: String,
    },
}

/// Decides, and remembers in `seen` since when the Lease has been as it is.
pub fn evaluate(lease: Option<&LeaseSpec>, me: &str, seen: &mut Option<Sighting>, now: Instant) -> Decision {
    let Some(spec) = lease else {
        *seen = None;
        return Decision::Take;
    };
    if seen.as_ref().is_none_or(|seen| seen.spec != *spec) {
        *seen = Some(Sighting { spec: spec.clone(), since: now });
    }
    let holder = spec.holder_identity.clone().unwrap_or_default();
    if holder == me {
        return Decision::Renew;
    }
    let seconds = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok());
    let duration = seconds.map_or(DURATION, Duration::from_secs);
    let stale = seen.as_ref().is_some_and(|seen| now.duration_since(seen.since) >= duration);
    if holder.is_empty() || stale { Decision::Take } else { Decision::Wait { holder } }
}

/// Waits until this replica holds the Lease, then runs `work` to its end while renewing.
///
/// `work` ends when `token` is cancelled; then the Lease is given back, so that the next leader need not
/// wait for it to run out. Cancelled before it leads, `lead` returns without running `work`.
///
/// # Errors
/// [`LeaseError`]; `work` has been dropped by then.
pub async fn lead<F>(
    client: Client,
    election: Election,
    token: CancellationToken,
    work: impl FnOnce() -> F + Send,
) -> Result<(), LeaseError>
where
    F: Future<Output = Result<(), BoxError>> + Send,
{
    let api = Api::namespaced(client, &election.namespace);
    let mut held = tokio::select! {
        held = acquire(&api, &election) => held,
        () = token.cancelled() => return Ok(()),
    };
    tracing::info!(lease = election.name, identity = election.identity, "leads");
    let done = tokio::select! {
        done = work() => done.map_err(LeaseError::Work),
        lost = renew(&api, &election, &mut held) => Err(lost),
    };
    if !matches!(done, Err(LeaseError::Taken { .. })) {
        release(&api, &election, held).await;
    }
    done
}

async fn acquire(api: &Api<Lease>, election: &Election) -> Lease {
    let mut seen = None;
    let mut said = String::new();
    loop {
        match try_hold(api, election, &mut seen).await {
            Ok(Attempt::Held(lease)) => return *lease,
            Ok(Attempt::Other(holder)) if holder != said => {
                tracing::info!(lease = election.name, holder, "waits for the Lease");
                said = holder;
            }
            Ok(Attempt::Other(_) | Attempt::Raced) => {}
            Err(error) => {
                tracing::warn!(
                    lease = election.name,
                    error = chain(&error),
                    "cannot take the Lease; tries again"
                );
            }
        }
        sleep(jittered()).await;
    }
}

/// Renews until it cannot. `held` is the newest version, for the release.
async fn renew(api: &Api<Lease>, election: &Election, held: &mut Lease) -> LeaseError {
    let mut seen = None;
    let mut renewed = Instant::now();
    while renewed.elapsed() < RENEW_DEADLINE {
        sleep(jittered()).await;
        match try_hold(api, election, &mut seen).await {
            Ok(Attempt::Held(lease)) => {
                renewed = Instant::now();
                *held = *lease;
            }
            Ok(Attempt::Other(holder)) => return LeaseError::Taken { name: election.name.clone(), holder },
            Ok(Attempt::Raced) => {}
            Err(error) => {
                tracing::warn!(
                    lease = election.name,
                    error = chain(&error),
                    "cannot renew the Lease; tries again"
                );
            }
        }
    }
    LeaseError::NotRenewed { name: election.name.clone() }
}

enum Attempt {
    Held(Box<Lease>),
    Other(String),
    /// Another replica wrote between our read and our write.
    Raced,
}

#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error("the API server refused")]
    Api(#[from] kube::Error),
    #[error("the API server did not answer within {REQUEST:?}")]
    Timeout(#[from] tokio::time::error::Elapsed),
}

async fn try_hold(
    api: &Api<Lease>,
    election: &Election,
    seen: &mut Option<Sighting>,
) -> Result<Attempt, AttemptError> {
    let lease = timeout(REQUEST, api.get_opt(&election.name)).await??;
    let spec = lease.as_ref().and_then(|lease| lease.spec.as_ref());
    let decision = evaluate(spec, &election.identity, seen, Instant::now());
    if let Decision::Wait { holder } = decision {
        return Ok(Attempt::Other(holder));
    }
    let write = held_by(lease.as_ref(), election, decision == Decision::Take);
    let params = PostParams::default();
    let written = match lease {
        Some(_) => timeout(REQUEST, api.replace(&election.name, &params, &write)).await?,
        None => timeout(REQUEST, api.create(&params, &write)).await?,
    };
    match written {
        Ok(lease) => Ok(Attempt::Held(Box::new(lease))),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Attempt::Raced),
        Err(error) => Err(error.into()),
    }
}

/// The Lease as its holder writes it: read, changed, with the resourceVersion that was read.
fn held_by(lease: Option<&Lease>, election: &Election, take: bool) -> Lease {
    let mut lease = lease.cloned().unwrap_or_else(|| Lease {
        metadata: ObjectMeta { name: Some(election.name.clone()), ..ObjectMeta::default() },
        spec: None,
    });
    lease.metadata.managed_fields = None;
    lease.annotations_mut().extend(election.annotations.clone());
    let now = MicroTime(clock::now());
    let spec = lease.spec.get_or_insert_default();
    if take {
        spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |n| n.saturating_add(1)));
        spec.acquire_time = Some(now.clone());
    }
    spec.holder_identity = Some(election.identity.clone());
    spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
    spec.renew_time = Some(now);
    lease
}

/// Gives the Lease back. A failure costs the next leader the Lease's duration, no more.
async fn release(api: &Api<Lease>, election: &Election, mut lease: Lease) {
    for key in election.annotations.keys() {
        lease.annotations_mut().remove(key);
    }
    lease.metadata.managed_fields = None;
    if let Some(spec) = &mut lease.spec {
        spec.holder_identity = Some(String::new());
    }
    match timeout(REQUEST, api.replace(&election.name, &PostParams::default(), &lease)).await {
        Ok(Ok(_)) => tracing::info!(lease = election.name, "gave the Lease back"),
        Ok(Err(error)) => {
            tracing::warn!(lease = election.name, error = chain(&error), "cannot give the Lease back")
        }
        Err(_) => tracing::warn!(lease = election.name, "cannot give the Lease back: no answer"),
    }
}

fn jittered() -> Duration {
    rand::rng().random_range(RETRY..=RETRY + RETRY / 4)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
    use tokio::time::Instant;

    use super::{DURATION, Decision, Election, evaluate, held_by};

    fn held(by: &str, renewed: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(by.into()),
            lease_duration_seconds: Some(15),
            renew_time: Some(MicroTime(jiff::Timestamp::from_second(renewed).unwrap())),
            ..LeaseSpec::default()
        }
    }

    fn wait(holder: &str) -> Decision {
        Decision::Wait { holder: holder.into() }
    }

    #[test]
    fn a_lease_is_free_when_absent_given_back_or_still_for_its_duration() {
        let start = Instant::now();
        let mut seen = None;
        assert_eq!(evaluate(None, "me", &mut seen, start), Decision::Take);
        assert_eq!(evaluate(Some(&held("", 1)), "me", &mut seen, start), Decision::Take);
        assert_eq!(evaluate(Some(&held("you", 1)), "me", &mut seen, start), wait("you"));
        let almost = start + DURATION - Duration::from_millis(1);
        assert_eq!(evaluate(Some(&held("you", 1)), "me", &mut seen, almost), wait("you"));
        assert_eq!(evaluate(Some(&held("you", 1)), "me", &mut seen, start + DURATION), Decision::Take);
    }

    #[test]
    fn a_renewal_starts_the_wait_anew_whatever_its_clock_says() {
        let start = Instant::now();
        let mut seen = None;
        assert_eq!(evaluate(Some(&held("you", 1)), "me", &mut seen, start), wait("you"));
        // The holder's clock stands years behind ours; its renewal counts from when we see it.
        assert_eq!(evaluate(Some(&held("you", 2)), "me", &mut seen, start + DURATION), wait("you"));
        assert_eq!(evaluate(Some(&held("you", 2)), "me", &mut seen, start + 2 * DURATION), Decision::Take);
    }

    #[test]
    fn the_holder_renews_and_a_namesake_of_an_earlier_life_does_not() {
        let start = Instant::now();
        assert_eq!(evaluate(Some(&held("me_2", 1)), "me_2", &mut None, start), Decision::Renew);
        assert_eq!(evaluate(Some(&held("me_1", 1)), "me_2", &mut None, start), wait("me_1"));
    }

    #[test]
    fn taking_counts_a_transition_and_renewing_does_not() {
        let election = Election {
            namespace: "n".into(),
            name: "l".into(),
            identity: "me".into(),
            annotations: [("selvedge.dev/address".to_owned(), "10.0.0.1:9".to_owned())].into(),
        };
        let first = held_by(None, &election, true);
        let renewed = held_by(Some(&first), &election, false);
        let taken = held_by(Some(&first), &Election { identity: "you".into(), ..election }, true);
        let transitions = |lease: &super::Lease| lease.spec.as_ref().unwrap().lease_transitions;
        assert_eq!([&first, &renewed, &taken].map(transitions), [Some(0), Some(0), Some(1)]);
        assert_eq!(first.metadata.annotations.unwrap()["selvedge.dev/address"], "10.0.0.1:9");
        assert_eq!(first.spec.unwrap().acquire_time, renewed.spec.unwrap().acquire_time);
    }
}
