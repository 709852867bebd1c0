//! The hub: sends every edge node what it should have, and writes down what is true there.
//!
//! ```text
//!  API server ─► feed ─► index ─► sessions ─► session (one per agent) ─► transport ─► agents
//!                                    ▲             │ reports
//!  edgenode-controller ◄─ replica ───┘             └─► status ─► API server
//! ```
//!
//! `index` and `session` are pure: no await, no clock. `removals` stands before everything that would take
//! something away from a node, `resyncs` before comparisons of whole sets. `notices` tells people by Events. `enroll` files
//! certificate requests, `cluster` knows who this cluster is, `hearing` whether EdgeNodes are heard of at all.

mod clock;
pub mod cluster;
pub mod config;
mod crd_check;
pub mod enroll;
pub mod faults;
pub mod feed;
pub mod hearing;
pub mod hub;
pub mod index;
mod lag;
pub mod metrics;
pub mod notices;
pub mod removals;
pub mod replica;
pub mod resyncs;
pub mod run;
pub mod session;
pub mod sessions;
mod share;
pub mod status;
pub mod transport;
pub mod version_key;
