//! Differences between protocol versions that decide validity, as data chosen by height
//! (`design.md` 5; `versions.md` 2 and 4).

use std::fmt;
use std::sync::Arc;

use super::abci::AbciVersion;
use super::commit::VoteForm;
use super::evidence::ValidatorForm;
use super::key::{Ed25519Rule, KeyType};
use crate::ids::Height;

/// The rules of one range of heights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rules {
    /// As a person names them: `comet-0.38`.
    pub name: &'static str,
    /// The rule by which ed25519 signatures are judged.
    pub ed25519: Ed25519Rule,
    /// The longest signature that a commit may hold, in bytes, whatever its validator's key.
    pub max_signature_len: usize,
    /// The form of votes in commits and evidence.
    pub votes: VoteForm,
    /// Whether the full check wants each entry of a commit to name the validator of its index.
    /// Signatures do not cover the address.
    pub addresses_are_checked: bool,
    /// Whether the light check, which evidence of attacks is held to, wants it too.
    pub light_addresses_are_checked: bool,
    /// Whether precommits for nil count in the block time.
    pub nil_votes_count_in_time: bool,
    /// Whether an entry by a stranger is left out of the block time; otherwise the block is
    /// refused.
    pub strangers_are_skipped_in_time: bool,
    /// Whether the first block may be later than the genesis time.
    pub first_block_may_be_late: bool,
    /// Whether a block from the future is held back.
    pub clock_is_checked: bool,
    /// Whether votes for nil count in evidence of an attack on light clients: toward the two thirds
    /// of the conflicting commit, and as one of two votes of an equivocation.
    pub nil_votes_count_in_attacks: bool,
    /// Whether the address of a validator to blame must be its key's.
    pub blamed_keys_are_checked: bool,
    /// The form of validators in evidence, which decides the block's bytes.
    pub validator_form: ValidatorForm,
    /// The checks of an extended commit that comes with a block.
    pub extended_commits: ExtendedCommits,
    /// Whether a validator may only be removed while the params allow its key type.
    pub removals_need_allowed_type: bool,
    /// The spelling of params in genesis and in the application's calls, and their limits.
    pub params: ParamsForm,
    /// The ABCI that the application of these heights speaks.
    pub abci: AbciVersion,
}

/// The checks of an extended commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExtendedCommits {
    /// Everything; the supplier of a wrong one has skipped the check that its version makes.
    Verified,
    /// Everything; but peers of this version hand out what they never verified, so the supplier of
    /// a wrong one is not banned.
    VerifiedByUs,
    /// The shape alone: entries for the block have an extension signature, and others have neither
    /// signature nor extension. That is all that 1.0 itself looks at while it syncs.
    Shape,
}

/// Consensus params of a version: their groups, names, defaults and limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ParamsForm {
    /// The groups beside block, evidence, validator and version.
    pub groups: ParamsGroups,
    /// The name of the application's version in genesis.
    pub app_version_key: &'static str,
    /// Whether genesis must have `block.time_iota_ms` above 0.
    pub time_iota_is_required: bool,
    /// Whether `InitChain` has the version group.
    pub version_is_sent: bool,
    /// Whether `block.max_bytes` may be −1.
    pub block_may_be_unlimited: bool,
    /// `block.max_bytes` of a genesis without params.
    pub default_max_bytes: i64,
    /// `block.max_gas` of a genesis without params.
    pub default_max_gas: i64,
    /// Whether the time of every block must be its proposer's.
    pub pbts_is_required: bool,
    /// Whether a change of params may name the height of vote extensions; otherwise it switches
    /// them off.
    pub extensions_can_be_set: bool,
    /// Whether an application may give a key in its compressed form.
    pub keys_may_be_compressed: bool,
    /// The types of keys that there are.
    pub key_types: &'static [KeyType],
}

/// The groups of params that not all versions have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParamsGroups {
    /// None.
    Common,
    /// `abci`, with the height of vote extensions.
    Abci,
    /// `abci` and `authority`.
    Authority,
    /// `synchrony` and `feature`; the height of vote extensions is in the latter.
    Features,
}

