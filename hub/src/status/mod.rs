//! Status: what agents report becomes the status of EdgeNodes and Devices (sync rules 9 and 10).
//!
//! In: reports and where a node stands. Out: at most one write at a time per object, none that changes
//! nothing, each under a resourceVersion precondition and behind the fence; and the verdict on each report,
//! after the write. `node` and `device` say what a status should be, purely; `book` keeps what a session has
//! to write; `work` fills it with what is known, `write` does it; `recall` keeps for a while what was seen.

mod book;
mod bucket;
pub mod device;
pub mod node;
mod recall;
mod work;
mod write;

pub use book::{Book, Job, Target, Told};
pub use bucket::Bucket;
pub use recall::Recall;
pub use work::{Begun, work};
pub use write::{Compose, Decision, Known, Work, Written, decide, write};

use selvedge_model::SessionId;
use serde_json::{Value, json};

/// Longest line or message in a status that has 256 characters.
const LINE: usize = 256;

/// The fence of a status (sync rule 9).
#[must_use]
pub fn fence(session: SessionId, seq: u64) -> Value {
    json!({"session": session.to_string(), "seq": seq})
}

/// The session that wrote a status last.
#[must_use]
pub fn fenced_by(status: &Value) -> Option<SessionId> {
    status.pointer("/fence/session")?.as_str()?.parse().ok()
}

/// At most [`LINE`] characters of a text.
fn line(text: &str) -> String {
    match text.char_indices().nth(LINE) {
        None => text.to_owned(),
        Some(_) => text.chars().take(LINE - 1).chain(['…']).collect(),
    }
}

/// A reason that a condition can bear: CamelCase, and never empty.
fn reason<'a>(reason: &'a str, otherwise: &'a str) -> &'a str {
    let valid = reason.len() <= 256
        && reason.starts_with(|c: char| c.is_ascii_alphabetic())
        && reason.chars().all(|c| c.is_ascii_alphanumeric());
    if valid { reason } else { otherwise }
}

#[cfg(test)]
mod tests;
