//! The removal guard of one kind: removals without a watched deletion, in a sliding window.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a removal counts.
const WINDOW: Duration = Duration::from_secs(600);
/// So many never trip the guard, however few entries there are: a small fleet must stay workable.
const FLOOR: usize = 50;
/// Percent of the entries that sessions hold.
const PERCENT: usize = 20;

/// See the module. Once tripped it stays so until it is released.
#[derive(Debug, Default)]
pub struct Window {
    counted: VecDeque<(Instant, usize)>,
    held: usize,
    tripped: bool,
}

impl Window {
    /// A session holds `after` entries now and held `before`.
    pub fn hold(&mut self, before: usize, after: usize) {
        self.held = (self.held + after).saturating_sub(before);
    }

    /// One event wants this many removals; they are counted one by one when they are sent.
    pub fn announce(&mut self, entries: usize, now: Instant) {
        self.tripped |= self.recent(now) + entries > self.limit();
    }

    /// Counts one removal, if it may be.
    pub fn take(&mut self, now: Instant) -> bool {
        if !self.tripped {
            self.tripped = self.recent(now) + 1 > self.limit();
        }
        if !self.tripped {
            match self.counted.back_mut() {
                Some((at, count)) if *at == now => *count += 1,
                _ => self.counted.push_back((now, 1)),
            }
        }
        !self.tripped
    }

    /// Forgets what was counted.
    pub fn release(&mut self) {
        self.counted.clear();
        self.tripped = false;
    }

    pub fn is_tripped(&self) -> bool {
        self.tripped
    }

    fn limit(&self) -> usize {
        FLOOR.max(self.held * PERCENT / 100)
    }

    fn recent(&mut self, now: Instant) -> usize {
        while self.counted.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW) {
            self.counted.pop_front();
        }
        self.counted.iter().map(|(_, count)| count).sum()
    }
}
