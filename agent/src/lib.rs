//! The agent of an edge node: runs what the cluster wants here, with or without a way to it.
//!
//! ```text
//! hub ⇄ link ─► ledger (SQLite, a thread of its own) ─► reconciler ─► runtime (CRI), devices (drivers)
//!        ▲                                                  │
//!        └────────────────────── report ◄──────────────────┘
//! ```
//!
//! Four tasks on one thread, and the ledger's thread: [`link`] keeps a session with a hub, [`ledger`] is
//! the only writer of desired state (commit first, then publish), [`reconciler`] makes it true through
//! [`runtime`] and [`devices`], [`report`] tells what became true until a hub has written it.
//! [`status`] answers the same questions on the node itself. No kube here: a node holds no credentials
//! of the API server.

pub mod backoff;
pub mod chain;
pub mod cli;
pub mod clock;
pub mod config;
pub mod devices;
pub mod dial;
pub mod identity;
pub mod join;
pub mod leave;
pub mod ledger;
pub mod link;
pub mod node;
pub mod reconciler;
pub mod renew;
pub mod report;
pub mod run;
pub mod runtime;
pub mod status;

#[cfg(test)]
mod fakehub;
