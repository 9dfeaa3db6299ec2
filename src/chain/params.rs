//! Consensus parameters (`protocol.md` 5.1, 6.1, 6.3).

use bytes::Bytes;

use super::encode;
use super::execution::ParamsUpdate;
use super::key::{KeyError, KeyType, PublicKey};
use super::merkle;
use crate::ids::{Hash, Height};

/// The protocol's largest block, in bytes.
pub const MAX_BLOCK_BYTES: i64 = 104_857_600;
/// The most parts that a block of the largest size may have.
pub const MAX_PARTS: u32 = 1601;
/// The longest authority, in bytes.
pub const MAX_AUTHORITY_BYTES: usize = 256;

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
    /// Vote extensions are in force and may not be moved or switched off any more.
    #[error(
        "height {height}: abci.vote_extensions_enable_height cannot become {new}: it was reached at {old}"
    )]
    ExtensionsFixed {
        /// The block's height.
        height: Height,
        /// In force.
        old: i64,
        /// The given value.
        new: i64,
    },
    /// Vote extensions can only begin above the block that says so.
    #[error("height {height}: abci.vote_extensions_enable_height {new} is not above it")]
    ExtensionsInPast {
        /// The block's height.
        height: Height,
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
        }
    }
}

impl ConsensusParams {
    /// The hash that headers name: of `max_bytes` and `max_gas` alone, without a tree
    /// (`protocol.md` 5.3).
    #[must_use]
    pub fn hash(&self) -> Hash {
        let mut out = Vec::with_capacity(22);
        encode::int(1, self.block_max_bytes, &mut out);
        encode::int(2, self.block_max_gas, &mut out);
        merkle::sha256(&out)
    }

    /// Whether precommits of this height carry vote extensions.
    #[must_use]
    pub fn vote_extensions_enabled(&self, height: Height) -> bool {
        let from = self.vote_extensions_enable_height;
        from != 0 && from <= height.to_wire()
    }

    /// Whether a new validator, or one with a new power, may have a key of this type.
    #[must_use]
    pub fn allows_key_type(&self, name: &str) -> bool {
        self.pub_key_types.iter().any(|t| t == name)
    }

    /// Checks the limits (`protocol.md` 6.1).
    ///
    /// # Errors
    /// Names the first parameter that is outside of its range.
    pub fn validate(&self) -> Result<(), ParamsError> {
        let within = |name, found, ok: bool, expected: &dyn Fn() -> String| {
            let expected = || ParamsError::OutOfRange {
                name,
                found,
                expected: expected(),
            };
            if ok { Ok(()) } else { Err(expected()) }
        };
        let max = self.block_max_bytes;
        within(
            "block.max_bytes",
            max,
            max == -1 || (1..=MAX_BLOCK_BYTES).contains(&max),
            &|| format!("-1 or 1 to {MAX_BLOCK_BYTES}"),
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
        let block = if max == -1 { MAX_BLOCK_BYTES } else { max };
        let evidence = self.evidence_max_bytes;
        within(
            "evidence.max_bytes",
            evidence,
            (0..=block).contains(&evidence),
            &|| format!("0 to {block}"),
        )?;
        let from = self.vote_extensions_enable_height;
        within(
            "abci.vote_extensions_enable_height",
            from,
            from >= 0,
            &|| "0 or more".into(),
        )?;
        if self.authority.len() > MAX_AUTHORITY_BYTES {
            return Err(ParamsError::AuthorityTooLong(self.authority.len()));
        }
        if self.pub_key_types.is_empty() {
            return Err(ParamsError::NoKeyTypes);
        }
        // A type that this build leaves out may stand here: no validator need have it.
        let unknown = |t: &&String| KeyType::from_name(t).is_none();
        match self.pub_key_types.iter().find(unknown) {
            Some(name) => Err(ParamsError::KeyType(KeyError::unknown_type(name))),
            None => Ok(()),
        }
    }

    /// The params with the groups of `update` in place of their own, unchecked: what `InitChain`
    /// does (`protocol.md` 6.2).
    #[must_use]
    pub fn replaced(&self, update: &ParamsUpdate) -> Self {
        let mut next = self.clone();
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
        next
    }

    /// The params after a block at `height` whose execution returned `update` (`protocol.md` 6.3).
    ///
    /// # Errors
    /// When the result is outside of its limits, or vote extensions would begin at or below
    /// `height`, or change after they have begun.
    pub fn update(&self, update: &ParamsUpdate, height: Height) -> Result<Self, ParamsError> {
        let next = self.replaced(update);
        next.validate()?;
        let (old, new) = (
            self.vote_extensions_enable_height,
            next.vote_extensions_enable_height,
        );
        if old == new {
            return Ok(next);
        }
        if self.vote_extensions_enabled(height) {
            return Err(ParamsError::ExtensionsFixed { height, old, new });
        }
        if new != 0 && new <= height.to_wire() {
            return Err(ParamsError::ExtensionsInPast { height, new });
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::testing::{group, hash, hex, int, name, ok, params, params_update};

    #[test]
    fn hashes_and_verdicts_are_gos() {
        for case in group("params_valid") {
            let params = params(&case["params"]);
            assert_eq!(Some(params.hash()), hash(&case["params"]["hash"]));
            let verdict = params.validate();
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
            let next = params(&case["params"]).update(&update, height);
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
            params.validate().unwrap_err().to_string(),
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
        let set = before.update(&update(256), at).unwrap();
        assert_eq!(set.authority, vec![b'a'; 256]);
        // A group that is there and empty takes it away; one that is not there leaves it.
        let kept = set.update(&ParamsUpdate::default(), at).unwrap();
        assert_eq!(kept.authority, set.authority);
        assert_eq!(set.update(&update(0), at), Ok(before.clone()));
        let refused = before.update(&update(257), at).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "authority.authority has 257 bytes, expected at most 256"
        );
    }
}