/// CometBFT 0.38, by whose differences the others are told.
const BASE: Rules = Rules {
    name: "comet-0.38",
    ed25519: Ed25519Rule::Zip215,
    max_signature_len: 3309,
    votes: VoteForm::Timed,
    addresses_are_checked: true,
    light_addresses_are_checked: true,
    nil_votes_count_in_time: true,
    strangers_are_skipped_in_time: false,
    first_block_may_be_late: false,
    clock_is_checked: true,
    nil_votes_count_in_attacks: false,
    blamed_keys_are_checked: true,
    validator_form: ValidatorForm::Key,
    extended_commits: ExtendedCommits::Verified,
    removals_need_allowed_type: false,
    params: ParamsForm {
        groups: ParamsGroups::Abci,
        app_version_key: "app",
        time_iota_is_required: false,
        version_is_sent: true,
        block_may_be_unlimited: true,
        default_max_bytes: 22_020_096,
        default_max_gas: -1,
        pbts_is_required: false,
        extensions_can_be_set: true,
        keys_may_be_compressed: false,
        key_types: &[KeyType::Ed25519, KeyType::Secp256k1, KeyType::MlDsa65],
    },
    abci: AbciVersion::V038,
};

impl Rules {
    /// CometBFT and Tendermint Core 0.34.
    pub const COMET_034: Rules = Rules {
        name: "comet-0.34",
        addresses_are_checked: false,
        strangers_are_skipped_in_time: true,
        blamed_keys_are_checked: false,
        params: ParamsForm {
            app_version_key: "app_version",
            time_iota_is_required: true,
            version_is_sent: false,
            ..Rules::COMET_037.params
        },
        abci: AbciVersion::V034,
        ..Rules::COMET_037
    };
    /// CometBFT 0.37.
    pub const COMET_037: Rules = Rules {
        name: "comet-0.37",
        ed25519: Ed25519Rule::Cofactorless,
        max_signature_len: 64,
        light_addresses_are_checked: false,
        clock_is_checked: false,
        nil_votes_count_in_attacks: true,
        params: ParamsForm {
            groups: ParamsGroups::Common,
            block_may_be_unlimited: false,
            key_types: &[KeyType::Ed25519, KeyType::Secp256k1],
            ..BASE.params
        },
        abci: AbciVersion::V037,
        ..BASE
    };
    /// CometBFT 0.38, from 0.38.22 on; with the keys of 0.38.26.
    pub const COMET_038: Rules = BASE;
    /// CometBFT 0.39: the params have an authority, which `InitChain` always names (`protocol.md`
    /// 5.1).
    pub const COMET_039: Rules = Rules {
        name: "comet-0.39",
        max_signature_len: 96,
        params: ParamsForm {
            groups: ParamsGroups::Authority,
            key_types: &[KeyType::Ed25519, KeyType::Secp256k1, KeyType::Bls12381],
            ..BASE.params
        },
        ..BASE
    };
    /// CometBFT 0.40: votes for nil do not count in the block time (`protocol.md` 5.10).
    pub const COMET_040: Rules = Rules {
        name: "comet-0.40",
        max_signature_len: 3309,
        nil_votes_count_in_time: false,
        params: ParamsForm {
            key_types: &KeyType::ALL,
            default_max_bytes: 55_600_190,
            ..Rules::COMET_039.params
        },
        ..Rules::COMET_039
    };
    /// CometBFT 1.0, with vote extensions verified, which 1.0 itself leaves out while it syncs
    /// (`versions.md` 2).
    pub const COMET_100: Rules = Rules {
        name: "comet-1.0",
        max_signature_len: 96,
        addresses_are_checked: false,
        light_addresses_are_checked: false,
        strangers_are_skipped_in_time: true,
        first_block_may_be_late: true,
        clock_is_checked: false,
        blamed_keys_are_checked: false,
        validator_form: ValidatorForm::BytesAndType,
        extended_commits: ExtendedCommits::VerifiedByUs,
        removals_need_allowed_type: true,
        params: ParamsForm {
            groups: ParamsGroups::Features,
            default_max_bytes: 4_194_304,
            default_max_gas: 10_000_000,
            key_types: Rules::COMET_039.params.key_types,
            ..BASE.params
        },
        abci: AbciVersion::V100,
        ..BASE
    };
    /// CometBFT 1.0 to the letter: extended commits are taken unverified.
    pub const COMET_100_UNVERIFIED: Rules = Rules {
        name: "comet-1.0-unverified-extensions",
        extended_commits: ExtendedCommits::Shape,
        ..Rules::COMET_100
    };
    /// Berachain's fork of 1.0: BLS keys, votes without time, one signature for all of a commit's
    /// votes (`versions.md` 1.10).
    pub const BERA_100: Rules = Rules {
        name: "bera-1.0",
        votes: VoteForm::Aggregated,
        addresses_are_checked: true,
        params: ParamsForm {
            pbts_is_required: true,
            extensions_can_be_set: false,
            keys_may_be_compressed: true,
            key_types: &[KeyType::Bls12381],
            ..Rules::COMET_100.params
        },
        ..Rules::COMET_100
    };
    /// All that are known.
    pub const ALL: [Rules; 8] = [
        Rules::COMET_034,
        Rules::COMET_037,
        Rules::COMET_038,
        Rules::COMET_039,
        Rules::COMET_040,
        Rules::COMET_100,
        Rules::COMET_100_UNVERIFIED,
        Rules::BERA_100,
    ];

