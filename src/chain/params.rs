//! Consensus parameters (`protocol.md` 5.1, 6.1, 6.3).

use bytes::Bytes;

use super::encode;
use super::execution::ParamsUpdate;
use super::key::{KeyError, KeyType, PublicKey};
use super::merkle;
use super::rules::{ParamsForm, ParamsGroups};
use crate::ids::{Hash, Height};

/// The protocol's largest block, in bytes.
pub const MAX_BLOCK_BYTES: i64 = 104_857_600;
/// The most parts that a block of the largest size may have.
pub const MAX_PARTS: u32 = 1601;
/// The longest authority, in bytes.
pub const MAX_AUTHORITY_BYTES: usize = 256;

/// The largest `synchrony.precision` with PBTS: 30 seconds.
const MAX_PRECISION: i64 = 30_000_000_000;
/// The largest `synchrony.message_delay` with PBTS: a day.
const MAX_MESSAGE_DELAY: i64 = 86_400_000_000_000;
/// The height of vote extensions, which 1.0 has in its group `feature`.
const EXTENSIONS: &str = "vote_extensions_enable_height";
/// The height of proposer-based time stamps.
const PBTS: &str = "pbts_enable_height";

/// The parameters in force for a height.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsensusParams {
    /// Largest block in bytes; −1 is the protocol's largest.
    pub block_max_bytes: i64,
    /// Gas in a block; −1 is no limit.
    pub block_max_gas: i64,
    /// Evidence older than this many blocks, and than the duration, is expired.
    pub evidence_max_age_num_blocks: i64,
    /// Nanoseconds.
    pub evidence_max_age_duration: i64,
    /// Largest evidence list in a block, in bytes.
    pub evidence_max_bytes: i64,
    /// Names of the key types that a new validator may have.
    pub pub_key_types: Vec<String>,
    /// The application's version.
    pub version_app: u64,
    /// From this height on precommits carry vote extensions; 0 is never.
    pub vote_extensions_enable_height: i64,
    /// The account that may change params beside governance, as the application spells it. CometBFT
    /// has it from 0.39 on; empty is none.
    pub authority: Bytes,
    /// From this height on a block's time is its proposer's; 0 is never. This and the two limits
    /// are CometBFT 1.0's.
    pub pbts_enable_height: i64,
    /// The most by which validators' clocks may differ, in nanoseconds. Only proposals are held to
    /// it.
    pub synchrony_precision: i64,
    /// The longest way of a proposal, in nanoseconds. Only proposals are held to it.
    pub synchrony_message_delay: i64,
}

/// Why params are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParamsError {
    /// A number outside its range.
    #[error("{name} is {found}, expected {expected}")]
    OutOfRange {
        /// Group and name, as genesis has them.
        name: &'static str,
        /// The given value.
        found: i64,
        /// The allowed values.
        expected: String,
    },
    /// No key type at all.
    #[error("validator.pub_key_types is empty")]
    NoKeyTypes,
    /// A key type that no validator can have.
    #[error("validator.pub_key_types: {0}")]
    KeyType(KeyError),
    /// An authority that is too long.
    #[error("authority.authority has {0} bytes, expected at most {MAX_AUTHORITY_BYTES}")]
    AuthorityTooLong(usize),
    /// A key type that the version does not have.
    #[error("key type {0} does not exist under these rules, which have {1}")]
    NoSuchKeyType(&'static str, String),
    /// A feature is in force and may not be moved or switched off any more.
    #[error("height {height}: {name} cannot become {new}: it was reached at {old}")]
    Fixed {
        /// The block's height.
        height: Height,
        /// Group and name of the feature's height.
        name: &'static str,
        /// The height in force.
        old: i64,
        /// The given value.
        new: i64,
    },
    /// A feature can only begin above the block that says so.
    #[error("height {height}: {name} {new} is not above it")]
    InPast {
        /// The block's height.
        height: Height,
        /// Group and name of the feature's height.
        name: &'static str,
        /// The given value.
        new: i64,
    },
}

