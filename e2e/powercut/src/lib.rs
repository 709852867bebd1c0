//! A disk whose power can be cut: for tests that say "durable".
//!
//! [`disk`] is the model, pure: what was written and not synced may be gone after a cut, may be there in
//! part, in any order and torn within a page; what was synced is there. [`mount`] puts it under a
//! directory through FUSE, so that the real program, with the real SQLite, runs on it. It never lies: a
//! sync that returned has happened.
//!
//! Mounting needs root and `/dev/fuse`. One flat directory: no subdirectories, links or special files.

pub mod disk;
pub mod mount;

pub use disk::{Disk, Fault, Loss};
pub use mount::Mounted;
