//! Pacing of transitions that could come all at once: each key gets a slot, slots are a fixed distance
//! apart.
//!
//! In: a key that wants to go, the time, the rate. Out: go, or how long to wait before asking again. Pure;
//! both offline sweeps (of nodes and of devices) stand on it.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use jiff::Timestamp;

/// Slots handed out and not used yet.
#[derive(Debug)]
pub struct Pace<K> {
    slots: HashMap<K, Timestamp>,
    last: Timestamp,
}

impl<K: Eq + Hash + Clone> Default for Pace<K> {
    fn default() -> Self {
        Self { slots: HashMap::new(), last: Timestamp::MIN }
    }
}

impl<K: Eq + Hash + Clone> Pace<K> {
    /// Whether `key` may go now. `Err` says how long to wait: its slot is kept, so that asking early costs
    /// nobody's place.
    ///
    /// # Errors
    /// The wait, when the key's slot is not due.
    pub fn go(&mut self, key: &K, now: Timestamp, per_second: u32) -> Result<(), Duration> {
        let slot = match self.slots.get(key) {
            Some(slot) => *slot,
            None => {
                let distance = Duration::from_secs(1) / per_second.max(1);
                let slot = self.last.checked_add(distance).map_or(now, |next| next.max(now));
                self.last = slot;
                slot
            }
        };
        if slot <= now {
            self.slots.remove(key);
            return Ok(());
        }
        self.slots.insert(key.clone(), slot);
        Err(slot.duration_since(now).unsigned_abs())
    }

    /// Gives a slot back: the key no longer wants to go.
    pub fn forget(&mut self, key: &K) {
        self.slots.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::Pace;

    #[test]
    fn keys_go_a_slot_apart_and_keep_their_place() {
        let (mut pace, start) = (Pace::default(), Timestamp::UNIX_EPOCH);
        let at = |millis: u64| start + Duration::from_millis(millis);
        assert_eq!(pace.go(&"a", at(0), 10), Ok(()));
        assert_eq!(pace.go(&"b", at(0), 10), Err(Duration::from_millis(100)));
        assert_eq!(pace.go(&"c", at(0), 10), Err(Duration::from_millis(200)));
        // Asking again neither moves a key nor lets it pass another.
        assert_eq!(pace.go(&"c", at(50), 10), Err(Duration::from_millis(150)));
        assert_eq!(pace.go(&"b", at(100), 10), Ok(()));
        assert_eq!(pace.go(&"c", at(200), 10), Ok(()));
        // Idle time is not saved up: the next two are again a slot apart.
        assert_eq!(pace.go(&"d", at(9000), 10), Ok(()));
        assert_eq!(pace.go(&"e", at(9000), 10), Err(Duration::from_millis(100)));
    }

    #[test]
    fn a_thousand_keys_take_ten_seconds_at_a_hundred_a_second() {
        let (mut pace, start) = (Pace::default(), Timestamp::UNIX_EPOCH);
        let last = (0..1000).filter_map(|key| pace.go(&key, start, 100).err()).max();
        assert_eq!(last, Some(Duration::from_millis(9990)));
    }
}