impl Default for ConsensusParams {
    /// CometBFT 0.38's defaults, for a genesis without params.
    fn default() -> Self {
        ConsensusParams {
            block_max_bytes: 22_020_096,
            block_max_gas: -1,
            evidence_max_age_num_blocks: 100_000,
            evidence_max_age_duration: 172_800_000_000_000, // 48 hours
            evidence_max_bytes: 1_048_576,
            pub_key_types: vec![PublicKey::ED25519.to_owned()],
            version_app: 0,
            vote_extensions_enable_height: 0,
            authority: Bytes::new(),
            pbts_enable_height: 0,
            synchrony_precision: 0,
            synchrony_message_delay: 0,
        }
    }
}

impl ConsensusParams {
    /// The params of a chain whose genesis has none.
    #[must_use]
    pub fn default_of(form: &ParamsForm) -> Self {
        let (mut precision, mut message_delay) = (0, 0);
        if form.groups == ParamsGroups::Features {
            // CometBFT 1.0's own defaults, which a genesis without params gets.
            (precision, message_delay) = (505_000_000, 15_000_000_000);
        }
        ConsensusParams {
            block_max_bytes: form.default_max_bytes,
            block_max_gas: form.default_max_gas,
            synchrony_precision: precision,
            synchrony_message_delay: message_delay,
            ..ConsensusParams::default()
        }
    }

    /// The hash that headers name: of `max_bytes` and `max_gas` alone, without a tree
    /// (`protocol.md` 5.3).
    #[must_use]
    pub fn hash(&self) -> Hash {
        let mut out = Vec::with_capacity(22);
        encode::int(1, self.block_max_bytes, &mut out);
        // Other params enter no hash, so two nodes may differ in them without noticing it here.
        encode::int(2, self.block_max_gas, &mut out);
        merkle::sha256(&out)
    }

    /// Whether precommits of this height carry vote extensions.
    #[must_use]
    pub fn vote_extensions_enabled(&self, height: Height) -> bool {
        is_reached(self.vote_extensions_enable_height, height)
    }

    /// Whether the time of this height's block is its proposer's, and not a median.
    #[must_use]
    pub fn pbts_enabled(&self, height: Height) -> bool {
        is_reached(self.pbts_enable_height, height)
    }

    /// Whether a new validator, or one with a new power, may have a key of this type.
    #[must_use]
    pub fn allows_key_type(&self, name: &str) -> bool {
        self.pub_key_types.iter().any(|t| t == name)
    }

    /// Checks the limits (`protocol.md` 6.1), as a version has them.
    ///
    /// # Errors
    /// Names the first parameter that is outside of its range.
    pub fn validate(&self, form: &ParamsForm) -> Result<(), ParamsError> {
        let max = self.block_max_bytes;
        within(
            "block.max_bytes",
            max,
            (max == -1 && form.block_may_be_unlimited) || (1..=MAX_BLOCK_BYTES).contains(&max),
            &|| {
                let or = if form.block_may_be_unlimited {
                    "-1 or "
                } else {
                    ""
                };
                format!("{or}1 to {MAX_BLOCK_BYTES}")
            },
        )?;
        let gas = self.block_max_gas;
        within("block.max_gas", gas, gas >= -1, &|| "-1 or more".into())?;
        let blocks = self.evidence_max_age_num_blocks;
        let above_zero = || "more than 0".into();
        within(
            "evidence.max_age_num_blocks",
            blocks,
            blocks > 0,
            &above_zero,
        )?;
        let age = self.evidence_max_age_duration;
        within("evidence.max_age_duration", age, age > 0, &above_zero)?;
        // Without a limit of the chain's own the one of every block holds.
        let block = if max == -1 { MAX_BLOCK_BYTES } else { max };
        let evidence = self.evidence_max_bytes;
        within(
            "evidence.max_bytes",
            evidence,
            (0..=block).contains(&evidence),
            &|| format!("0 to {block}"),
        )?;
        self.validate_features(form)?;
        if self.authority.len() > MAX_AUTHORITY_BYTES {
            return Err(ParamsError::AuthorityTooLong(self.authority.len()));
        }
        if self.pub_key_types.is_empty() {
            return Err(ParamsError::NoKeyTypes);
        }
        // A type that this build leaves out may stand here: no validator need have it.
        let unknown = |t: &&String| KeyType::from_name(t).is_none();
        if let Some(name) = self.pub_key_types.iter().find(unknown) {
            return Err(ParamsError::KeyType(KeyError::unknown_type(name)));
        }
        let mut kinds = self
            .pub_key_types
            .iter()
            .filter_map(|t| KeyType::from_name(t));
        kinds.try_for_each(|kind| check_key_type(form, kind))
    }

