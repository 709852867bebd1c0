//! Who stands at the door and has not shaken hands yet: bounded in all and by source, so that one source, however many
//! connections it opens and leaves half open, keeps nobody else out.
//!
//! In: source addresses. Out: places, and in their turn slots for handshakes. A connection that says nothing costs a
//! place and no slot: a slot is asked for when its first bytes are there. A fleet behind one address is one source: its
//! handshakes end in milliseconds, so its bounds are wide.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};

/// Connections without a handshake at once.
pub const PLACES: usize = 8192;
/// Of one source: what is beyond is closed at once, and an agent comes back after a moment of its own choice.
pub const PLACES_OF_ONE: usize = PLACES / 2;
/// Handshakes at once: they cost CPU, and a fleet that comes back must not starve live sessions.
const SLOTS: usize = 64;
/// Of one source.
const SLOTS_OF_ONE: usize = SLOTS / 2;
/// Whoever has one IPv6 address has the rest of its network, too (RFC 4291, section 2.5.1).
const NETWORK: u32 = 64;

/// See the module.
#[derive(Debug)]
pub struct Crowd {
    sources: Mutex<HashMap<IpAddr, Source>>,
    slots: Semaphore,
}

/// One address, while somebody from there stands here.
#[derive(Debug)]
struct Source {
    here: usize,
    slots: Arc<Semaphore>,
}

impl Default for Crowd {
    fn default() -> Self {
        Self { sources: Mutex::default(), slots: Semaphore::new(SLOTS) }
    }
}

impl Crowd {
    /// A place for a connection from there; none: too many of that source are here.
    pub fn enter(self: &Arc<Self>, from: IpAddr) -> Option<Place> {
        let from = source(from);
        let mut sources = self.lock();
        let none = || Source { here: 0, slots: Arc::new(Semaphore::new(SLOTS_OF_ONE)) };
        let source = sources.entry(from).or_insert_with(none);
        if source.here >= PLACES_OF_ONE {
            return None;
        }
        source.here += 1;
        Some(Place { crowd: self.clone(), from, slots: source.slots.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Source>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is here; it leaves when this is dropped.
#[derive(Debug)]
pub struct Place {
    crowd: Arc<Crowd>,
    from: IpAddr,
    slots: Arc<Semaphore>,
}

impl Place {
    /// Waits until hands can be shaken: first among those of its source, then among all.
    ///
    /// # Errors
    /// Never: no semaphore is closed.
    pub async fn turn(&self) -> Result<(SemaphorePermit<'_>, SemaphorePermit<'_>), AcquireError> {
        Ok((self.slots.acquire().await?, self.crowd.slots.acquire().await?))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut sources = self.crowd.lock();
        if let Some(source) = sources.get_mut(&self.from) {
            source.here -= 1;
            if source.here == 0 {
                sources.remove(&self.from);
            }
        }
    }
}

/// What counts as one source.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (Ipv6Addr::BITS - NETWORK))).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt as _;

    use super::{Crowd, PLACES_OF_ONE, SLOTS_OF_ONE, source};

    #[tokio::test]
    async fn one_source_takes_its_part_and_no_more() {
        let crowd = Arc::new(Crowd::default());
        let enter = |from: &str| crowd.enter(from.parse().unwrap());
        let mut places: Vec<_> = (0..PLACES_OF_ONE).filter_map(|_| enter("192.0.2.1")).collect();
        assert_eq!((places.len(), enter("192.0.2.1").is_some()), (PLACES_OF_ONE, false));
        let other = enter("192.0.2.2").unwrap();
        let turns: Vec<_> = places.iter().map_while(|place| place.turn().now_or_never()).collect();
        assert_eq!(turns.len(), SLOTS_OF_ONE);
        assert!(other.turn().now_or_never().is_some(), "another source waits for it");
        drop(turns);
        places.pop();
        assert!(enter("192.0.2.1").is_some(), "one has left");
        places.clear();
        drop(other);
        assert!(crowd.lock().is_empty(), "nothing is remembered of who has left");
    }

    #[test]
    fn a_network_is_one_source() {
        let of = |address: &str| source(address.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!((of("::ffff:192.0.2.1"), of("192.0.2.1")), ("192.0.2.1".into(), "192.0.2.1".into()));
    }
}
