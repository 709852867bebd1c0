//! The goldens hold: what is sent has the bytes that it had, and what was sent once is understood.

use std::collections::BTreeSet;

use protox::prost_reflect::{DynamicMessage, Kind, Value};

use crate::descriptor::{PROTOS, dynamic, of_later, text};
use crate::golden::{self, Golden};
use crate::roots::by_name;
use crate::samples::samples;

#[test]
fn what_is_sent_has_the_bytes_that_it_had() {
    let update = std::env::var_os("UPDATE_GOLDENS").is_some();
    let mut goldens = golden::read();
    for sample in samples() {
        let key = (sample.message.to_owned(), sample.name.to_owned());
        let golden = goldens.remove(&key).unwrap_or_else(|| {
            assert!(update, "{key:?} has no golden: UPDATE_GOLDENS=1 adds it");
            let text = text(&dynamic(sample.message, &sample.bytes));
            let golden = Golden { text, bytes: sample.bytes.to_vec() };
            golden::add(sample.message, sample.name, &golden);
            golden
        });
        assert_eq!(
            hex(&sample.bytes),
            hex(&golden.bytes),
            "{key:?}: older peers cannot read what is sent now. A field keeps its number and its type; what is \
             new is a new field, and a new case"
        );
    }
    assert!(goldens.is_empty(), "these cases are sent no more: {:?}", goldens.keys());
}

#[test]
fn what_was_sent_once_still_means_the_same() {
    for ((message, name), golden) in golden::read() {
        let case = format!("{message}: {name}");
        assert_eq!(text(&dynamic(&message, &golden.bytes)), golden.text, "{case}");
        let recoded = (by_name(&message).recode)(golden.bytes.clone().into());
        assert_eq!(hex(&recoded.unwrap()), hex(&golden.bytes), "{case}: something of it is not understood");
    }
}

#[test]
fn what_a_later_version_adds_is_ignored() {
    for ((message, name), golden) in golden::read() {
        let later = of_later(&message, &golden.bytes);
        assert!(later.len() > golden.bytes.len());
        let recoded = (by_name(&message).recode)(later.into());
        assert_eq!(hex(&recoded.unwrap()), hex(&golden.bytes), "{message}: {name}");
        // Unknown fields of every wire type behind it, a group among them.
        let unknown = [
            0xc0, 0x3e, 0x7f, 0xc1, 0x3e, 1, 2, 3, 4, 5, 6, 7, 8, 0xc2, 0x3e, 1, 9, 0xc3, 0x3e, 0x08, 1,
            0xc4, 0x3e, 0xc5, 0x3e, 1, 2, 3, 4,
        ];
        let recoded = (by_name(&message).recode)([&*golden.bytes, &unknown].concat().into());
        assert_eq!(hex(&recoded.unwrap()), hex(&golden.bytes), "{message}: {name}");
    }
}

#[test]
fn every_field_variant_and_value_of_the_protos_has_a_golden() {
    let mut seen = BTreeSet::new();
    for ((message, _), golden) in golden::read() {
        see(&dynamic(&message, &golden.bytes), &mut seen);
    }
    let messages: Vec<_> = PROTOS.all_messages().filter(|message| !message.is_map_entry()).collect();
    // An empty message has no field; that it stands in a golden shows in the field that holds it.
    let fields =
        messages.iter().flat_map(|message| message.fields().map(|field| field.full_name().to_owned()));
    let values = PROTOS.all_enums().flat_map(|of| of.values().collect::<Vec<_>>());
    // A value of zero says that nothing was said.
    let values = values.filter(|value| value.number() != 0).map(|value| value.full_name().to_owned());
    let missing: Vec<_> = fields.chain(values).filter(|name| !seen.contains(name)).collect();
    assert!(missing.is_empty(), "in no golden; add a sample: {missing:#?}");
}

/// Notes the fields that are set in a message and in those inside it, and the values of enums.
fn see(message: &DynamicMessage, seen: &mut BTreeSet<String>) {
    for (field, value) in message.fields() {
        seen.insert(field.full_name().to_owned());
        let values = match value {
            Value::List(list) => &list[..],
            value => std::slice::from_ref(value),
        };
        for value in values {
            match (value, field.kind()) {
                (Value::Message(inner), _) => see(inner, seen),
                (Value::EnumNumber(number), Kind::Enum(of)) => {
                    seen.extend(of.get_value(*number).map(|value| value.full_name().to_owned()));
                }
                _ => {}
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
