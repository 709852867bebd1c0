//! The one clock of this crate: deadlines, and waiting for something to become true.

use std::time::{Duration, Instant};

/// A point in time by which something must have happened.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    started: Instant,
    given: Duration,
}

impl Deadline {
    #[allow(clippy::disallowed_methods)] // the one place of this crate that reads the time
    pub fn after(given: Duration) -> Self {
        Self { started: Instant::now(), given }
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn passed(&self) -> bool {
        self.elapsed() >= self.given
    }

    pub fn given(&self) -> Duration {
        self.given
    }
}

/// Asks `probe` until it answers `Some`, at least once, and until the deadline has passed.
pub fn wait_for<T>(deadline: Deadline, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    // Short enough that no wait adds more than a blink, long enough that probing costs no core.
    const BETWEEN: Duration = Duration::from_millis(50);
    loop {
        if let Some(answer) = probe() {
            return Some(answer);
        }
        if deadline.passed() {
            return None;
        }
        std::thread::sleep(BETWEEN);
    }
}
