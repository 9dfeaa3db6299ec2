//! Differences between protocol versions that decide validity, as data chosen by height
//! (`design.md` 5).

use std::fmt;

use crate::ids::Height;

/// The rules of one range of heights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rules {
    /// As a person names them: `comet-0.38`.
    pub name: &'static str,
    /// Whether precommits for nil count in the block time (0.34 to 0.39) or not (0.40).
    pub nil_votes_count_in_time: bool,
    /// Whether `InitChain` names the params' authority, empty or not (from 0.39 on).
    pub params_have_authority: bool,
}

impl Rules {
    /// CometBFT 0.38, which are also those of 0.34 and 0.37.
    pub const COMET_038: Rules = Rules {
        name: "comet-0.38",
        nil_votes_count_in_time: true,
        params_have_authority: false,
    };
    /// CometBFT 0.39: the params have an authority, which `InitChain` always names (`protocol.md`
    /// 5.1).
    pub const COMET_039: Rules = Rules {
        name: "comet-0.39",
        params_have_authority: true,
        ..Rules::COMET_038
    };
    /// CometBFT 0.40: votes for nil do not count in the block time (`protocol.md` 5.10).
    pub const COMET_040: Rules = Rules {
        name: "comet-0.40",
        nil_votes_count_in_time: false,
        ..Rules::COMET_039
    };
    /// All that are known.
    pub const ALL: [Rules; 3] = [Rules::COMET_038, Rules::COMET_039, Rules::COMET_040];

    fn named(name: &str) -> Result<Rules, RulesError> {
        let found = Rules::ALL.into_iter().find(|rules| rules.name == name);
        found.ok_or_else(|| RulesError::Unknown(name.to_owned()))
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Why a setting is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RulesError {
    /// No such rules.
    #[error(
        "unknown rules \"{0}\"; known are {known}",
        known = Rules::ALL.map(|rules| rules.name).join(", ")
    )]
    Unknown(String),
    /// An entry that is not HEIGHT:RULES.
    #[error(
        "\"{0}\" in the list of rules: expected HEIGHT:RULES, as in 1:comet-0.38,4000000:comet-0.40"
    )]
    Malformed(String),
    /// The first entry leaves heights without rules.
    #[error("the list of rules begins at height {0}, expected 1")]
    NotFromOne(Height),
    /// Heights must rise.
    #[error("the list of rules has height {then} after height {first}, expected a higher one")]
    NotAscending {
        /// The height before.
        first: Height,
        /// The one that follows.
        then: Height,
    },
}

/// Which rules hold from which height up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSchedule {
    /// Ascending; the first entry is from height 1.
    from: Vec<(Height, Rules)>,
}

impl RuleSchedule {
    /// Reads `comet-0.38`, or a list `1:comet-0.38,4000000:comet-0.40` of first heights and rules.
    /// Blanks around entries are ignored.
    ///
    /// # Errors
    /// When rules are unknown, an entry is not of that form, the first height is not 1, or heights
    /// do not rise.
    pub fn parse(text: &str) -> Result<Self, RulesError> {
        let text = text.trim();
        if !text.contains([':', ',']) {
            return Rules::named(text).map(RuleSchedule::from);
        }
        let mut from: Vec<(Height, Rules)> = Vec::new();
        for entry in text.split(',') {
            let malformed = || RulesError::Malformed(entry.trim().to_owned());
            let (height, name) = entry.split_once(':').ok_or_else(malformed)?;
            let height: i64 = height.trim().parse().map_err(|_| malformed())?;
            let then = Height::from_wire(height).ok_or_else(malformed)?;
            match from.last() {
                None if then != Height::new(1) => return Err(RulesError::NotFromOne(then)),
                Some((first, _)) if *first >= then => {
                    return Err(RulesError::NotAscending {
                        first: *first,
                        then,
                    });
                }
                _ => from.push((then, Rules::named(name.trim())?)),
            }
        }
        Ok(RuleSchedule { from })
    }

    /// The rules of a height.
    #[must_use]
    pub fn at(&self, height: Height) -> &Rules {
        let begun = self.from.partition_point(|(from, _)| *from <= height);
        // Never empty, and height 0 goes by the first.
        &self.from[begun.saturating_sub(1)].1
    }
}

impl From<Rules> for RuleSchedule {
    /// The same rules at every height.
    fn from(rules: Rules) -> Self {
        RuleSchedule {
            from: vec![(Height::new(1), rules)],
        }
    }
}

impl Default for RuleSchedule {
    /// CometBFT 0.38 at every height.
    fn default() -> Self {
        Rules::COMET_038.into()
    }
}

impl fmt::Display for RuleSchedule {
    /// Writes the form that `parse` reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [(_, rules)] = self.from.as_slice() {
            return rules.fmt(f);
        }
        for (i, (height, rules)) in self.from.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{height}:{rules}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        RuleSchedule::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn rules_change_at_their_height() {
        let schedule = RuleSchedule::parse("1:comet-0.38, 4000000:comet-0.40").unwrap();
        let name = |height| schedule.at(Height::new(height)).name;
        assert_eq!((name(0), name(1)), ("comet-0.38", "comet-0.38"));
        assert_eq!(
            (name(3_999_999), name(4_000_000)),
            ("comet-0.38", "comet-0.40")
        );
        assert_eq!(schedule.at(Height::MAX), &Rules::COMET_040);
        assert_eq!(RuleSchedule::default().at(Height::MAX), &Rules::COMET_038);
    }

    #[test]
    fn a_schedule_prints_what_it_reads() {
        for text in [
            "comet-0.38",
            "comet-0.39",
            "comet-0.40",
            "1:comet-0.38,4000000:comet-0.40",
        ] {
            let schedule = RuleSchedule::parse(text).unwrap();
            assert_eq!(schedule.to_string(), text);
        }
        let single = RuleSchedule::parse("1:comet-0.40").unwrap();
        assert_eq!(single, Rules::COMET_040.into());
    }

    #[test]
    fn errors_say_what_is_known() {
        let known = "known are comet-0.38, comet-0.39, comet-0.40";
        assert_eq!(
            error("comet-9"),
            format!("unknown rules \"comet-9\"; {known}")
        );
        assert_eq!(error(""), format!("unknown rules \"\"; {known}"));
        assert_eq!(error("1:x"), format!("unknown rules \"x\"; {known}"));
        assert_eq!(
            error("2:comet-0.38"),
            "the list of rules begins at height 2, expected 1"
        );
        assert_eq!(
            error("1:comet-0.38,5:comet-0.40,5:comet-0.38"),
            "the list of rules has height 5 after height 5, expected a higher one"
        );
        for text in [
            "comet-0.38,5:comet-0.40",
            "1:comet-0.38,",
            "-1:comet-0.38",
            "a:b",
        ] {
            assert!(error(text).contains("expected HEIGHT:RULES"), "{text}");
        }
    }
}
