//! The messages that stand alone in a frame or an HTTP body.

use bytes::Bytes;
use prost::Message;
use selvedge_protocol::{DecodeError, Weighed, agent, controller, decode, join};

/// One of them, as the shipped code decodes and encodes it.
#[derive(Clone, Copy)]
pub struct Root {
    /// Its protobuf name.
    pub name: &'static str,
    /// Decodes, and encodes what was understood.
    pub recode: fn(Bytes) -> Result<Vec<u8>, DecodeError>,
    /// Decodes, and nothing else.
    pub decode: fn(Bytes) -> bool,
}

/// All of them.
pub const ROOTS: [Root; 7] = [
    root::<agent::ToHub>("selvedge.agent.v1.ToHub"),
    root::<agent::ToAgent>("selvedge.agent.v1.ToAgent"),
    root::<controller::ToController>("selvedge.controller.v1.ToController"),
    root::<controller::ToReplica>("selvedge.controller.v1.ToReplica"),
    root::<join::JoinRequest>("selvedge.join.v1.JoinRequest"),
    root::<join::RenewRequest>("selvedge.join.v1.RenewRequest"),
    root::<join::JoinResponse>("selvedge.join.v1.JoinResponse"),
];

const fn root<M: Message + Default + Weighed>(name: &'static str) -> Root {
    Root {
        name,
        recode: |frame| Ok(decode::<M>(frame)?.encode_to_vec()),
        decode: |frame| decode::<M>(frame).is_ok(),
    }
}

/// By name.
pub fn by_name(name: &str) -> Root {
    *ROOTS
        .iter()
        .find(|root| root.name == name)
        .unwrap_or_else(|| panic!("{name} stands in no frame any more"))
}
