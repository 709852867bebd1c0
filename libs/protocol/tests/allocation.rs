//! Decoding holds no more memory than it says, whatever comes: measured with a counting allocator, so this
//! test is a process of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use bytes::Bytes;
use peak_alloc::PeakAlloc;
use protox::prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use selvedge_protocol::{MAX_DECODE_BYTES, MAX_FRAME_BYTES};

#[path = "wire/damage.rs"]
mod damage;
#[allow(dead_code, reason = "what renders is used by the goldens")]
#[path = "wire/descriptor.rs"]
mod descriptor;
#[allow(dead_code, reason = "what writes is used by the goldens")]
#[path = "wire/golden.rs"]
mod golden;
#[allow(dead_code, reason = "what encodes again is used by the goldens")]
#[path = "wire/roots.rs"]
mod roots;

use damage::{Damage, damaged};
use descriptor::PROTOS;
use roots::{ROOTS, Root};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Damaged frames: some seconds of them in a debug build.
const FRAMES: u64 = 100_000;
/// Beside what a message takes: an error with its text.
const ERROR: usize = 1024;

/// One test, so that no other takes memory meanwhile.
#[test]
fn decoding_holds_no_more_memory_than_it_says() {
    bombs();
    damages();
}

/// For each list in each message: a frame as full of its smallest elements as it can be.
fn bombs() {
    let mut lists = 0;
    for root in ROOTS {
        let message = PROTOS.get_message_by_name(root.name).unwrap();
        for path in paths(&message) {
            lists += 1;
            for content in [&[][..], &[0x0a, 0x01, b'x'], &[0x0a, 0x00]] {
                let peak = peak(&root, bomb(&path, content).into());
                assert!(peak <= MAX_DECODE_BYTES, "{}: {peak} bytes for {content:x?}", names(&path));
            }
        }
    }
    assert!(lists >= 12, "only {lists} lists found: is the walk broken?");
}

/// The ways from a message down to its lists, fields inside of lists included.
fn paths(message: &MessageDescriptor) -> Vec<Vec<FieldDescriptor>> {
    let mut all = Vec::new();
    for field in message.fields() {
        if field.is_list() || field.is_map() {
            all.push(vec![field.clone()]);
        }
        if let Kind::Message(inner) = field.kind() {
            all.extend(paths(&inner).into_iter().map(|path| [vec![field.clone()], path].concat()));
        }
    }
    all
}

/// The elements of the last list, in the messages around them.
fn bomb(path: &[FieldDescriptor], content: &[u8]) -> Vec<u8> {
    let (list, around) = path.split_last().unwrap();
    let element = delimited(list, content);
    let around: Vec<_> = around.iter().rev().collect();
    let envelope = 16 * around.len();
    let elements = element.repeat((MAX_FRAME_BYTES - envelope) / element.len());
    around.into_iter().fold(elements, |content, field| delimited(field, &content))
}

fn delimited(field: &FieldDescriptor, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_key(field.number(), prost::encoding::WireType::LengthDelimited, &mut out);
    prost::encoding::encode_varint(content.len() as u64, &mut out);
    [out, content.to_vec()].concat()
}

fn names(path: &[FieldDescriptor]) -> String {
    path.iter().map(FieldDescriptor::full_name).collect::<Vec<_>>().join(" > ")
}

fn damages() {
    let goldens: Vec<_> = golden::read().into_iter().collect();
    for seed in 0..FRAMES {
        let mut dice = Dice(seed);
        let ((message, name), golden) = &goldens[dice.below(goldens.len())];
        let damages: Vec<_> = (0..=dice.below(4)).map(|_| dice.damage()).collect();
        let frame = damaged(golden.bytes.clone(), &damages);
        let size = frame.len();
        let peak = peak(&roots::by_name(message), frame.into());
        // Far below the limit the elements are what counts: at most a few hundred bytes for each byte or two.
        let most = (size * 1024 + ERROR).min(MAX_DECODE_BYTES);
        assert!(peak <= most, "seed {seed}: {peak} bytes for {size} of {name:?} with {damages:?}");
    }
}

/// The most that decoding a frame held at once, the frame itself not counted.
fn peak(root: &Root, frame: Bytes) -> usize {
    HEAP.reset_peak_usage();
    let before = HEAP.current_usage();
    (root.decode)(frame);
    HEAP.peak_usage() - before
}

/// Splitmix64: the same frames in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, most: usize) -> usize {
        (self.roll() % most as u64) as usize
    }

    fn damage(&mut self) -> Damage {
        let (at, to) = (self.roll() as u16, self.roll() as u16);
        match self.below(5) {
            0 => Damage::Byte(at, self.roll() as u8),
            1 => Damage::Cut(at),
            2 => Damage::Length(at, 1 << self.below(63)),
            3 => Damage::Again(at, to, self.roll() as u8),
            _ => Damage::Between(at, self.roll().to_le_bytes().to_vec()),
        }
    }
}
