//! Bodies deflated on the wire (RFC 1951), each by itself: one that goes to many agents is deflated once.
//!
//! Hashes are of the JSON, and so are bodies everywhere but in a frame.

use bytes::Bytes;
use miniz_oxide::{deflate::compress_to_vec, inflate::decompress_to_vec_with_limit};

use crate::MAX_FRAME_BYTES;
use crate::agent::{Delta, Encoding};

/// What an agent of this build says in its Hello.
pub const ENCODINGS: [Encoding; 1] = [Encoding::JsonDeflate];

/// What is shorter is sent as it is: it would take memory at the hub to save little more than its frame's head.
const WORTHWHILE: usize = 256;
/// As zlib has it when nobody chooses.
const LEVEL: u8 = 6;

/// A deflated body that is none, or bodies of more than a frame's size in one delta.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the delta has a deflated body that is broken, or bodies of more than {MAX_FRAME_BYTES} bytes in all"
)]
pub struct InflateError;

/// A body, deflated; none when that saves nothing.
#[must_use]
pub fn deflated(json: &[u8]) -> Option<Bytes> {
    if json.len() < WORTHWHILE {
        return None;
    }
    let short = compress_to_vec(json, LEVEL);
    (short.len() < json.len()).then(|| short.into_boxed_slice().into())
}

/// Makes JSON of all deflated bodies of a delta. Never holds more than two frames beside it while it does.
///
/// # Errors
/// [`InflateError`]: the peer is broken, as one whose frames cannot be decoded.
pub fn inflate(delta: &mut Delta) -> Result<(), InflateError> {
    let mut left = MAX_FRAME_BYTES;
    for upsert in delta.upserts.iter_mut().filter(|upsert| upsert.encoding() == Encoding::JsonDeflate) {
        let json = decompress_to_vec_with_limit(&upsert.body, left).map_err(|_| InflateError)?;
        left -= json.len();
        upsert.body = json.into();
        upsert.set_encoding(Encoding::Json);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{InflateError, MAX_FRAME_BYTES, WORTHWHILE, deflated, inflate};
    use crate::MAX_BODY_BYTES;
    use crate::agent::{Delta, Encoding, Upsert};

    fn delta(bodies: &[Vec<u8>]) -> Delta {
        let upsert = |body: &Vec<u8>| Upsert {
            encoding: Encoding::JsonDeflate.into(),
            body: deflated(body).expect("worthwhile"),
            ..Default::default()
        };
        Delta { upserts: bodies.iter().map(upsert).collect(), ..Default::default() }
    }

    #[test]
    fn what_was_deflated_is_json_again_and_the_rest_is_left_alone() {
        let json = br#"{"properties":[{"name":"setpoint"}]}"#.repeat(100);
        let mut delta = delta(std::slice::from_ref(&json));
        assert!(delta.upserts[0].body.len() * 5 < json.len());
        let plain = Upsert { encoding: Encoding::Json.into(), body: "{}".into(), ..Default::default() };
        delta.upserts.push(plain.clone());
        assert_eq!(inflate(&mut delta), Ok(()));
        assert_eq!((&delta.upserts[0].body[..], delta.upserts[0].encoding()), (&json[..], Encoding::Json));
        assert_eq!(delta.upserts[1], plain);
    }

    #[test]
    fn what_saves_nothing_stays() {
        assert_eq!(deflated(&vec![b' '; WORTHWHILE - 1]), None);
        let noise: Vec<u8> =
            (0..WORTHWHILE as u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        assert_eq!(deflated(&noise), None);
    }

    #[test]
    fn bodies_that_would_fill_the_memory_are_not_inflated() {
        let large = || vec![b' '; MAX_BODY_BYTES];
        assert_eq!(inflate(&mut delta(&[large()])), Ok(()));
        assert_eq!(inflate(&mut delta(&[large(), large()])), Err(InflateError));
        assert_eq!(inflate(&mut delta(&[vec![b' '; MAX_FRAME_BYTES + 1]])), Err(InflateError));
        let mut broken = delta(&[large()]);
        broken.upserts[0].body = "no deflate".into();
        assert_eq!(inflate(&mut broken), Err(InflateError));
    }
}
