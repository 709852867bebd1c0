//! What users live through, told on the whole real system: a real API server, real containerd, a Modbus
//! server written by others, and the chart as shipped.
//!
//! [`World`] is the stage: one cluster with Selvedge installed, and edge hosts that can be cut off and
//! switched off. Stories (`tests/stories/`) and the demo act on it only as a user or the weather would:
//! kubectl, helm, the agent's own commands, signals and cables.

mod kubectl;
pub mod measure;
mod outcome;
pub mod plot;
mod prometheus;
mod world;

pub use kubectl::{KubectlError, Tools, condition};
pub use outcome::{Outcome, StoryError, chain, eventually, expect};
pub use prometheus::Prometheus;
pub use world::{Installed, NODE_PORT, World};
