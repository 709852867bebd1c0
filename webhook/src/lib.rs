//! The validating webhook: refuses what cannot work, and says everything that is wrong in one answer.
//!
//! ```text
//! API server ─TLS─► serve ─► router ─► judge ─► rules of selvedge-model
//!                     │                  └─ facts of the cluster: cache, or a direct read
//!                     └─ certificate: made, shared, rotated and published by the replicas themselves
//! ```
//!
//! It has no rules of its own: they live in `selvedge-model`, and the controllers ask the same ones. What is
//! not there yet (a model, a node, a namespace's label) is admitted with a warning that names the command,
//! because the order of `kubectl apply` must not matter; the controllers say the rest in conditions. An
//! update that leaves alone what was wrong before passes.

pub mod certificate;
pub mod cluster;
pub mod judge;
pub mod metrics;
pub mod review;
pub mod router;
pub mod serve;
