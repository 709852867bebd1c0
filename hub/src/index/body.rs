//! Bodies of entries: encoded once, one allocation for all that are alike.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use bytes::Bytes;
use selvedge_model::{ContentHash, canonical_json};
use serde_json::Value;

/// Canonical JSON of an entry and its hash.
pub struct Body {
    /// BLAKE3 of `bytes`.
    pub hash: ContentHash,
    /// Canonical JSON.
    pub bytes: Bytes,
    deflated: OnceLock<Option<Bytes>>,
}

impl Body {
    /// It deflated, if that saves anything.
    pub fn deflated(&self) -> Option<Bytes> {
        self.deflated.get_or_init(|| selvedge_protocol::deflated(&self.bytes)).clone()
    }
}

impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Eq for Body {}

/// By hash alone: it may be a Secret's.
impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {} bytes", self.hash, self.bytes.len())
    }
}

/// Below this many bodies dead ones are not looked for: finding them would cost more than they hold.
const FIRST_SWEEP: usize = 1024;

/// Every body that something still holds.
#[derive(Debug)]
pub struct Bodies(Mutex<Kept>);

#[derive(Debug)]
struct Kept {
    by_hash: HashMap<ContentHash, Weak<Body>>,
    sweep_at: usize,
}

impl Default for Bodies {
    fn default() -> Self {
        Self(Mutex::new(Kept { by_hash: HashMap::new(), sweep_at: FIRST_SWEEP }))
    }
}

impl Bodies {
    /// The body of `value`: the one that exists, if any.
    pub fn of(&self, value: &Value) -> Arc<Body> {
        let bytes = canonical_json(value);
        let hash = ContentHash::of_canonical(&bytes);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(body) = kept.by_hash.get(&hash).and_then(Weak::upgrade) {
            return body;
        }
        if kept.by_hash.len() >= kept.sweep_at {
            kept.by_hash.retain(|_, body| body.strong_count() > 0);
            kept.sweep_at = FIRST_SWEEP.max(kept.by_hash.len() * 2);
        }
        // Without the room to grow that the vector was left with: a body is kept for long.
        let body = Arc::new(Body { hash, bytes: bytes.into_boxed_slice().into(), deflated: OnceLock::new() });
        kept.by_hash.insert(hash, Arc::downgrade(&body));
        body
    }
}