    /// Checks the heights of features, and what PBTS needs.
    fn validate_features(&self, form: &ParamsForm) -> Result<(), ParamsError> {
        let none_or_more = || "0 or more".into();
        for (name, from) in [
            (EXTENSIONS, self.vote_extensions_enable_height),
            (PBTS, self.pbts_enable_height),
        ] {
            within(name, from, from >= 0, &none_or_more)?;
        }
        if form.groups == ParamsGroups::Features && self.pbts_enable_height > 0 {
            for (name, found, most) in [
                (
                    "synchrony.message_delay",
                    self.synchrony_message_delay,
                    MAX_MESSAGE_DELAY,
                ),
                (
                    "synchrony.precision",
                    self.synchrony_precision,
                    MAX_PRECISION,
                ),
            ] {
                let expected = || format!("1 to {most}");
                within(name, found, (1..=most).contains(&found), &expected)?;
            }
        }
        Ok(())
    }

    /// The params with the groups of `update` in place of their own, unchecked: what `InitChain`
    /// does (`protocol.md` 6.2).
    #[must_use]
    pub fn replaced(&self, update: &ParamsUpdate) -> Self {
        let mut next = self.clone();
        // A group is replaced as a whole: of one that is there, a field that is not is zero
        // (`protocol.md` 6.3).
        if let Some((max_bytes, max_gas)) = update.block {
            next.block_max_bytes = max_bytes;
            next.block_max_gas = max_gas;
        }
        if let Some((blocks, duration, max_bytes)) = update.evidence {
            next.evidence_max_age_num_blocks = blocks;
            next.evidence_max_age_duration = duration;
            next.evidence_max_bytes = max_bytes;
        }
        if let Some(types) = &update.pub_key_types {
            // A name that is no UTF-8 is no known key type, and `validate` refuses it by that.
            let name = |t: &bytes::Bytes| String::from_utf8_lossy(t).into_owned();
            next.pub_key_types = types.iter().map(name).collect();
        }
        if let Some(app) = update.version_app {
            next.version_app = app;
        }
        if let Some(from) = update.vote_extensions_enable_height {
            next.vote_extensions_enable_height = from;
        }
        if let Some(authority) = &update.authority {
            next.authority = authority.clone();
        }
        if let Some(from) = update.pbts_enable_height {
            next.pbts_enable_height = from;
        }
        if let Some(precision) = update.synchrony_precision {
            next.synchrony_precision = precision;
        }
        if let Some(delay) = update.synchrony_message_delay {
            next.synchrony_message_delay = delay;
        }
        next
    }

    /// The params after a block at `height` whose execution returned `update` (`protocol.md` 6.3).
    ///
    /// # Errors
    /// When the result is outside of its limits, or a feature would begin at or below `height`, or
    /// change after it has begun.
    pub fn update(
        &self,
        update: &ParamsUpdate,
        height: Height,
        form: &ParamsForm,
    ) -> Result<Self, ParamsError> {
        let mut next = self.replaced(update);
        // Berachain switches extensions off by any update that names them (`versions.md` 1.10).
        if !form.extensions_can_be_set && update.vote_extensions_enable_height.is_some() {
            next.vote_extensions_enable_height = 0;
        }
        next.validate(form)?;
        let extensions = (
            self.vote_extensions_enable_height,
            next.vote_extensions_enable_height,
        );
        check_moved(EXTENSIONS, extensions, height)?;
        let pbts = (self.pbts_enable_height, next.pbts_enable_height);
        check_moved(PBTS, pbts, height)?;
        Ok(next)
    }
}

fn within(
    name: &'static str,
    found: i64,
    ok: bool,
    expected: &dyn Fn() -> String,
) -> Result<(), ParamsError> {
    if ok {
        return Ok(());
    }
    Err(ParamsError::OutOfRange {
        name,
        found,
        expected: expected(),
    })
}

