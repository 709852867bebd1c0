//! Whatever comes, the decoder answers: a message or an error, never a panic. What it understood of a frame
//! can be sent and understood again.

use std::sync::LazyLock;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::damage::{Damage, damaged};
use crate::golden::{self, Golden};
use crate::roots::{ROOTS, by_name};

static GOLDENS: LazyLock<Vec<((String, String), Golden)>> =
    LazyLock::new(|| golden::read().into_iter().collect());

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        any::<(u16, u8)>().prop_map(|(at, byte)| Damage::Byte(at, byte)),
        any::<u16>().prop_map(Damage::Cut),
        // As many small lengths as large ones.
        (any::<u16>(), 0..63_u32).prop_map(|(at, bits)| Damage::Length(at, 1 << bits)),
        any::<(u16, u16, u8)>().prop_map(|(from, to, times)| Damage::Again(from, to, times)),
        (any::<u16>(), vec(any::<u8>(), 0..16)).prop_map(|(at, bytes)| Damage::Between(at, bytes)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes_are_answered(bytes in vec(any::<u8>(), 0..512)) {
        for root in ROOTS {
            if let Ok(understood) = (root.recode)(bytes.clone().into()) {
                prop_assert!((root.decode)(understood.into()), "{}", root.name);
            }
        }
    }

    #[test]
    fn a_damaged_message_is_answered(which in any::<prop::sample::Index>(), damages in vec(damage(), 1..5)) {
        let ((message, _), golden) = which.get(&GOLDENS);
        let root = by_name(message);
        if let Ok(understood) = (root.recode)(damaged(golden.bytes.clone(), &damages).into()) {
            prop_assert!((root.decode)(understood.into()), "{message}");
        }
    }
}
