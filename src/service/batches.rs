//! Parts of the batches that the store commits.

use std::sync::Arc;

use crate::chain::{ChainState, Fetched};
use crate::store::{Batch, BlockRecord, SET_CHECKPOINT};

/// A proven copy as it is stored: the bytes that came.
pub(super) fn record_of(block: &Fetched) -> BlockRecord {
    BlockRecord {
        height: block.height(),
        id: block.id,
        raw: block.raw.clone(),
        ext_raw: block.ext_raw.clone(),
    }
}

/// Adds the state after a block, and what changes with it, to a batch.
pub(super) fn add_state(
    batch: &mut Batch,
    block: &Fetched,
    before: &ChainState,
    after: &Arc<ChainState>,
) {
    let above = block.height().plus(2);
    // Written where it changes, and now and then besides: reading a set never goes back far.
    let is_new = after.last_height_validators_changed == above;
    if is_new || above.get().is_multiple_of(SET_CHECKPOINT) {
        batch
            .validators
            .push((above, after.next_validators.clone()));
    }
    if after.params != before.params {
        let params = (block.height().next(), after.params.clone());
        batch.params.push(params);
    }
    for item in &block.block.evidence {
        batch.evidence.push((item.identity(), item.height()));
    }
    batch.state = Some(after.clone());
}
