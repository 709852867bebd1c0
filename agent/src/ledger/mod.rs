//! The ledger: everything that this node was told, durable before it is answered or acted on.
//!
//! In: messages of the hub. Out: answers to the hub, and [`Desired`], the snapshot of what is in force.
//! `machine` decides (pure over a [`Store`]), `store` keeps it in SQLite, `task` gives it a thread of its
//! own, because an SD card's fsync must not stop the loop. Simulated agents drive [`Machine`] over
//! [`MemoryStore`].

mod desired;
mod draft;
mod entry;
mod file;
mod inventory;
mod machine;
mod memory;
mod row;
mod seal;
mod store;
mod task;

pub use desired::{Desired, HeldBack, InForce, Publisher};
pub use entry::Entry;
pub use file::{KEY_FILE, LEDGER_FILE, OpenError, Opened, open};
pub use machine::{Machine, Outcome};
pub use memory::MemoryStore;
pub use row::{
    Answered, Batch, BodyChange, Loaded, Meta, Refusal, Row, RowChange, RowKey, Slot, Store, StoreError,
    Version,
};
pub use store::SqliteStore;
pub use task::{Dialled, FromLedger, Handle, Inbox, LedgerError, Overrun, Stopped, run};

#[cfg(test)]
pub mod tests;
