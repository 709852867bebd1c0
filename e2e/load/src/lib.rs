//! Many simulated agents in one process, against a real hub: real TLS, the real protocol, the agent's own
//! ledger over memory.
//!
//! ```text
//!  options ─► objects (in the cluster) ─► join ─► agent (one task each) ─► session ─► hub
//!                │ change ─► API server ─► statuses  │ life, faults
//!                └─► mirror ──────────────────┴──────┴─► record ─► verdict
//! ```
//!
//! Nothing runs on a simulated agent: what is in force is applied at once. All else is as on a real one. What
//! was recorded is judged by `selvedge-history`, which also judges the simulation of the shipped code.

pub mod agent;
pub mod authority;
pub mod change;
pub mod clock;
pub mod faults;
pub mod fleet;
pub mod identities;
pub mod join;
pub mod latency;
pub mod life;
pub mod limits;
pub mod mirror;
pub mod objects;
pub mod options;
pub mod record;
pub mod run;
pub mod session;
pub mod statuses;
pub mod steer;
pub mod verdict;
pub mod wire;
