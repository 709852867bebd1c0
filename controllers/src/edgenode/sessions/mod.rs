//! Who is connected: the sessions that hub replicas report, and what they are told (sync rule 9, identity
//! rule 7).
//!
//! In: one stream per hub replica, dialled by the hub. Down go `Supersede` (a newer session of the node
//! lives elsewhere), `Duplicate` (two machines bear the node's identity) and `Deny` (it is denied or deleted). Out: [`Presence`] of each node, and the
//! names of nodes to reconcile. [`state`] decides and knows no clock and no socket; the rest carries bytes.

mod auth;
mod server;
pub mod state;
mod stream;
mod switchboard;

#[cfg(test)]
mod tests;

pub use server::{Server, ServerError};
pub use state::{Presence, Sessions};
pub use switchboard::Switchboard;
