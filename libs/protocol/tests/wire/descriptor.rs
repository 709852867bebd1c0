//! The protos as data: to render messages, to find what has no golden, and to play a later version.

use std::sync::LazyLock;

use protox::prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use protox::prost_reflect::prost_types::{FieldDescriptorProto, FileDescriptorSet};
use protox::prost_reflect::text_format::FormatOptions;
use protox::prost_reflect::{DescriptorPool, DynamicMessage, Value};

/// Number and name of a field that every message of a later version has.
pub const LATER: u32 = 1000;

static SET: LazyLock<FileDescriptorSet> = LazyLock::new(|| {
    let proto = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
    protox::compile(["agent.proto", "controller.proto", "join.proto"], [proto]).unwrap()
});

/// The protos as they are.
pub static PROTOS: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::from_file_descriptor_set(SET.clone()).unwrap());

/// The protos as a later version may have them: one field more in every message.
static LATER_PROTOS: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let mut set = SET.clone();
    for message in set.file.iter_mut().flat_map(|file| &mut file.message_type) {
        message.field.push(FieldDescriptorProto {
            name: Some("later".into()),
            number: Some(LATER.cast_signed()),
            label: Some(Label::Optional.into()),
            r#type: Some(Type::String.into()),
            ..FieldDescriptorProto::default()
        });
    }
    DescriptorPool::from_file_descriptor_set(set).unwrap()
});

/// A message as data.
pub fn dynamic(message: &str, bytes: &[u8]) -> DynamicMessage {
    decode(&PROTOS, message, bytes)
}

/// Its meaning, for people. What the protos do not know is shown by number.
pub fn text(message: &DynamicMessage) -> String {
    let options = FormatOptions::new().pretty(true).skip_unknown_fields(false);
    message.to_text_format_with_options(&options)
}

/// The same message as a later version says it: with a field in it, and in every message inside it, that this
/// version does not know.
pub fn of_later(message: &str, bytes: &[u8]) -> Vec<u8> {
    use protox::prost::Message as _;
    let mut message = decode(&LATER_PROTOS, message, bytes);
    add_later(&mut message);
    message.encode_to_vec()
}

fn decode(pool: &DescriptorPool, message: &str, bytes: &[u8]) -> DynamicMessage {
    let descriptor =
        pool.get_message_by_name(message).unwrap_or_else(|| panic!("{message}: removed from the protos"));
    DynamicMessage::decode(descriptor, bytes).unwrap_or_else(|error| panic!("{message}: {error}"))
}

fn add_later(message: &mut DynamicMessage) {
    for (_, value) in message.fields_mut() {
        match value {
            Value::Message(inner) => add_later(inner),
            Value::List(list) => list.iter_mut().filter_map(Value::as_message_mut).for_each(add_later),
            _ => {}
        }
    }
    message.set_field_by_number(LATER, Value::String("of a later version".into()));
}
