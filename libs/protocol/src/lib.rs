//! The messages of Selvedge and their limits: agent <-> hub, hub <-> EdgeNode controller, and join.
//!
//! In: bytes of one WebSocket frame (or HTTP body). Out: decoded messages, checked for size and shape,
//! and the conversions between wire shapes and [`selvedge_model`]. No sockets, no kube.

mod codec;
pub mod convert;
mod deflate;
pub mod proof;
pub mod token;
mod version;
mod weight;

pub use codec::{DecodeError, decode, encode};
pub use convert::ConvertError;
pub use deflate::{ENCODINGS, InflateError, deflated, inflate};
pub use token::{JoinToken, TokenError};
pub use version::{PROTOCOL_MAX, PROTOCOL_MIN, negotiate, speaks};
pub use weight::{Shape, Weighed};

/// Messages between hub and agent.
#[allow(clippy::all, missing_docs)]
pub mod agent {
    include!(concat!(env!("OUT_DIR"), "/selvedge.agent.v1.rs"));
}

/// Messages between a hub replica and the EdgeNode controller's leader.
#[allow(clippy::all, missing_docs)]
pub mod controller {
    include!(concat!(env!("OUT_DIR"), "/selvedge.controller.v1.rs"));
}

/// Bodies of `POST /v1/join` and `POST /v1/renew`.
#[allow(clippy::all, missing_docs)]
pub mod join {
    include!(concat!(env!("OUT_DIR"), "/selvedge.join.v1.rs"));
}

/// The WebSocket subprotocol of agent sessions, and the paths that a hub serves to agents.
pub const SESSION_PATH: &str = "/v1/session";
/// Where an agent that holds no certificate asks for its first one.
pub const JOIN_PATH: &str = "/v1/join";
/// Where an agent asks for its next certificate by proof of its old key.
pub const RENEW_PATH: &str = "/v1/renew";
/// Where the EdgeNode controller's leader takes the streams of hub replicas.
pub const REPLICA_PATH: &str = "/v1/replica";

/// A delta holds at most this many bytes of entries; a larger single entry goes alone.
pub const MAX_DELTA_BYTES: usize = 256 * 1024;
/// No frame is larger, in either direction: a ConfigMap of 1 MiB (the API's limit) must fit, base64
/// and envelope included.
pub const MAX_FRAME_BYTES: usize = 2 * 1024 * 1024;
/// The body of one entry has at most this many bytes, so that its frame has room for its names. What is larger
/// (a ConfigMap of control characters, each six bytes in JSON) is held by the hub.
pub const MAX_BODY_BYTES: usize = MAX_FRAME_BYTES - 8 * 1024;
/// What the elements (rows, reports, sessions ...) of one frame may take in memory, texts not counted. A
/// report of small properties takes four times its frame; nothing that is sent comes near.
pub const MAX_ELEMENT_BYTES: usize = 4 * MAX_FRAME_BYTES;
/// Decoding never holds more than this at once: the texts of a frame are copied once, and lists that grow
/// have up to four times the room of their elements (old and new room at once, or four for the first one).
pub const MAX_DECODE_BYTES: usize = MAX_FRAME_BYTES + 4 * MAX_ELEMENT_BYTES;
/// Sets of up to this many rows are compared whole, larger ones by bucket digests first (sync rule 5).
pub const MAX_ROWS_AT_ONCE: usize = 256;
/// What an agent holds of a set if its Hello says nothing else: 10,000 devices, and room to spare.
pub const SET_ENTRIES: u64 = 16 * 1024;
/// And of bytes: of bodies as JSON, with [`ENTRY_OVERHEAD`] for each.
pub const SET_BYTES: u64 = 64 * 1024 * 1024;
/// What an entry costs in a frame beside its body and names.
pub const ENTRY_OVERHEAD: usize = 96;
/// Of the entries that an agent has refused its Hello names so many: enough to say why, and bounded.
pub const HELLO_REFUSALS: usize = 100;
/// A delta that is not answered in this time closes the session (sync rule 6).
pub const ANSWER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);
/// How often both sides say that they live. Two missed heartbeats end a session. 15 s keeps idle
/// traffic under 100 B/s and stays below the idle limits of common NATs (30 s for UDP, minutes for TCP).
pub const HEARTBEAT: std::time::Duration = std::time::Duration::from_secs(15);

#[cfg(test)]
mod tests;