    fn named(name: &str) -> Result<Rules, RulesError> {
        let found = Rules::ALL.into_iter().find(|rules| rules.name == name);
        let rules = found.ok_or_else(|| RulesError::Unknown(name.to_owned()))?;
        // Rules all of whose keys this build leaves out cannot be followed.
        let missing = |kind: &KeyType| kind.missing_feature();
        let mut features = rules.params.key_types.iter().map(missing);
        match features.next() {
            Some(Some(feature)) if features.all(|missing| missing.is_some()) => {
                Err(RulesError::NotBuilt {
                    rules: rules.name,
                    feature,
                })
            }
            _ => Ok(rules),
        }
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
    /// Rules that this build leaves out.
    #[error(
        "rules {rules}: this build cannot verify their keys; build blocksync with the feature `{feature}`"
    )]
    NotBuilt {
        /// Their name.
        rules: &'static str,
        /// The feature to build with.
        feature: &'static str,
    },
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
    from: Arc<[(Height, Rules)]>,
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
            // Signed, so that a negative height is refused as malformed and
            // not as some large number.
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
        Ok(RuleSchedule { from: from.into() })
    }

    /// All rules that hold at some height, ascending.
    pub fn iter(&self) -> impl Iterator<Item = &Rules> {
        self.from.iter().map(|(_, rules)| rules)
    }

    /// The rules of a commit for a height: those of the block above, which carries it.
    #[must_use]
    pub fn of_commit(&self, height: Height) -> &Rules {
        self.at(height.next())
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
            from: [(Height::new(1), rules)].into(),
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
        if let [(_, rules)] = self.from.as_ref() {
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
        let list = "1:comet-0.34,5200791:comet-0.37,7000000:comet-1.0-unverified-extensions";
        let built = |rules: &Rules| *rules != Rules::BERA_100 || cfg!(feature = "bls");
        let names = Rules::ALL.into_iter().filter(built).map(|rules| rules.name);
        for text in names.chain([list]) {
            let schedule = RuleSchedule::parse(text).unwrap();
            assert_eq!(schedule.to_string(), text);
        }
        let single = RuleSchedule::parse("1:comet-0.40").unwrap();
        assert_eq!(single, Rules::COMET_040.into());
    }

    #[test]
    fn errors_say_what_is_known() {
        let known = "known are comet-0.34, comet-0.37, comet-0.38, comet-0.39, comet-0.40, comet-1.0, \
                     comet-1.0-unverified-extensions, bera-1.0";
        assert_eq!(
            error("comet-9"),
            format!("unknown rules \"comet-9\"; {known}")
        );
        assert_eq!(error(""), format!("unknown rules \"\"; {known}"));
        assert_eq!(error("1:x"), format!("unknown rules \"x\"; {known}"));
        if cfg!(not(feature = "bls")) {
            assert_eq!(
                error("bera-1.0"),
                "rules bera-1.0: this build cannot verify their keys; build blocksync with the feature `bls`"
            );
        }
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
