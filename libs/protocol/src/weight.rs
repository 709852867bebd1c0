//! What decoding a frame will allocate, found out before anything is allocated.
//!
//! In: the bytes of a frame and the [`Shape`] of its message. Out: whether its elements stay below
//! [`MAX_ELEMENT_BYTES`]. An empty row is two bytes on the wire and 170 in memory: without this a frame
//! within the size limit could cost half a gigabyte. The shapes are written by `build.rs` from the
//! descriptors, so that no field is forgotten.

use prost::encoding::{WireType, decode_key, decode_varint};

use crate::MAX_ELEMENT_BYTES;

/// A message whose frames can be weighed: every message of this crate.
pub trait Weighed {
    /// Its fields that allocate more than their own bytes.
    const SHAPE: &'static Shape;
}

/// By field number: what it adds to the weight.
#[derive(Debug)]
pub struct Shape(&'static [(u32, Part)]);

/// See [`Shape`].
#[derive(Debug)]
enum Part {
    /// A message inside its parent's memory.
    One(&'static Shape),
    /// Messages in a list; the size of one in memory.
    Many(&'static Shape, usize),
    /// Texts in a list, or pairs in a map; the size of one in memory, beside its bytes.
    Leaves(usize),
    /// Numbers in a list, one byte each on the wire when they are packed and small.
    Numbers,
}

include!(concat!(env!("OUT_DIR"), "/weights.rs"));

/// The elements of a frame take more than [`MAX_ELEMENT_BYTES`] in memory.
#[derive(Debug, PartialEq, Eq)]
pub struct TooHeavy;

/// Weighs a frame, up to the point where it is malformed: nothing behind it is decoded either.
pub fn weigh(frame: &[u8], shape: &Shape) -> Result<(), TooHeavy> {
    let mut left = MAX_ELEMENT_BYTES;
    fields(frame, shape, &mut left)
}

fn fields(mut bytes: &[u8], shape: &Shape, left: &mut usize) -> Result<(), TooHeavy> {
    while let Some((number, content)) = field(&mut bytes) {
        let part = shape.0.iter().find(|(of, _)| *of == number).map(|(_, part)| part);
        match part {
            None => {}
            Some(Part::One(inner)) => fields(content, inner, left)?,
            Some(Part::Many(inner, size)) => {
                take(left, *size)?;
                fields(content, inner, left)?;
            }
            Some(Part::Leaves(size)) => take(left, *size)?,
            Some(Part::Numbers) => take(left, size_of::<u64>() * content.len().max(1))?,
        }
    }
    Ok(())
}

fn take(left: &mut usize, size: usize) -> Result<(), TooHeavy> {
    *left = left.checked_sub(size).ok_or(TooHeavy)?;
    Ok(())
}

/// The next field: its number, and its bytes where they have a length. None at the end, or where it is malformed.
/// What is in a group is taken for fields around it, which weighs too much, never too little.
fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u32, &'a [u8])> {
    let (number, wire_type) = decode_key(bytes).ok()?;
    let content = match wire_type {
        WireType::Varint => {
            decode_varint(bytes).ok()?;
            0
        }
        WireType::StartGroup | WireType::EndGroup => 0,
        WireType::ThirtyTwoBit => 4,
        WireType::SixtyFourBit => 8,
        WireType::LengthDelimited => usize::try_from(decode_varint(bytes).ok()?).ok()?,
    };
    let (content, rest) = bytes.split_at_checked(content)?;
    *bytes = rest;
    Some((number, content))
}
