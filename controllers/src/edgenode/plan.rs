//! What to do about one EdgeNode: pure.
//!
//! In: [`Observed`]. Out: [`Plan`]: at most one step on the join key, what its state is for the status,
//! whether the node is to be shown offline, and when to look again.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use super::observe::Observed;
use super::record::{IdentityRecord, Records};
use super::sessions::Presence;
use super::validate::Wanted;

/// What to do and what to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What to do about join key and records.
    pub step: Option<Step>,
    /// How the node stands to joining.
    pub join: Join,
    /// Whether sessions say otherwise than the status, and what.
    pub shown: Shown,
    /// When to look again without a change.
    pub again: Option<Duration>,
}

/// A change of records and join Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a join key: record first, then the Secret.
    MakeKey {
        /// Until then it can be used.
        expires: Timestamp,
        /// `spec.join.request` that it answers.
        request: String,
    },
    /// The machine was seen with its new certificate: remove the Secret, then write the records.
    Promote(Records),
    /// Remove the Secret, then write the records.
    Close(Records),
    /// Remove the Secret; the records stay, to say that the key has been made and is over.
    RemoveSecret,
}

/// How a node stands to joining.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Join {
    /// `spec.denied`.
    Denied,
    /// The spec is not valid.
    Invalid(String),
    /// No address that a token could name.
    NoHubAddress,
    /// A join command waits to be used.
    Open {
        /// Until then.
        expires: Timestamp,
    },
    /// The join command was not used in time.
    Expired {
        /// Since then.
        at: Timestamp,
    },
    /// A machine has joined.
    Joined,
}

/// What the status is to show of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Connected.
    Connected,
    /// Not connected, and the status does not say otherwise.
    Absent,
    /// The status says connected, there is no session, but the grace period is not over: leave it.
    Unsure,
    /// The status says connected; from now on it is to say offline.
    GoesOffline {
        /// Without a session since then.
        since: Timestamp,
    },
}

/// Decides. A node without a session for `grace` is offline.
#[must_use]
pub fn plan(observed: &Observed, grace: Duration) -> Plan {
    let (join, step) = join(observed);
    let (shown, look) = shown(observed, grace);
    let expiry = match &join {
        Join::Open { expires } => Some(expires.duration_since(observed.now).unsigned_abs()),
        _ => None,
    };
    let outside = observed.waiting.as_ref().map(|waiting| waiting.look);
    Plan { step, join, shown, again: [look, expiry, outside].into_iter().flatten().min() }
}

fn join(observed: &Observed) -> (Join, Option<Step>) {
    let Observed { records, now, .. } = observed;
    let wanted = match &observed.wanted {
        Ok(wanted) => wanted,
        Err(fault) => return (Join::Invalid(fault.clone()), None),
    };
    if wanted.denied {
        let identity = IdentityRecord { pending: None, ..records.identity.clone() };
        return (Join::Denied, close(observed, identity));
    }
    if let Some(promoted) = promoted(observed) {
        return (Join::Joined, Some(Step::Promote(promoted)));
    }
    let identity = &records.identity;
    if identity.current.is_some() && identity.request == wanted.request {
        // A certificate that is pending now renews the current one.
        return (Join::Joined, close(observed, identity.clone()));
    }
    match &records.join {
        Some(record) if record.request == wanted.request => {
            if !record.is_live(*now) {
                let step = observed.secret.is_some().then_some(Step::RemoveSecret);
                (Join::Expired { at: record.expires }, step)
            } else if holds(observed, &record.public_key) {
                (Join::Open { expires: record.expires }, None)
            } else {
                make_key(observed, wanted)
            }
        }
        _ => make_key(observed, wanted),
    }
}

/// Whether the join Secret is there, with this key and the hub addresses of today.
fn holds(observed: &Observed, public_key: &str) -> bool {
    let mark = observed.secret.as_ref();
    mark.is_some_and(|mark| mark.public_key == public_key && mark.hubs == observed.hubs)
}

fn make_key(observed: &Observed, wanted: &Wanted) -> (Join, Option<Step>) {
    if observed.hubs.is_empty() {
        return (Join::NoHubAddress, None);
    }
    let expires = observed.now + wanted.ttl;
    (Join::Open { expires }, Some(Step::MakeKey { expires, request: wanted.request.clone() }))
}

/// The records once the pending certificate was seen in a session.
fn promoted(observed: &Observed) -> Option<Records> {
    let Presence::Connected { serial, .. } = &observed.presence else { return None };
    let identity = &observed.records.identity;
    let pending = identity.pending.as_ref().filter(|pending| pending.serial == *serial)?;
    let request = observed.records.join.as_ref().map_or(&identity.request, |join| &join.request);
    let current = Some(pending.clone());
    let (uid, request) = (identity.uid.clone(), request.clone());
    Some(Records { join: None, identity: IdentityRecord { uid, current, pending: None, request } })
}

/// Nobody joins any more; `identity` is what the record is to be.
fn close(observed: &Observed, identity: IdentityRecord) -> Option<Step> {
    let records = Records { join: None, identity };
    (observed.records != records || observed.secret.is_some()).then_some(Step::Close(records))
}

fn shown(observed: &Observed, grace: Duration) -> (Shown, Option<Duration>) {
    let Presence::Absent { since } = observed.presence else { return (Shown::Connected, None) };
    if !observed.shown_connected() {
        return (Shown::Absent, None);
    }
    match (since + grace).duration_since(observed.now).try_into() {
        Ok(rest) if rest > Duration::ZERO => (Shown::Unsure, Some(rest)),
        _ => (Shown::GoesOffline { since }, None),
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let records = |f: &mut fmt::Formatter<'_>, records: &Records| {
            let serial = |c: &Option<super::record::CertificateRecord>| {
                c.as_ref().map_or_else(|| "none".to_owned(), |c| c.serial.clone())
            };
            let IdentityRecord { current, pending, request, .. } = &records.identity;
            let join = if records.join.is_some() { "kept" } else { "removed" };
            write!(f, ": join {join}, current {}, pending {}", serial(current), serial(pending))?;
            if request.is_empty() { Ok(()) } else { write!(f, ", request {request:?}") }
        };
        match self {
            Self::MakeKey { expires, request } => {
                write!(f, "make a join key until {expires} for request {request:?}")
            }
            Self::Promote(new) => f.write_str("remove the Secret, promote").and_then(|()| records(f, new)),
            Self::Close(new) => f.write_str("remove the Secret, close").and_then(|()| records(f, new)),
            Self::RemoveSecret => f.write_str("remove the Secret"),
        }
    }
}
