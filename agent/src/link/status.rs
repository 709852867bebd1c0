//! What the link is doing now, for people: `selvedge-agent status` and metrics.

use serde::{Deserialize, Serialize};

/// The state of the link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkStatus {
    /// The hub of the present session, or of the last try; empty before the first.
    pub hub: String,
    /// Whether a session is up.
    pub connected: bool,
    /// Since when, Unix seconds.
    pub since: u64,
    /// Why there is no session; empty while one is up.
    pub reason: String,
    /// When the next try is made, Unix seconds; 0 while one is up or being made.
    pub next_try: u64,
    /// Sessions since the agent started.
    pub sessions: u64,
}

impl LinkStatus {
    /// Before the first try.
    #[must_use]
    pub fn begin(now: u64) -> Self {
        Self {
            hub: String::new(),
            connected: false,
            since: now,
            reason: "not tried yet".into(),
            next_try: 0,
            sessions: 0,
        }
    }

    /// A session is up.
    pub fn up(&mut self, hub: String, now: u64) {
        self.hub = hub;
        self.connected = true;
        self.since = now;
        self.reason.clear();
        self.next_try = 0;
        self.sessions += 1;
    }

    /// There is no session; the next try is in `wait` seconds.
    pub fn down(&mut self, hub: String, reason: String, now: u64, wait: u64) {
        if self.connected {
            self.since = now;
        }
        self.hub = hub;
        self.connected = false;
        self.reason = reason;
        self.next_try = now + wait;
    }
}
