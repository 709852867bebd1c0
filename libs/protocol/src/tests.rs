use bytes::Bytes;
use proptest::prelude::*;
use selvedge_model::{EntryKey, EntryKind};

use crate::{agent, convert::ConvertError, decode, encode, proof};

#[test]
fn an_unknown_kind_is_refused_by_key() {
    let key = agent::Key { kind: 77, ..Default::default() };
    assert_eq!(EntryKey::try_from(key), Err(ConvertError::UnknownKind(77)));
}

#[test]
fn a_frame_over_the_limit_is_not_decoded() {
    let frame = Bytes::from(vec![0; crate::MAX_FRAME_BYTES + 1]);
    assert!(matches!(decode::<agent::ToHub>(frame), Err(crate::DecodeError::TooLarge { .. })));
}

#[test]
fn a_frame_of_nothing_but_empty_rows_is_not_decoded() {
    let rows = vec![agent::Row::default(); crate::MAX_ELEMENT_BYTES / size_of::<agent::Row>() + 1];
    let inventory = agent::Inventory { rows, ..Default::default() };
    let message = Some(agent::to_hub::Message::Inventory(inventory));
    let frame = encode(&agent::ToHub { message });
    assert!(frame.len() < crate::MAX_FRAME_BYTES / 10, "small on the wire: {}", frame.len());
    assert!(matches!(decode::<agent::ToHub>(frame), Err(crate::DecodeError::TooDense { .. })));
}

#[test]
fn a_body_shares_the_memory_of_its_frame() {
    let delta = agent::Delta {
        upserts: vec![agent::Upsert { body: vec![7; 4096].into(), ..Default::default() }],
        ..Default::default()
    };
    let frame = encode(&delta);
    let range = frame.as_ptr() as usize..frame.as_ptr() as usize + frame.len();
    let back: agent::Delta = decode(frame.clone()).unwrap();
    assert!(range.contains(&(back.upserts[0].body.as_ptr() as usize)));
}

#[test]
fn a_join_proof_binds_each_field() {
    let seed = [7; 32];
    let public = proof::join_public_key(&seed).unwrap();
    let message = proof::join("c1", "shop-1", b"csr");
    let signature = proof::sign_join(&seed, &message).unwrap();
    proof::verify_join(&public, &message, &signature).unwrap();
    for other in [
        proof::join("c2", "shop-1", b"csr"),
        proof::join("c1s", "hop-1", b"csr"),
        proof::join("c1", "shop-1", b"csq"),
    ] {
        proof::verify_join(&public, &other, &signature).unwrap_err();
    }
}

proptest! {
    #[test]
    fn keys_survive_the_wire(kind in 1..6i32, namespace in "[a-z]{0,8}", name in "[a-z]{1,8}", version in "[a-f0-9]{0,8}") {
        let wire = agent::Key { kind, namespace, name, version };
        let key = EntryKey::try_from(wire.clone()).unwrap();
        prop_assert!(matches!(key.kind, EntryKind::NodeSettings | EntryKind::ConfigMap | EntryKind::Secret | EntryKind::Workload | EntryKind::Device));
        prop_assert_eq!(agent::Key::from(&key), wire);
    }
}
