//! What one write is about: a job of the book, filled with what session and index know now. Pure.

use std::sync::Arc;

use jiff::Timestamp;
use selvedge_model::EntryKind;
use selvedge_protocol::agent::{entry_report::State, verdict::Code};
use serde_json::Value;

use super::write::{Work, Written};
use super::{Book, Job, Recall, Target, device, node};
use crate::index::device_entry;
use crate::session::{Entry, Session, Standing, Sync as InSync, View};

/// What comes of a job.
pub enum Begun {
    /// It is to be written.
    Write(Work),
    /// It ends like this, with nothing to be written.
    Ended(Target, Written),
    /// The book has put it back.
    Later,
}

/// The fields of a status that are ours, over the status as it is, at a time.
type At = Box<dyn Fn(&Value, Timestamp) -> Value + Send + Sync>;

/// Fills a job. `duplicate`: two machines bear the node's identity. `time` is asked when the status is composed,
/// which a conflict may bring about again.
#[must_use]
pub fn work(
    job: Job,
    book: &mut Book,
    session: &Session,
    view: View<'_>,
    duplicate: bool,
    recall: &Recall,
    time: fn() -> Timestamp,
) -> Begun {
    let index = view.index;
    let Job { target, seq } = job;
    if !book.sort_out(&target, view.now, |key, uid| session.is_gone(key, uid, view)) {
        return Begun::Later;
    }
    let seen = index.source_revision(session.node(), &target.entry());
    let (says, uid, compose): (bool, Arc<str>, At) = match &target {
        Target::Node(_) => {
            let facts = node_facts(book, session, view, duplicate);
            let says = book.says(&target, &facts, seen);
            (says, session.uid().clone(), Box::new(move |current, now| node::compose(&facts, current, now)))
        }
        Target::Device(key) => {
            let entry_key = device_entry(key);
            let entry = session.entry(&entry_key, view);
            if entry.as_ref().is_some_and(is_awaited) {
                book.awaits(key);
            }
            let (Some(entry), Some((uid, generation, body))) = (entry, index.device_source(key)) else {
                return Begun::Ended(target, Written::missing());
            };
            // What was said of another object under this name says nothing of this one.
            let told = book.told(&entry_key).filter(|told| *told.uid == *uid);
            let reported = told.and_then(|told| match told.state? {
                State::Device(state) => Some((state, told.content)),
                _ => None,
            });
            let facts = device::Facts { entry, generation, reported };
            let says = book.says(&target, &facts, seen);
            let compose = move |current: &Value, now| {
                let body = body.as_ref().and_then(|body| serde_json::from_slice(&body.bytes).ok());
                device::compose(&facts, &body.unwrap_or_default(), current, now)
            };
            (says, uid, Box::new(compose))
        }
    };
    if says {
        return Begun::Ended(
            target,
            Written { code: Some(Code::Written), reason: "", known: None, newer: None },
        );
    }
    let known = recall.find(&target, seen, index.term());
    let (uid, session) = (uid.to_string(), session.id());
    Begun::Write(Work {
        target,
        uid,
        session,
        seq,
        known,
        compose: Box::new(move |current| compose(current, time())),
    })
}

fn node_facts(book: &mut Book, session: &Session, view: View<'_>, duplicate: bool) -> node::Facts {
    let index = view.index;
    let standing = session.standing(view);
    // What leaves the set and is held at the agent may come back, and nobody would report it again. What that is
    // nobody knows before the agent was heard, and it reports as soon as it is welcome.
    if session.knows_its_agent() {
        book.retain(standing.entries.keys().chain(session.answered()));
    }
    let answered = EntryKind::ALL.into_iter().map(|kind| session.holds(kind)).sum();
    book.composed(is_settled(&standing).then_some(answered), is_on_its_way(&standing));
    let of_kind = |kind| standing.entries.iter().filter(move |(key, _)| key.kind == kind);
    let devices = of_kind(EntryKind::Device).map(|(key, entry)| {
        let stands = book.device(key, entry.desired, |uid| index.has(key, uid));
        let stands = stands.or_else(|| index.device_stands(key));
        (key.clone(), stands.unwrap_or_default())
    });
    let workloads = of_kind(EntryKind::Workload).filter_map(|(key, _)| {
        let told = book.told(key).filter(|told| index.has(key, &told.uid))?;
        match told.state? {
            State::Workload(state) => Some((key.clone(), (state, told.content))),
            _ => None,
        }
    });
    let (devices, workloads) = (devices.collect(), workloads.collect());
    node::Facts { standing, machine: book.machine.clone(), workloads, devices, duplicate }
}

/// Whether the agent has all that it should have, and takes it.
fn is_settled(standing: &Standing) -> bool {
    let stands = |entry: &Entry| entry.refused.is_none() && (entry.held.is_some() || entry.delivered);
    standing.sync == InSync::Ok && standing.entries.values().all(stands)
}

/// Whether the status says that something is on its way, or might be.
fn is_on_its_way(standing: &Standing) -> bool {
    standing.sync == InSync::Delivering || standing.entries.values().any(is_awaited)
}

/// Whether the agent should have it and does not.
fn is_awaited(entry: &Entry) -> bool {
    entry.desired.is_some() && !entry.delivered && entry.refused.is_none()
}
