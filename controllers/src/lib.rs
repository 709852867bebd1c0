//! The four controllers of Selvedge: EdgeNode, EdgeApplication, DeviceModel and Device.
//!
//! Objects in; conditions, rollouts, join keys, certificates and usage out. Each is its own binary with
//! its own ServiceAccount, and runs on the one replica that holds its Lease. A reconcile goes observe
//! (client) → validate (pure) → plan (pure) → apply (client) → status (pure, then at most one write). None
//! of them talks to agents: that is the hub's.

pub mod device;
pub mod devicemodel;
pub mod edgeapplication;
pub mod edgenode;
#[cfg(test)]
mod golden;
pub mod metrics;
mod pace;
mod raw;
mod rules;
mod spacing;

use std::time::Duration;

use jiff::Timestamp;
use selvedge_operator::controller::Next;
use selvedge_operator::{clock, status::StatusError};

/// Where join commands are, and nothing else, unless somebody says otherwise.
pub const JOIN_NAMESPACE: &str = "selvedge-join";

/// What follows a status write: a conflict is no error, because the change that it ran into triggers the
/// object anyway; a moment later it is looked at again in case that was before this reconcile.
fn written(result: Result<bool, StatusError>, again: Option<Duration>) -> Result<Next, StatusError> {
    match result {
        Ok(_) => Ok(again.map_or(Next::Change, Next::After)),
        Err(StatusError::Conflict { .. }) => Ok(Next::After(Duration::from_secs(1))),
        Err(StatusError::Gone { .. }) => Ok(Next::Change),
        Err(error) => Err(error),
    }
}

/// The time now in whole seconds: what stands in objects and certificates is not finer.
fn second() -> Timestamp {
    let now = clock::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}
