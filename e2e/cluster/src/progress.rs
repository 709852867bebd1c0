//! What a person at the terminal sees while something long goes on: one line per fact, on stderr, so
//! that stdout stays free for what a command is asked to print.

use std::process::{Child, ExitStatus};
use std::time::Duration;

use crate::clock::Deadline;

/// Says one line.
pub fn say(line: impl AsRef<str>) {
    eprintln!("selvedge-cluster: {}", line.as_ref());
}

/// Waits for a child and repeats `what` with the time it has taken, so that a long build does not look
/// like a hanging one.
pub fn watch(child: &mut Child, what: &str, started: Deadline) -> std::io::Result<ExitStatus> {
    const EVERY: Duration = Duration::from_secs(15);
    const POLL: Duration = Duration::from_millis(100);
    let mut said = Duration::ZERO;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if started.elapsed() >= said + EVERY {
            said = started.elapsed();
            say(format!("  ... {what}: {} s", said.as_secs()));
        }
        std::thread::sleep(POLL);
    }
}
