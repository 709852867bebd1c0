//! The status writes of one session: what its book asks for, and what the agent hears of how they ended.

use std::time::Instant;

use selvedge_protocol::agent::{self as wire, refused::Code, to_agent::Message as ToAgent};

use super::admit::Ended;
use super::drive::{Drive, send};
use super::socket::Socket;
use crate::clock;
use crate::index::Resource;
use crate::status::{self, Begun, Job, Target, Written};

/// Status writes at once of one session: a node with many devices must not take the API server alone.
const WRITES: usize = 8;

impl Drive {
    pub(super) fn write_due(&self) -> Option<Instant> {
        // With all hands full, the end of a write is what wakes.
        self.book.due().filter(|_| self.writes.len() < WRITES && self.hub.client.is_some())
    }

    /// Begins the writes that are due; what of them ended at once, because there was nothing to write.
    pub(super) fn begin_writes(&mut self) -> Vec<(Target, Written)> {
        let mut ended = Vec::new();
        let Some(client) = self.hub.client.clone() else { return ended };
        let now = clock::now();
        if self.book.due().is_none_or(|due| due > now) {
            return ended;
        }
        let free = WRITES.saturating_sub(self.writes.len());
        for job in self.book.jobs(now, free) {
            let (hub, client) = (self.hub.clone(), client.clone());
            match self.work(job) {
                Begun::Write(work) => {
                    self.writes.spawn(async move {
                        let written = status::write(&hub, &client, &work).await;
                        (work.target, written)
                    });
                }
                Begun::Ended(target, written) => {
                    if written.code == Some(wire::verdict::Code::Written) {
                        hub.metrics.status_writes.with_label_values(&["unchanged"]).inc();
                    }
                    ended.push((target, written));
                }
                Begun::Later => {}
            }
        }
        let coalesced = std::mem::take(&mut self.book.coalesced);
        self.hub.metrics.status_coalesced.inc_by(coalesced);
        ended
    }

    /// What a job writes, of what is known now.
    fn work(&mut self, job: Job) -> Begun {
        let (hub, duplicate, time) = (&self.hub, self.duplicate.is_some(), selvedge_operator::clock::now);
        hub.look(clock::now(), |view| {
            status::work(job, &mut self.book, &self.session, view, duplicate, &hub.recall, time)
        })
    }

    fn tell_refused(&self, target: &Target, why: &str) {
        let uid = match target {
            Target::Node(_) => Some(self.session.uid().clone()),
            Target::Device(key) => self.hub.index().uid(&Resource::Devices, key),
        };
        if let Some(uid) = uid {
            self.hub.notices.refused(target, &uid, why, clock::now());
        }
    }

    pub(super) async fn written(
        &mut self,
        target: Target,
        written: Written,
        socket: &mut Socket,
    ) -> Result<(), Ended> {
        if written.code == Some(wire::verdict::Code::Refused) {
            self.tell_refused(&target, written.reason);
        }
        let newer = written.newer;
        let verdicts = self.book.written(&target, &written, clock::now());
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
