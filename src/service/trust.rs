//! The block that the operator says must be on the chain.

use crate::ids::{Hash, Height};
use crate::store::{Store, StoreError};

/// State of the trusted block in a store. Each but the first says why in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The stored block has this hash.
    Holds,
    /// The stored block has another hash.
    Differs(String),
    /// The store does not reach that height yet.
    NotReached(String),
    /// The store does not hold that height any more, or never will.
    Unknown(String),
}

impl Trust {
    /// State of a trusted block, when there is one; a store that fails is unknown.
    pub(super) fn told(store: &dyn Store, trust: Option<(Height, Hash)>) -> Option<Self> {
        let told = Trust::of(store, trust?);
        Some(told.unwrap_or_else(|e| Trust::Unknown(e.to_string())))
    }

    /// Compares the block at a height with a hash.
    ///
    /// # Errors
    /// When the store fails.
    pub fn of(store: &dyn Store, (height, hash): (Height, Hash)) -> Result<Self, StoreError> {
        let span = store.span()?;
        let state = store.state()?;
        let initial = state.as_ref().map_or(Height::ZERO, |s| s.initial_height);
        // Not an error: a wrong height in a setting must not make the home useless.
        if height < initial {
            return Ok(Trust::Unknown(format!(
                "whether the block of --trust is on the chain cannot be told: height {height} is below the chain's first, {initial}"
            )));
        }
        let at = |h: Height| state.as_ref().is_some_and(|s| s.last_height == h);
        let stored = match store.header(height)? {
            Some((_, id)) => Some(id),
            // A state without its blocks, as state sync leaves it.
            None if at(height) => state.as_ref().map(|s| s.last_block_id),
            // Of a block that is not stored the header above it, if that is, has the id.
            None => store
                .header(height.next())?
                .map(|(above, _)| above.last_block_id),
        };
        if let Some(id) = stored {
            return Ok(if id.hash == Some(hash) {
                Trust::Holds
            } else {
                Trust::Differs(format!(
                    "block {height}: --trust expects hash {hash}, the certified block is {id}"
                ))
            });
        }
        let applied = state.as_ref().map_or(Height::ZERO, |s| s.last_height);
        Ok(if height > applied {
            Trust::NotReached(format!(
                "whether this is the trusted chain cannot be told yet: the block of --trust is {height}, the home is at height {applied}"
            ))
        } else {
            Trust::Unknown(format!(
                "whether the block of --trust is on the chain cannot be told any more: block {height} is pruned, the home begins with {}",
                span.base
            ))
        })
    }
}
