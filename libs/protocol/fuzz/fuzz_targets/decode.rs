//! Any bytes as any message: an answer, no panic, and no memory beyond the limit. The first byte says which
//! message.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/wire/roots.rs"]
#[allow(dead_code)]
mod roots;

fuzz_target!(|data: &[u8]| {
    let Some((which, frame)) = data.split_first() else { return };
    let root = roots::ROOTS[usize::from(*which) % roots::ROOTS.len()];
    if let Ok(understood) = (root.recode)(frame.to_vec().into()) {
        assert!((root.decode)(understood.into()), "{} is not understood again", root.name);
    }
});
