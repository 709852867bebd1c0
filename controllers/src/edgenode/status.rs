//! The status of one EdgeNode, as far as its controller writes it: `Connected`; `Ready` while no session
//! lets the hub speak for the agent; a copy of the identity for people.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use selvedge_operator::status::{condition, find};
use serde_json::{Value, json};

use super::observe::Observed;
use super::plan::{Join, Plan, Shown};
use super::sessions::Presence;

/// What the status should say; `plan.shown` may have been set back to `Unsure` by the pace of offline
/// transitions.
#[must_use]
pub fn status(observed: &Observed, plan: &Plan, generation: Option<i64>, join_namespace: &str) -> Value {
    let conditions: Vec<Condition> = [connected(observed, plan), ready(observed, plan, join_namespace)]
        .into_iter()
        .flatten()
        .map(|(type_, status, reason, message)| {
            condition(type_, status, reason, message, generation, observed.now)
        })
        .collect();
    let current = observed.records.identity.current.as_ref();
    let identity = current.map(|c| json!({"serial": c.serial, "notAfter": c.not_after}));
    json!({"observedGeneration": generation, "identity": identity, "conditions": conditions})
}

type Said = (&'static str, Option<bool>, &'static str, String);

fn connected(observed: &Observed, plan: &Plan) -> Option<Said> {
    let said = |status: bool, reason, message: String| Some(("Connected", Some(status), reason, message));
    let joined = observed.records.identity.current.is_some();
    match (&plan.join, plan.shown, &observed.presence) {
        (Join::Denied, ..) => said(false, "Denied", "spec.denied is true".into()),
        (_, Shown::Absent | Shown::GoesOffline { .. }, _) if observed.waiting.is_some() => {
            said(false, "UidMismatch", waits(observed))
        }
        (_, Shown::Connected, Presence::Connected { replica, .. }) => {
            said(true, "Session", format!("session at {replica}"))
        }
        (_, Shown::GoesOffline { since }, _) => {
            let since = since.strftime("%Y-%m-%dT%H:%M:%SZ");
            said(false, "NodeOffline", format!("no session since {since}"))
        }
        (_, Shown::Unsure | Shown::Connected, _) => None,
        (_, Shown::Absent, _) if joined => {
            // When it went is not known any more after a restart: what stands there stays.
            let reason = find(&observed.status.conditions, "Connected").map(|c| c.reason.as_str());
            match reason {
                Some("NodeOffline") => None,
                _ => said(false, "NodeOffline", "no session".into()),
            }
        }
        (_, Shown::Absent, _) => said(false, "NotJoined", "no machine has joined under this name".into()),
    }
}

fn ready(observed: &Observed, plan: &Plan, join_namespace: &str) -> Option<Said> {
    let (name, was) = (&observed.name, find(&observed.status.conditions, "Ready"));
    let said = |status, reason, message: String| Some(("Ready", status, reason, message));
    match (&plan.join, plan.shown) {
        (Join::Denied, _) => {
            said(Some(false), "Denied", "spec.denied is true: no session is admitted".into())
        }
        // The hub speaks for the agent, from its first report on.
        (_, Shown::Connected | Shown::Unsure) => match was {
            Some(_) => None,
            None => said(None, "NotReported", "the agent has not reported yet".into()),
        },
        (Join::Joined, _) | (_, Shown::GoesOffline { .. }) => {
            said(None, "NodeOffline", "the agent has no session: what it runs goes on unseen".into())
        }
        (Join::Invalid(fault), Shown::Absent) => said(Some(false), "InvalidSpec", fault.clone()),
        (Join::NoHubAddress, Shown::Absent) => said(
            Some(false),
            "NoHubAddress",
            "no address at which agents reach the hub is known: set the chart's value hub.endpoints".into(),
        ),
        (Join::Open { expires }, Shown::Absent) => said(
            None,
            "NotJoined",
            format!(
                "until {}, run on the machine what this prints: kubectl -n {join_namespace} get secret {} -o \
                 go-template='{{{{.data.command | base64decode}}}}'",
                expires,
                super::secret_name(name),
            ),
        ),
        (Join::Expired { at }, Shown::Absent) => said(
            None,
            "JoinKeyExpired",
            // Any value does that was not there before: the time is one.
            format!(
                "the join command expired at {at}; for a new one: kubectl patch edgenode {name} --type merge -p \
                 '{{\"spec\":{{\"join\":{{\"request\":\"after {at}\"}}}}}}'"
            ),
        ),
    }
}

/// A machine of an EdgeNode before this one waits, and what somebody can do about it (identity rule 9).
fn waits(observed: &Observed) -> String {
    let (name, uid) = (&observed.name, observed.waiting.as_ref().map_or("", |waiting| &waiting.uid));
    let adopts = observed.wanted.as_ref().is_ok_and(|wanted| wanted.adopts);
    let way = if adopts {
        "spec.join.adopt is SameName: it comes in, unless another machine was first or its certificate ended too \
         long ago (see Events)"
            .to_owned()
    } else {
        format!(
            "to take it in: kubectl patch edgenode {name} --type merge -p '{{\"spec\":{{\"join\":{{\"adopt\":\
             \"SameName\"}}}}}}'"
        )
    };
    format!("a machine waits that joined as an EdgeNode {name} before this one, with uid {uid}; {way}")
}
