//! What the machine grants one process: file descriptors.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Beside the sockets of agents: the runtime, the API server, files.
const SPARE: u64 = 200;

/// The machine grants fewer sockets than are asked for.
#[derive(Debug, thiserror::Error)]
#[error(
    "{agents} agents need {needed} file descriptors, this process may have {granted}: raise the hard limit \
     (ulimit -Hn), or run several selvedge-load with --first and fewer --agents"
)]
pub struct TooFew {
    agents: u32,
    needed: u64,
    granted: u64,
}

/// Raises the limit of open files to what is granted.
///
/// # Errors
/// [`TooFew`] when that is not enough for `agents`, of which faults may double some sockets.
pub fn raise(agents: u32) -> Result<(), TooFew> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let granted = match setrlimit(Resource::Nofile, limit) {
        Ok(()) => limit.maximum,
        Err(_) => getrlimit(Resource::Nofile).current,
    };
    let granted = granted.unwrap_or(u64::MAX);
    let needed = u64::from(agents) + SPARE;
    if granted < needed { Err(TooFew { agents, needed, granted }) } else { Ok(()) }
}
