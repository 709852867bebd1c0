//! A text as configuration is, and what it could be squeezed to.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use selvedge_stories::{Outcome, StoryError};

use crate::rig::io;

/// What gzip adds to what it deflates: header and checksum (RFC 1952).
const FRAME: usize = 18;
/// The object of which one field changes.
const BYTES: usize = 4096;

/// Settings of 4 KB; only the value of one line depends on `turn`.
pub fn settings(turn: u32) -> String {
    let mut text = format!("limits:\n  requests: {turn}\nupstreams:\n");
    let mut number = 1_u64;
    while text.len() < BYTES {
        // Different enough from line to line, as hosts and weights are.
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (host, port, weight) = (number >> 52, 8_000 + (number >> 40) % 1_000, (number >> 33) % 100);
        let _infallible = writeln!(text, "- address: till-{host}.shop.example:{port}\n  weight: {weight}");
    }
    text.truncate(BYTES);
    text
}

/// Its size deflated as well as can be, in bytes.
pub fn gzip(text: &str) -> Outcome<usize> {
    let mut child = Command::new("gzip")
        .args(["-9", "-n", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(io("start gzip"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(text.as_bytes()).map_err(io("write to gzip"))?;
    }
    let output = child.wait_with_output().map_err(io("wait for gzip"))?;
    output.stdout.len().checked_sub(FRAME).filter(|size| *size > 0).ok_or_else(|| StoryError::Unexpected {
        what: "gzip squeezes a text".into(),
        found: output.status.to_string(),
    })
}