/// Whether a feature that begins at a height, or at 0 never, is in force.
fn is_reached(from: i64, height: Height) -> bool {
    from != 0 && from <= height.to_wire()
}

/// A feature's height may change until it is reached, and only to one above the block.
fn check_moved(
    name: &'static str,
    (old, new): (i64, i64),
    height: Height,
) -> Result<(), ParamsError> {
    if old == new {
        Ok(())
    } else if is_reached(old, height) {
        Err(ParamsError::Fixed {
            height,
            name,
            old,
            new,
        })
    // Zero switches a feature off that has not begun; that is allowed at any height.
    } else if new != 0 && new <= height.to_wire() {
        Err(ParamsError::InPast { height, name, new })
    } else {
        Ok(())
    }
}

/// Whether a version has keys of this type.
pub(super) fn check_key_type(form: &ParamsForm, kind: KeyType) -> Result<(), ParamsError> {
    if form.key_types.contains(&kind) {
        return Ok(());
    }
    let known: Vec<_> = form.key_types.iter().map(|kind| kind.name()).collect();
    Err(ParamsError::NoSuchKeyType(kind.name(), known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::rules::Rules;
    use crate::chain::testing::{group, hash, hex, int, name, ok, params, params_update};

    const FORM: &ParamsForm = &Rules::COMET_038.params;

    #[test]
    fn hashes_and_verdicts_are_gos() {
        for case in group("params_valid") {
            let params = params(&case["params"]);
            assert_eq!(Some(params.hash()), hash(&case["params"]["hash"]));
            let verdict = params.validate(FORM);
            assert_eq!(verdict.is_ok(), ok(case), "{}: {verdict:?}", name(case));
            if name(case) == "defaults" {
                assert_eq!(params, ConsensusParams::default());
            }
        }
    }

    #[test]
    fn updates_are_gos() {
        for case in group("params_update") {
            if case["update_proto"].is_null() {
                continue; // the state's affair
            }
            let update = params_update(&hex(&case["update_proto"]));
            let height = Height::from_wire(int(&case["height"])).unwrap();
            let next = params(&case["params"]).update(&update, height, FORM);
            assert_eq!(next.is_ok(), ok(case), "{}: {next:?}", name(case));
            if let Ok(next) = next {
                assert_eq!(next, params(&case["result"]), "{}", name(case));
                assert_eq!(Some(next.hash()), hash(&case["result"]["hash"]));
            }
        }
    }

    #[test]
    fn extensions_begin_at_their_height() {
        let enabled = |from, height| {
            ConsensusParams {
                vote_extensions_enable_height: from,
                ..ConsensusParams::default()
            }
            .vote_extensions_enabled(Height::new(height))
        };
        assert!(!enabled(0, 0) && !enabled(0, 10) && !enabled(5, 4));
        assert!(enabled(5, 5) && enabled(5, 6) && enabled(1, 1));
    }

    #[test]
    fn an_error_names_what_it_found() {
        let params = ConsensusParams {
            block_max_bytes: 0,
            ..ConsensusParams::default()
        };
        assert_eq!(
            params.validate(FORM).unwrap_err().to_string(),
            "block.max_bytes is 0, expected -1 or 1 to 104857600"
        );
    }

    #[test]
    fn an_update_sets_the_authority_and_holds_it_to_its_length() {
        let update = |length| ParamsUpdate {
            authority: Some(vec![b'a'; length].into()),
            ..ParamsUpdate::default()
        };
        let before = ConsensusParams::default();
        let at = Height::new(5);
        let set = before.update(&update(256), at, FORM).unwrap();
        assert_eq!(set.authority, vec![b'a'; 256]);
        // A group that is there and empty takes it away; one that is not there leaves it.
        let kept = set.update(&ParamsUpdate::default(), at, FORM).unwrap();
        assert_eq!(kept.authority, set.authority);
        assert_eq!(set.update(&update(0), at, FORM), Ok(before.clone()));
        let refused = before.update(&update(257), at, FORM).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "authority.authority has 257 bytes, expected at most 256"
        );
    }
}
