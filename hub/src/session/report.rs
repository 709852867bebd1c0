//! Reports: which are written, which are answered at once (sync rule 10).

use selvedge_model::{ContentHash, EntryKey, EntryKind};
use selvedge_protocol::agent::{
    self as wire, entry_report::State, to_agent::Message as ToAgent, verdict::Code,
};

use super::{Output, Session, View};
use crate::index::Slot;

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
            let Some(wire_key) = entry.key.clone() else { continue };
            let Ok(key) = EntryKey::try_from(wire_key.clone()) else {
                verdicts.push(verdict(wire_key, entry.seq, Code::Refused, "UnknownKind"));
                continue;
            };
            if self.in_set(&key, view) {
                out.push(Output::Report(Reported {
                    key,
                    uid: entry.uid,
                    content: entry.content_hash.try_into().ok().map(ContentHash),
                    seq: entry.seq,
                    state: entry.state,
                }));
            } else if !view.index.is_synced() || self.is_behind(view.index) {
                self.waiting_reports.insert(key, entry);
            } else {
                verdicts.push(verdict(wire_key, entry.seq, Code::Gone, ""));
            }
        }
        if !verdicts.is_empty() {
            out.push(Output::Send(ToAgent::Verdicts(wire::Verdicts { verdicts })));
        }
    }

    fn in_set(&self, key: &EntryKey, view: View<'_>) -> bool {
        match key.kind {
            EntryKind::ConfigMap | EntryKind::Secret => self.answered.contains_key(key),
            _ => view.index.unlisted(&self.node, key, &self.pins) != Slot::Absent,
        }
    }
}

/// A verdict on the wire.
#[must_use]
pub fn verdict(key: wire::Key, seq: u64, code: Code, reason: &str) -> wire::Verdict {
    wire::Verdict { key: Some(key), seq, code: code.into(), reason: reason.to_owned() }
}
