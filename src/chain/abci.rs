//! The versions of ABCI, by which a node speaks to its application (`versions.md` 3).

use std::fmt;
use std::str::FromStr;

/// A version of ABCI, named after the release of CometBFT that brought it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AbciVersion {
    /// ABCI 0.17, of 0.34: a block is several calls, and the length before a message is doubled.
    V034,
    /// ABCI 1.0, of 0.37: a block is several calls.
    V037,
    /// ABCI 2.0, of 0.38, 0.39 and 0.40: a block is one call.
    V038,
    /// ABCI 2.1, of 1.0: a validator's key is named by its type.
    V100,
}

/// A name that is no version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no ABCI {0:?}; there are 0.34, 0.37, 0.38 (also that of 0.39 and 0.40) and 1.0")]
pub struct UnknownAbci(String);

impl AbciVersion {
    /// Whether a block is one call, `FinalizeBlock`, whose answer has the application's hash. In
    /// earlier versions `Commit` returns it.
    #[must_use]
    pub fn has_finalize_block(self) -> bool {
        self >= AbciVersion::V038
    }

    const fn name(self) -> &'static str {
        match self {
            AbciVersion::V034 => "0.34",
            AbciVersion::V037 => "0.37",
            AbciVersion::V038 => "0.38",
            AbciVersion::V100 => "1.0",
        }
    }
}

impl FromStr for AbciVersion {
    type Err = UnknownAbci;

    fn from_str(name: &str) -> Result<Self, UnknownAbci> {
        match name {
            "0.34" => Ok(AbciVersion::V034),
            "0.37" => Ok(AbciVersion::V037),
            // 0.39 and 0.40 only added calls on the mempool's connection (`protocol.md` 7.5).
            "0.38" | "0.39" | "0.40" => Ok(AbciVersion::V038),
            "1.0" => Ok(AbciVersion::V100),
            other => Err(UnknownAbci(other.to_owned())),
        }
    }
}

impl fmt::Display for AbciVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
