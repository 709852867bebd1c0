//! Which protocol version two sides speak with each other.
//!
//! In: the lowest and highest version of each side. Out: the highest that both speak. `Hello` carries the
//! agent's range, `Welcome` what the hub has chosen; neither message changes its meaning in any version.

/// The lowest protocol version that this build speaks.
pub const PROTOCOL_MIN: u32 = 1;
/// The highest protocol version that this build speaks.
pub const PROTOCOL_MAX: u32 = 1;

/// Agrees with a peer that speaks `min` to `max`.
#[must_use]
pub fn negotiate(min: u32, max: u32) -> Option<u32> {
    highest_common((PROTOCOL_MIN, PROTOCOL_MAX), (min, max))
}

/// Whether this build speaks a version that a peer has chosen.
#[must_use]
pub fn speaks(version: u32) -> bool {
    (PROTOCOL_MIN..=PROTOCOL_MAX).contains(&version)
}

/// The highest version in both ranges, ends included. A range that begins above its end is empty.
fn highest_common(ours: (u32, u32), theirs: (u32, u32)) -> Option<u32> {
    let (lowest, highest) = (ours.0.max(theirs.0), ours.1.min(theirs.1));
    (lowest <= highest).then_some(highest)
}

#[cfg(test)]
mod tests {
    use super::{PROTOCOL_MAX, PROTOCOL_MIN, highest_common, negotiate, speaks};

    #[test]
    fn the_highest_common_version_is_agreed_on_by_both_sides_alike() {
        let cases = [
            ((1, 1), (1, 1), Some(1)),
            // Hub one release ahead, agent one release ahead, and both with history.
            ((1, 2), (1, 1), Some(1)),
            ((1, 1), (1, 2), Some(1)),
            ((2, 5), (1, 3), Some(3)),
            ((2, 5), (5, 9), Some(5)),
            ((1, 9), (3, 4), Some(4)),
            // Too old, too new, and a gap on either side.
            ((2, 5), (1, 1), None),
            ((2, 5), (6, 9), None),
            ((2, 2), (0, 0), None),
            // Ranges that make no sense agree with nobody.
            ((1, 5), (4, 2), None),
            ((1, 5), (u32::MAX, 0), None),
        ];
        for (ours, theirs, agreed) in cases {
            assert_eq!(highest_common(ours, theirs), agreed, "{ours:?} with {theirs:?}");
            assert_eq!(highest_common(theirs, ours), agreed, "{theirs:?} with {ours:?}");
        }
    }

    #[test]
    fn this_build_agrees_with_itself_and_with_its_neighbours_only() {
        assert_eq!(negotiate(PROTOCOL_MIN, PROTOCOL_MAX), Some(PROTOCOL_MAX));
        assert_eq!(negotiate(PROTOCOL_MAX, u32::MAX), Some(PROTOCOL_MAX));
        assert_eq!(negotiate(PROTOCOL_MAX + 1, u32::MAX), None, "a future that dropped us");
        assert_eq!(negotiate(0, PROTOCOL_MIN - 1), None, "a past that we dropped");
        assert!(speaks(PROTOCOL_MAX) && !speaks(PROTOCOL_MAX + 1) && !speaks(0));
    }
}
