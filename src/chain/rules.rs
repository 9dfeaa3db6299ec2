//! What differs between protocol versions and decides validity, as data chosen by height (`design.md` 5).

use crate::ids::Height;

/// The rules of one range of heights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rules {
    /// As a person names them: `comet-0.38`.
    pub name: &'static str,
    /// Whether precommits for nil count in the block time (0.34 to 0.39) or not (0.40).
    pub nil_votes_count_in_time: bool,
}

/// Which rules hold from which height up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSchedule {
    /// Ascending; the first entry is from height 1.
    from: Vec<(Height, Rules)>,
}
