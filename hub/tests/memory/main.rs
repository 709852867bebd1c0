//! What the hub holds in memory, in bytes as asked of the allocator: per Device, per idle session, and for one
//! whose agent does not read. A binary of its own, because it counts all that is allocated: one test at a time.
//! With `cargo test -p selvedge-hub --test memory -- --nocapture`, lines of JSON are measures.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "it serves more tests than these")]
#[path = "../door/rig.rs"]
mod rig;

mod index;
mod session;
mod stalled;

use std::alloc::System;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cap::Cap;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// No other test allocates meanwhile.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes that are allocated now.
fn allocated() -> usize {
    ALLOCATOR.allocated()
}
