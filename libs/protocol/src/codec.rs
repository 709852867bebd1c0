//! One message a frame: encode, and decode within [`crate::MAX_FRAME_BYTES`].

use bytes::Bytes;
use prost::Message;

use crate::MAX_FRAME_BYTES;

/// Why a frame is not a message. Both mean that the peer is broken, not that a race was lost.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Larger than a frame may be.
    #[error("frame of {size} bytes is larger than the limit of {MAX_FRAME_BYTES}")]
    TooLarge {
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

/// Decodes one message. `Bytes` fields of it share the frame's memory.
///
/// # Errors
/// [`DecodeError`] when the frame is too large or not an `M`.
pub fn decode<M: Message + Default>(frame: Bytes) -> Result<M, DecodeError> {
    if frame.len() > MAX_FRAME_BYTES {
        return Err(DecodeError::TooLarge { size: frame.len() });
    }
    M::decode(frame).map_err(|source| DecodeError::Malformed { expected: std::any::type_name::<M>(), source })
}
