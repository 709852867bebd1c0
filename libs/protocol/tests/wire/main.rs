//! What is on the wire: the bytes of every message stay as they were, versions that know more are understood,
//! and whatever comes is answered without a panic.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod damage;
mod decoder;
mod descriptor;
mod golden;
mod goldens;
mod roots;
mod samples;
