//! How long a change takes in one session: from the index to the agent's disk, and from there into force.
//!
//! In: when parts were touched, deltas, acks, reports. Out: durations, for histograms. Pure. It holds one moment
//! for what waits and one for each entry that was delivered and is not in force yet.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use selvedge_model::{EntryKey, EntryKind};
use selvedge_protocol::agent as wire;

/// See the module.
#[derive(Debug, Default)]
pub struct Lag {
    /// When the oldest change that no delta carries yet reached the index.
    touched: Option<Instant>,
    in_flight: Option<InFlight>,
    /// Content and time of entries that were delivered and are not reported yet.
    delivered: BTreeMap<EntryKey, (Vec<u8>, Instant)>,
}

#[derive(Debug)]
struct InFlight {
    nonce: u64,
    touched: Option<Instant>,
    upserts: Vec<(EntryKey, Vec<u8>)>,
}

impl Lag {
    /// A change for this session reached the index at this time.
    pub fn touched(&mut self, at: Instant) {
        self.touched = Some(self.touched.map_or(at, |known| known.min(at)));
    }

    /// Nothing of what was touched is to be sent (any more).
    pub fn settled(&mut self) {
        self.touched = None;
    }

    /// A delta goes out.
    pub fn sent(&mut self, delta: &wire::Delta) {
        let key = |key: &Option<wire::Key>| EntryKey::try_from(key.clone()?).ok();
        for removed in delta.removes.iter().filter_map(|remove| key(&remove.key)) {
            self.delivered.remove(&removed);
        }
        let reported = |key: &EntryKey| matches!(key.kind, EntryKind::Workload | EntryKind::Device);
        let upserts = delta
            .upserts
            .iter()
            .filter_map(|upsert| Some((key(&upsert.key).filter(reported)?, upsert.content_hash.clone())));
        let (nonce, touched) = (delta.nonce, self.touched.take());
        self.in_flight = Some(InFlight { nonce, touched, upserts: upserts.collect() });
    }

    /// The agent has it on disk: since when that was desired, if an event said so.
    pub fn acked(&mut self, ack: &wire::Ack, now: Instant) -> Option<Duration> {
        let delta = self.in_flight.take_if(|delta| delta.nonce == ack.nonce)?;
        self.delivered.extend(delta.upserts.into_iter().map(|(key, content)| (key, (content, now))));
        for refusal in &ack.refused {
            if let Some(key) = refusal.key.clone().and_then(|key| EntryKey::try_from(key).ok()) {
                self.delivered.remove(&key);
            }
        }
        Some(now.saturating_duration_since(delta.touched?))
    }

    /// The agent says what is in force: since when it had that, if it was delivered in this session and this is
    /// the first report of it.
    pub fn reported(&mut self, key: &EntryKey, content: &[u8], now: Instant) -> Option<Duration> {
        let (_, at) = self.delivered.get(key).filter(|(delivered, _)| delivered == content)?;
        let took = now.saturating_duration_since(*at);
        self.delivered.remove(key);
        if self.delivered.is_empty() {
            // An empty tree keeps a node.
            self.delivered = BTreeMap::new();
        }
        Some(took)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use selvedge_model::{EntryKey, EntryKind};
    use selvedge_protocol::agent as wire;

    use super::Lag;

    #[test]
    fn a_change_is_timed_from_the_index_to_the_disk_and_into_force() {
        let (mut lag, start) = (Lag::default(), crate::clock::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let tank = EntryKey::new(EntryKind::Device, "shop", "tank");
        let delta = |nonce, content: &[u8]| wire::Delta {
            nonce,
            upserts: vec![wire::Upsert {
                key: Some((&tank).into()),
                content_hash: content.to_vec(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let ack = |nonce| wire::Ack { nonce, refused: Vec::new() };
        lag.touched(at(2));
        lag.touched(at(1));
        lag.sent(&delta(1, b"a"));
        lag.touched(at(3));
        assert_eq!(lag.acked(&ack(7), at(4)), None, "an ack of another delta");
        assert_eq!(lag.acked(&ack(1), at(4)), Some(Duration::from_secs(3)));
        assert_eq!(lag.reported(&tank, b"older", at(5)), None);
        assert_eq!(lag.reported(&tank, b"a", at(6)), Some(Duration::from_secs(2)));
        assert_eq!(lag.reported(&tank, b"a", at(7)), None, "a value that changed is no application");
        lag.sent(&delta(2, b"b"));
        assert_eq!(
            lag.acked(&ack(2), at(8)),
            Some(Duration::from_secs(5)),
            "touched while one was in flight"
        );
        lag.sent(&delta(3, b"c"));
        assert_eq!(lag.acked(&ack(3), at(9)), None, "from a comparison: nobody knows since when");
    }
}
