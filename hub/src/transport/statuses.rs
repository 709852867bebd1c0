//! The status writes of one session: what its book asks for, and what the agent hears of how they ended.

use std::time::Instant;

use selvedge_model::EntryKind;
use selvedge_protocol::agent::{self as wire, refused::Code, to_agent::Message as ToAgent};
use serde_json::Value;

use super::admit::Ended;
use super::drive::{Drive, send, view};
use super::socket::Socket;
use crate::clock;
use crate::status::{self, Job, Target, Work, Written};

/// Status writes at once of one session: a node with many devices must not take the API server alone.
const WRITES: usize = 8;

impl Drive {
    pub(super) fn write_due(&self) -> Option<Instant> {
        // With all hands full, the end of a write is what wakes.
        self.book.due().filter(|_| self.writes.len() < WRITES && self.hub.client.is_some())
    }

    pub(super) fn begin_writes(&mut self) {
        let Some(client) = self.hub.client.clone() else { return };
        let now = clock::now();
        if self.book.due().is_none_or(|due| due > now) {
            return;
        }
        let free = WRITES.saturating_sub(self.writes.len());
        for job in self.book.jobs(now, free) {
            let (hub, client) = (self.hub.clone(), client.clone());
            match self.work(job) {
                Ok(work) => {
                    self.writes.spawn(async move {
                        let written = status::write(&hub, &client, &work).await;
                        (work.target, written)
                    });
                }
                Err(target) => {
                    // The object left the set between report and write.
                    let written =
                        Written { code: wire::verdict::Code::Gone, reason: "", known: None, newer: None };
                    self.writes.spawn(std::future::ready((target, written)));
                }
            }
        }
        let coalesced = std::mem::take(&mut self.book.coalesced);
        self.hub.metrics.status_coalesced.inc_by(coalesced);
    }

    /// What a job writes, of what is known now.
    fn work(&mut self, job: Job) -> Result<Work, Target> {
        let hub = self.hub.clone();
        let index = hub.index();
        let (uid, compose): (String, status::Compose) = match &job.target {
            Target::Node(_) => {
                let standing = self.session.standing(view(&index, &hub));
                self.book.retain(|key| standing.entries.contains_key(key));
                let devices = standing.entries.iter().filter(|(key, _)| key.kind == EntryKind::Device);
                let devices = devices
                    .map(|(key, entry)| {
                        let stands =
                            self.book.device(key, entry.desired).or_else(|| index.device_stands(key));
                        (key.clone(), stands.unwrap_or_default())
                    })
                    .collect();
                let facts = status::node::Facts {
                    standing,
                    machine: self.book.machine.clone(),
                    workloads: self.book.workloads.clone(),
                    devices,
                    duplicate: self.duplicate.is_some(),
                };
                let compose = move |current: &Value| {
                    status::node::compose(&facts, current, selvedge_operator::clock::now())
                };
                (self.session.uid().to_string(), Box::new(compose))
            }
            Target::Device(key) => {
                let entry_key = crate::index::device_entry(key);
                let entry = self.session.entry(&entry_key, view(&index, &hub));
                let (Some(entry), Some((uid, generation, body))) = (entry, index.device_source(key)) else {
                    return Err(job.target);
                };
                let facts = status::device::Facts {
                    entry,
                    body,
                    generation,
                    reported: self.book.devices.get(&entry_key).cloned(),
                };
                let compose = move |current: &Value| {
                    status::device::compose(&facts, current, selvedge_operator::clock::now())
                };
                (uid.to_string(), Box::new(compose))
            }
        };
        // Somebody else has written since, such as the sweep of an offline node: what is known is not so any more.
        let seen = index.source_revision(self.session.node(), &job.target.entry());
        let known = job.known.filter(|known| seen.is_none_or(|revision| !known.is_older_than(revision)));
        Ok(Work { target: job.target, uid, session: self.session.id(), seq: job.seq, known, compose })
    }

    pub(super) async fn written(
        &mut self,
        written: Result<(Target, Written), tokio::task::JoinError>,
        socket: &mut Socket,
    ) -> Result<(), Ended> {
        let (target, written) = written.map_err(|_| Ended::Said("a status write panicked"))?;
        let newer = written.newer;
        let verdicts = self.book.written(&target, written);
        if !verdicts.is_empty() {
            send(&self.hub.metrics, socket, ToAgent::Verdicts(wire::Verdicts { verdicts })).await?;
        }
        let Some(newer) = newer else { return Ok(()) };
        // This replica did not know of it when it let the session in, as after a restart: nothing that the
        // agent says would ever be written. One that lost its ledger goes above and dials again.
        let stale = wire::Refused {
            code: Code::Stale.into(),
            message: format!("session {newer} has written a status already"),
            newest: Some(newer.into()),
            retry_after_ms: 0,
        };
        send(&self.hub.metrics, socket, ToAgent::Refused(stale)).await?;
        Err(Ended::Said("a newer session has written"))
    }
}
