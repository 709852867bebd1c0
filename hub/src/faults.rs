//! What agents do wrong, by name: each fault is counted, and the log has one line a peer and minute.
//!
//! In: faults of sessions. Out: the counter by name, lines in the log. How each is answered is decided where
//! it is found; the whole table is docs/reference/protocol-errors.md, and a test holds them together. A close
//! code is for what only a broken peer sends; what a race can bring about as well ends no session.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntCounterVec;
use selvedge_protocol::DecodeError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

/// The log has one line a peer in this time.
const QUIET: Duration = Duration::from_secs(60);
/// Peers whose last line is remembered: 100 bytes each. With more than that at fault at once, the others are
/// counted but not logged.
const PEERS: usize = 4096;

/// Something that no agent of ours sends, or that only a race brings about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A frame above the limit of a frame.
    OversizedFrame,
    /// A frame within the limit whose elements would not fit into memory.
    DenseFrame,
    /// Not a message of the protocol.
    MalformedFrame,
    /// Text, where all messages are binary.
    TextFrame,
    /// Not a WebSocket frame.
    BrokenWebSocket,
    /// The first message was no Hello.
    NoHello,
    /// A Hello in a session.
    HelloAgain,
    /// No range in common.
    OtherProtocol,
    /// Of another cluster.
    OtherCluster,
    /// A digest or hash that is not 32 bytes, or a Hello without its session.
    BadDigest,
    /// An inventory of more rows than a set has.
    OversizedInventory,
    /// A message that this version does not know.
    UnknownMessage,
    /// A kind of entry that this version does not know.
    UnknownKind,
    /// An answer to what was not asked.
    ForeignNonce,
    /// A report on a key that is not in the node's set.
    ForeignKey,
    /// A report on another object than the one that has this key.
    UnknownUid,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::OversizedFrame,
        Self::DenseFrame,
        Self::MalformedFrame,
        Self::TextFrame,
        Self::BrokenWebSocket,
        Self::NoHello,
        Self::HelloAgain,
        Self::OtherProtocol,
        Self::OtherCluster,
        Self::BadDigest,
        Self::OversizedInventory,
        Self::UnknownMessage,
        Self::UnknownKind,
        Self::ForeignNonce,
        Self::ForeignKey,
        Self::UnknownUid,
    ];

    /// For metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OversizedFrame => "oversized_frame",
            Self::DenseFrame => "dense_frame",
            Self::MalformedFrame => "malformed_frame",
            Self::TextFrame => "text_frame",
            Self::BrokenWebSocket => "broken_websocket",
            Self::NoHello => "no_hello",
            Self::HelloAgain => "hello_again",
            Self::OtherProtocol => "other_protocol",
            Self::OtherCluster => "other_cluster",
            Self::BadDigest => "bad_digest",
            Self::OversizedInventory => "oversized_inventory",
            Self::UnknownMessage => "unknown_message",
            Self::UnknownKind => "unknown_kind",
            Self::ForeignNonce => "foreign_nonce",
            Self::ForeignKey => "foreign_key",
            Self::UnknownUid => "unknown_uid",
        }
    }

    /// With which code a session ends that ends for this (RFC 6455, section 7.4.1).
    #[must_use]
    pub const fn close_code(self) -> CloseCode {
        match self {
            Self::OversizedFrame | Self::DenseFrame | Self::OversizedInventory => CloseCode::Size,
            Self::MalformedFrame | Self::BadDigest => CloseCode::Invalid,
            Self::TextFrame => CloseCode::Unsupported,
            _ => CloseCode::Protocol,
        }
    }
}

impl From<&DecodeError> for Fault {
    fn from(error: &DecodeError) -> Self {
        match error {
            DecodeError::TooLarge { .. } => Self::OversizedFrame,
            DecodeError::TooDense { .. } => Self::DenseFrame,
            DecodeError::Malformed { .. } => Self::MalformedFrame,
        }
    }
}

/// A peer's last line in the log.
#[derive(Debug)]
struct Line {
    at: Instant,
    /// Faults since then.
    more: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Faults {
    count: IntCounterVec,
    lines: Mutex<HashMap<Arc<str>, Line>>,
}

impl Faults {
    /// Counts with `count`, which has the fault's name as its label.
    #[must_use]
    pub fn new(count: IntCounterVec) -> Self {
        Self { count, lines: Mutex::default() }
    }

    /// Takes note of a fault of a node's agent.
    pub fn note(&self, node: &Arc<str>, fault: Fault, now: Instant) {
        self.count.with_label_values(&[fault.name()]).inc();
        if let Some(unsaid) = self.line(node, now) {
            let fault = fault.name();
            tracing::warn!(%node, fault, unsaid, "an agent sent what it should not; see docs/reference/protocol-errors.md");
        }
    }

    /// Whether there is a line in the log for it, with how many faults before it had none.
    fn line(&self, node: &Arc<str>, now: Instant) -> Option<u64> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get_mut(node) {
            if now.saturating_duration_since(line.at) < QUIET {
                line.more += 1;
                return None;
            }
            line.at = now;
            return Some(std::mem::take(&mut line.more));
        }
        if lines.len() >= PEERS {
            lines.retain(|_, line| now.saturating_duration_since(line.at) < QUIET);
        }
        if lines.len() >= PEERS {
            return None;
        }
        lines.insert(node.clone(), Line { at: now, more: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use prometheus::{IntCounterVec, Opts};

    use super::{Fault, Faults, PEERS, QUIET};
    use crate::clock;

    fn faults() -> Faults {
        Faults::new(IntCounterVec::new(Opts::new("bad_input_total", "-"), &["reason"]).unwrap())
    }

    #[test]
    fn one_line_a_peer_and_minute_and_nothing_uncounted() {
        let (faults, now) = (faults(), clock::now());
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        assert_eq!(faults.line(&a, now), Some(0));
        for _ in 0..3 {
            assert_eq!(faults.line(&a, now + QUIET - Duration::from_millis(1)), None);
        }
        assert_eq!(faults.line(&b, now), Some(0), "another peer has a line of its own");
        assert_eq!(faults.line(&a, now + QUIET), Some(3));
        for _ in 0..5 {
            faults.note(&a, Fault::ForeignKey, now);
        }
        assert_eq!(faults.count.with_label_values(&["foreign_key"]).get(), 5);
    }

    #[test]
    fn a_fleet_at_fault_takes_bounded_memory_and_makes_room_again() {
        let (faults, now) = (faults(), clock::now());
        let peer = |number: usize| -> Arc<str> { format!("node-{number}").into() };
        for number in 0..2 * PEERS {
            assert_eq!(faults.line(&peer(number), now).is_some(), number < PEERS);
        }
        assert_eq!(faults.line(&peer(2 * PEERS), now + QUIET), Some(0));
        assert!(faults.lines.lock().unwrap().len() <= PEERS);
    }

    #[test]
    fn names_are_all_different() {
        let names: std::collections::BTreeSet<_> = Fault::ALL.iter().map(|fault| fault.name()).collect();
        assert_eq!(names.len(), Fault::ALL.len());
    }
}
