//! One message a frame: encode, and decode within the limits of the crate.

use bytes::Bytes;
use prost::Message;

use crate::weight::{TooHeavy, Weighed, weigh};
use crate::{MAX_ELEMENT_BYTES, MAX_FRAME_BYTES};

/// Why a frame is not a message. All mean that the peer is broken, not that a race was lost.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Larger than a frame may be.
    #[error("frame of {size} bytes is larger than the limit of {MAX_FRAME_BYTES}")]
    TooLarge {
        /// Size of the frame in bytes.
        size: usize,
    },
    /// Small on the wire, large in memory: nothing but empty entries, say.
    #[error("frame of {size} bytes holds elements of more than {MAX_ELEMENT_BYTES} bytes")]
    TooDense {
        /// Size of the frame in bytes.
        size: usize,
    },
    /// Not the protobuf message that was expected here.
    #[error("frame is not a {expected}")]
    Malformed {
        /// Rust name of the expected message.
        expected: &'static str,
        /// What prost says.
        #[source]
        source: prost::DecodeError,
    },
}

/// Encodes one message.
#[must_use]
pub fn encode<M: Message>(message: &M) -> Bytes {
    message.encode_to_vec().into()
}

/// Decodes one message. `Bytes` fields of it share the frame's memory. Never holds more than
/// [`crate::MAX_DECODE_BYTES`] while it does, whatever the frame says.
///
/// # Errors
/// [`DecodeError`] when the frame is too large, too dense, or not an `M`.
pub fn decode<M: Message + Default + Weighed>(frame: Bytes) -> Result<M, DecodeError> {
    let size = frame.len();
    if size > MAX_FRAME_BYTES {
        return Err(DecodeError::TooLarge { size });
    }
    weigh(&frame, M::SHAPE).map_err(|TooHeavy| DecodeError::TooDense { size })?;
    M::decode(frame).map_err(|source| DecodeError::Malformed { expected: std::any::type_name::<M>(), source })
}
