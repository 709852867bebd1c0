//! What went over the link since the agent started, counted where it goes over.
//!
//! In: what the link and its sessions do. Out: [`Counts`], for `selvedge-agent status -o json` and
//! metrics. Labels are names of our own protocol, never names of objects, so that there are few.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use selvedge_protocol::agent::{to_agent::Message as FromHub, to_hub::Message as ToHub};
use serde::{Deserialize, Serialize};

/// Reasons that the hub or a newer build makes up: past this many they are counted as `Other`.
const MOST_REASONS: usize = 32;

/// Counts since the agent started. All keys are CamelCase.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Tries to reach a hub, by how far they came: `Connected`, or what failed.
    pub dials: BTreeMap<String, u64>,
    /// Sessions that ended, by how.
    pub sessions_ended: BTreeMap<String, u64>,
    /// Messages to the hub, by kind.
    pub sent: BTreeMap<String, Traffic>,
    /// Messages of the hub, by kind.
    pub received: BTreeMap<String, Traffic>,
    /// Entries that were answered as refused, by reason.
    pub entries_refused: BTreeMap<String, u64>,
    /// Verdicts of the hub on reports, by code.
    pub verdicts: BTreeMap<String, u64>,
}

/// Messages of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// How many.
    pub messages: u64,
    /// Their bytes before TLS, without WebSocket headers.
    pub bytes: u64,
}

/// Counts, to be added to.
#[derive(Debug, Default)]
pub struct Counters(Mutex<Counts>);

impl Counters {
    /// All of them now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A try to reach a hub came so far.
    pub fn dialled(&self, how: &str) {
        self.edit(|counts| add(&mut counts.dials, how));
    }

    /// A session ended.
    pub fn ended(&self, how: &str) {
        self.edit(|counts| add(&mut counts.sessions_ended, how));
    }

    /// A message was given to the socket.
    pub fn sent(&self, message: &ToHub, bytes: usize) {
        self.edit(|counts| {
            counts.sent.entry(up(message).to_owned()).or_default().add(bytes);
            if let ToHub::Ack(ack) = message {
                ack.refused.iter().for_each(|refused| add(&mut counts.entries_refused, &refused.reason));
            }
        });
    }

    /// A message came; None: of a kind that this build does not know.
    pub fn received(&self, message: Option<&FromHub>, bytes: usize) {
        self.edit(|counts| {
            counts.received.entry(down(message).to_owned()).or_default().add(bytes);
            if let Some(FromHub::Verdicts(verdicts)) = message {
                verdicts.verdicts.iter().for_each(|verdict| {
                    let code = verdict.code().as_str_name();
                    add(&mut counts.verdicts, &camel_case(code.strip_prefix("CODE_").unwrap_or(code)));
                });
            }
        });
    }

    fn edit(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Traffic {
    fn add(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes as u64;
    }
}

fn add(counts: &mut BTreeMap<String, u64>, name: &str) {
    let name = if counts.len() < MOST_REASONS || counts.contains_key(name) { name } else { "Other" };
    *counts.entry(name.to_owned()).or_default() += 1;
}

/// `TRY_LATER` → `TryLater`.
fn camel_case(name: &str) -> String {
    let word = |word: &str| word[..1].to_owned() + &word[1..].to_ascii_lowercase();
    name.split('_').filter(|part| !part.is_empty()).map(word).collect()
}

fn up(message: &ToHub) -> &'static str {
    match message {
        ToHub::Hello(_) => "Hello",
        ToHub::Inventory(_) => "Inventory",
        ToHub::Ack(_) => "Ack",
        ToHub::Retry(_) => "Retry",
        ToHub::Resync(_) => "Resync",
        ToHub::Report(_) => "Report",
        ToHub::Heartbeat(_) => "Heartbeat",
        ToHub::Stream(_) => "Stream",
    }
}

fn down(message: Option<&FromHub>) -> &'static str {
    match message {
        Some(FromHub::Welcome(_)) => "Welcome",
        Some(FromHub::Refused(_)) => "Refused",
        Some(FromHub::InSync(_)) => "InSync",
        Some(FromHub::Compare(_)) => "Compare",
        Some(FromHub::Delta(_)) => "Delta",
        Some(FromHub::Verdicts(_)) => "Verdicts",
        Some(FromHub::Heartbeat(_)) => "Heartbeat",
        Some(FromHub::Farewell(_)) => "Farewell",
        Some(FromHub::Goodbye(_)) => "Goodbye",
        Some(FromHub::OpenStream(_)) => "OpenStream",
        None => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use selvedge_protocol::agent as wire;

    use super::*;

    #[test]
    fn answers_and_verdicts_are_counted_by_their_names() {
        let counters = Counters::default();
        let refusal = |reason: &str| wire::Refusal { reason: reason.into(), ..Default::default() };
        let ack = wire::Ack { nonce: 1, refused: vec![refusal("Undecodable"), refusal("UnknownKind")] };
        counters.sent(&ToHub::Ack(ack), 40);
        let verdict = |code: wire::verdict::Code| wire::Verdict { code: code.into(), ..Default::default() };
        let verdicts = vec![verdict(wire::verdict::Code::Written), verdict(wire::verdict::Code::Gone)];
        counters.received(Some(&FromHub::Verdicts(wire::Verdicts { verdicts })), 20);
        counters.received(None, 7);
        let counts = counters.counts();
        assert_eq!(counts.sent["Ack"], Traffic { messages: 1, bytes: 40 });
        assert_eq!(counts.received["Unknown"], Traffic { messages: 1, bytes: 7 });
        assert_eq!(counts.entries_refused["UnknownKind"], 1);
        assert_eq!(counts.verdicts.into_keys().collect::<Vec<_>>(), ["Gone", "Written"]);
        assert_eq!(camel_case("TRY_LATER"), "TryLater");
    }

    #[test]
    fn reasons_that_a_peer_makes_up_are_bounded() {
        let mut counts = BTreeMap::new();
        (0..1000).for_each(|reason| add(&mut counts, &reason.to_string()));
        assert_eq!(counts.len(), MOST_REASONS + 1);
        assert_eq!(counts["Other"], 1000 - MOST_REASONS as u64);
    }
}
