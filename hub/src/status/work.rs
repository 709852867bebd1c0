//! What one write is about: a job of the book, filled with what session and index know now. Pure.

use jiff::Timestamp;
use selvedge_model::EntryKind;
use serde_json::Value;

use super::write::{Compose, Work};
use super::{Book, Job, Target, device, node};
use crate::index::device_entry;
use crate::session::{Session, View};

/// Fills a job. `duplicate`: two machines bear the node's identity. `time` is asked when the status is composed,
/// which a conflict may bring about again.
///
/// # Errors
/// The target, when its object left the node's set between report and write.
pub fn work(
    job: Job,
    book: &mut Book,
    session: &Session,
    view: View<'_>,
    duplicate: bool,
    time: fn() -> Timestamp,
) -> Result<Work, Target> {
    let index = view.index;
    let (uid, compose): (String, Compose) = match &job.target {
        Target::Node(_) => {
            let standing = session.standing(view);
            book.retain(|key| standing.entries.contains_key(key));
            let devices = standing.entries.iter().filter(|(key, _)| key.kind == EntryKind::Device);
            let devices = devices
                .map(|(key, entry)| {
                    let stands = book.device(key, entry.desired).or_else(|| index.device_stands(key));
                    (key.clone(), stands.unwrap_or_default())
                })
                .collect();
            let (machine, workloads) = (book.machine.clone(), book.workloads.clone());
            let facts = node::Facts { standing, machine, workloads, devices, duplicate };
            let compose = move |current: &Value| node::compose(&facts, current, time());
            (session.uid().to_string(), Box::new(compose))
        }
        Target::Device(key) => {
            let entry_key = device_entry(key);
            let entry = session.entry(&entry_key, view);
            let (Some(entry), Some((uid, generation, body))) = (entry, index.device_source(key)) else {
                return Err(job.target);
            };
            let reported = book.devices.get(&entry_key).cloned();
            let facts = device::Facts { entry, body, generation, reported };
            let compose = move |current: &Value| device::compose(&facts, current, time());
            (uid.to_string(), Box::new(compose))
        }
    };
    // Somebody else has written since, such as the sweep of an offline node: what is known is not so any more.
    let seen = index.source_revision(session.node(), &job.target.entry());
    let known = job.known.filter(|known| seen.is_none_or(|revision| !known.is_older_than(revision)));
    Ok(Work { target: job.target, uid, session: session.id(), seq: job.seq, known, compose })
}
