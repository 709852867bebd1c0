//! Compiles `proto/` with protox, so that no protoc is needed, and writes next to the messages what each of
//! them costs to decode (see `src/weight.rs`).

use std::fmt::Write as _;
use std::path::PathBuf;

use protox::prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let files = ["proto/agent.proto", "proto/controller.proto", "proto/join.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let set = protox::compile(files, ["proto"])?;
    let pool = DescriptorPool::from_file_descriptor_set(set.clone())?;
    let out: PathBuf = std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?.into();
    std::fs::write(out.join("weights.rs"), weights(&pool)?)?;
    // `bytes::Bytes` for entry bodies: encoded once, shared by every session that sends them.
    // Not its `Debug`: a body may be a Secret's.
    prost_build::Config::new()
        .bytes([".selvedge.agent.v1.Upsert.body"])
        .skip_debug([".selvedge.agent.v1.Upsert"])
        // The hub knows by a hash whether a report is news.
        .type_attribute(".selvedge.agent.v1.DeviceState", "#[derive(Eq, Hash)]")
        .compile_fds(set)?;
    Ok(())
}

/// One `impl Weighed` a message.
fn weights(pool: &DescriptorPool) -> Result<String, Error> {
    let mut out = String::new();
    for message in pool.all_messages().filter(|message| !message.is_map_entry()) {
        let mut parts = String::new();
        for field in message.fields() {
            if let Some(part) = part(&field)? {
                write!(parts, "({}, {part}), ", field.number())?;
            }
        }
        let name = rust_name(&message)?;
        writeln!(out, "impl Weighed for {name} {{ const SHAPE: &'static Shape = &Shape(&[{parts}]); }}")?;
    }
    Ok(out)
}

/// What a field adds to the weight; none: nothing beside its own bytes.
fn part(field: &FieldDescriptor) -> Result<Option<String>, Error> {
    Ok(match (field.kind(), field.is_list()) {
        (Kind::Message(entry), _) if field.is_map() => {
            if matches!(entry.map_entry_value_field().kind(), Kind::Message(_)) {
                return Err(format!("{}: maps of messages have no weight yet", field.full_name()).into());
            }
            // No scalar or text is larger than a String.
            Some("Part::Leaves(2 * size_of::<String>())".into())
        }
        (Kind::Message(message), true) => {
            let name = rust_name(&message)?;
            Some(format!("Part::Many(<{name} as Weighed>::SHAPE, size_of::<{name}>())"))
        }
        (Kind::Message(message), false) => {
            Some(format!("Part::One(<{} as Weighed>::SHAPE)", rust_name(&message)?))
        }
        (Kind::String | Kind::Bytes, true) => Some("Part::Leaves(size_of::<String>())".into()),
        (_, true) => Some("Part::Numbers".into()),
        (_, false) => None,
    })
}

/// `selvedge.agent.v1.Row` is `crate::agent::Row`.
fn rust_name(message: &MessageDescriptor) -> Result<String, Error> {
    let package = message.package_name();
    let room = package.strip_prefix("selvedge.").and_then(|rest| rest.strip_suffix(".v1"));
    match (room, message.parent_message()) {
        (Some(room), None) => Ok(format!("crate::{room}::{}", message.name())),
        _ => Err(format!("{}: not a top-level message of selvedge.*.v1", message.full_name()).into()),
    }
}
