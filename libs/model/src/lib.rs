//! The domain of Selvedge: ids, desired entries, hashes and digests, watermarks, device values,
//! selectors, overrides, rollout arithmetic, and the rules that say what cannot work.
//!
//! Everything here is a pure function of its arguments: no IO, no clock, no randomness, no kube. Hub,
//! agent, controllers and webhook share it, so that each question has one answer.

mod canonical;
mod entry;
mod hash;
mod history;
mod key;
mod secret;
mod session;
mod watermark;

pub mod application;
pub mod crds;
pub mod device;
pub mod fault;
pub mod names;
pub mod node;
pub mod overrides;
pub mod pod;
pub mod rollout;
#[cfg(feature = "schema")]
pub mod schema;
pub mod selector;

pub use canonical::canonical_json;
pub use entry::{
    ConfigMapEntry, DeviceEntry, NodeSettingsEntry, OnDelete, PropertyEntry, Reference, ReferenceKind,
    WorkloadEntry,
};
pub use hash::{ContentHash, Digest, RowHash};
pub use history::{History, HistoryError, Next};
pub use key::{EntryKey, EntryKind};
pub use secret::{Named, Redacted, SecretEntry, VersionKey};
pub use session::SessionId;
pub use watermark::{HISTORY, Watermark, WatermarkOrder};
