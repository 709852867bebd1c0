//! Reports: which are written, which are answered at once (sync rule 10).

use selvedge_model::{ContentHash, EntryKey, EntryKind};
use selvedge_protocol::agent::{
    self as wire, entry_report::State, to_agent::Message as ToAgent, verdict::Code,
};
use selvedge_protocol::{ConvertError, convert};

use super::{Output, Session, View};
use crate::faults::Fault;
use crate::index::Slot;

/// Reports of a session that wait for the caches: more than a node has entries. At 200 bytes each, 3 MB.
const MOST_WAITING: usize = 16 * 1024;

/// A report on a key of the node's set.
#[derive(Clone, Debug)]
pub struct Reported {
    /// On what.
    pub key: EntryKey,
    /// Uid of the source object that is in force.
    pub uid: String,
    /// What is in force; none: nothing yet.
    pub content: Option<ContentHash>,
    /// Rises with every report of the agent.
    pub seq: u64,
    /// What is true at the edge.
    pub state: Option<State>,
}

impl Session {
    pub(super) fn reported(
        &mut self,
        entries: Vec<wire::EntryReport>,
        view: View<'_>,
        out: &mut Vec<Output>,
    ) {
        let mut verdicts = Vec::new();
        for entry in entries {
            // A key that is missing is one of no kind.
            let wire_key = entry.key.clone().unwrap_or_default();
            let mut answer = |fault, code, reason| {
                out.push(Output::Fault(fault));
                verdicts.push(verdict(wire_key.clone(), entry.seq, code, reason));
            };
            let Ok(key) = EntryKey::try_from(wire_key.clone()) else {
                answer(Fault::UnknownKind, Code::Refused, "UnknownKind");
                continue;
            };
            let Ok(content) = reported_content(&entry.content_hash) else {
                answer(Fault::BadDigest, Code::Refused, "BadContentHash");
                continue;
            };
            let stranger = match self.stranger(&key, &entry.uid, view) {
                None => {
                    let (uid, seq, state) = (entry.uid, entry.seq, entry.state);
                    out.push(Output::Report(Reported { key, uid, content, seq, state }));
                    continue;
                }
                Some(stranger) => stranger,
            };
            if self.can_tell_gone(view) {
                answer(stranger, Code::Gone, "");
            } else {
                self.wait(key, entry);
            }
        }
        if !verdicts.is_empty() {
            out.push(Output::Send(ToAgent::Verdicts(wire::Verdicts { verdicts })));
        }
    }

    /// Whether what is not in the set is gone. A replica that has not read the newest may be the one that is wrong;
    /// what a restore took away is not gone before a person says so; and what a late node's set is shows only from
    /// what the agent has.
    pub(super) fn can_tell_gone(&self, view: View<'_>) -> bool {
        self.knows_its_agent()
            && !self.is_paused()
            && !self.is_behind(view.index)
            && !view.index.is_restored(&self.node)
    }

    /// Whether what a report is about has left the node's set since it came; none: it has, as far as these caches
    /// know, and they may be the ones that are wrong.
    #[must_use]
    pub fn is_gone(&self, key: &EntryKey, uid: &str, view: View<'_>) -> Option<bool> {
        let gone = self.stranger(key, uid, view).is_some();
        (!gone || self.can_tell_gone(view)).then_some(gone)
    }

    /// Keeps a report until these caches have read what it is about. One that finds no room gets no verdict, so
    /// the agent says it again in its next session.
    fn wait(&mut self, key: EntryKey, entry: wire::EntryReport) {
        if self.waiting_reports.len() < MOST_WAITING || self.waiting_reports.contains_key(&key) {
            self.waiting_reports.insert(key, entry);
        }
    }

    /// Why a report is about nothing in the node's set; none: it is about something in it. An object that was
    /// created anew under its name is another one.
    fn stranger(&self, key: &EntryKey, uid: &str, view: View<'_>) -> Option<Fault> {
        let in_set = match key.kind {
            EntryKind::ConfigMap | EntryKind::Secret => self.answered.contains_key(key),
            _ => view.index.unlisted(&self.node, key, &self.pins) != Slot::Absent,
        };
        let told_apart = matches!(key.kind, EntryKind::Workload | EntryKind::Device);
        match in_set {
            false => Some(Fault::ForeignKey),
            true => (told_apart && !view.index.has(key, uid)).then_some(Fault::UnknownUid),
        }
    }
}

/// Empty: nothing is in force yet.
fn reported_content(hash: &[u8]) -> Result<Option<ContentHash>, ConvertError> {
    if hash.is_empty() {
        return Ok(None);
    }
    convert::content_hash("content hash", hash).map(Some)
}

/// A verdict on the wire.
#[must_use]
pub fn verdict(key: wire::Key, seq: u64, code: Code, reason: &str) -> wire::Verdict {
    wire::Verdict { key: Some(key), seq, code: code.into(), reason: reason.to_owned() }
}
