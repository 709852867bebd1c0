//! Frames as a broken or hostile peer sends them: goldens with damage done to them.

/// What comes again has this many bytes at most: frames as small as those that are sent find as much, sooner.
const MOST_AGAIN: usize = 1024;

/// What is done to a frame. Places are fractions of its length, in 1/65536.
#[derive(Clone, Debug)]
pub enum Damage {
    /// Another byte.
    Byte(u16, u8),
    /// Only the front is sent.
    Cut(u16),
    /// A length of up to 2^63 stands here.
    Length(u16, u64),
    /// A part comes again, so many times.
    Again(u16, u16, u8),
    /// Something comes between.
    Between(u16, Vec<u8>),
}

/// A frame with damage done to it, in order.
pub fn damaged(mut frame: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        let len = frame.len();
        let place = |at: u16| usize::from(at) * len / 65_536;
        match damage {
            Damage::Byte(at, byte) => {
                if let Some(place) = frame.get_mut(place(*at)) {
                    *place = *byte;
                }
            }
            Damage::Cut(at) => frame.truncate(place(*at)),
            Damage::Length(at, length) => {
                let mut varint = Vec::new();
                prost::encoding::encode_varint(*length, &mut varint);
                let at = place(*at);
                frame.splice(at..at, varint);
            }
            Damage::Again(from, to, times) => {
                let (from, to) = (place(*from.min(to)), place(*from.max(to)));
                let times = usize::from(*times).min(MOST_AGAIN / (to - from).max(1));
                let part = frame[from..to].repeat(times);
                frame.splice(to..to, part);
            }
            Damage::Between(at, bytes) => {
                let at = place(*at);
                frame.splice(at..at, bytes.iter().copied());
            }
        }
    }
    frame
}
