//! The way of an application's responses: some are kept in the store, and an observer is handed
//! them with their blocks.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::config::{AppliedBlock, Config, RetainResults};
use crate::chain::Fetched;
use crate::ids::Height;

/// The responses of one executor's blocks.
pub(super) struct Results {
    retain: RetainResults,
    observer: Option<mpsc::Sender<AppliedBlock>>,
    /// Executed, and not in a batch under way yet: as many as the batch has blocks.
    observed: Vec<AppliedBlock>,
}

impl Results {
    pub(super) fn new(config: &Config) -> Self {
        Results {
            retain: config.retain_results,
            observer: config.observer.clone(),
            observed: Vec::new(),
        }
    }

    /// Whether anybody wants a response: encoding one costs.
    pub(super) fn are_wanted(&self) -> bool {
        self.retain != RetainResults::None || self.observer.is_some()
    }

    /// The response as the store's batch takes it, when it is to be kept.
    pub(super) fn kept(&self, height: Height, response: &Bytes) -> Option<(Height, Bytes)> {
        (self.retain != RetainResults::None).then(|| (height, response.clone()))
    }

    /// Responses below this height go, once `last` is applied.
    pub(super) fn retained_from(&self, last: Height) -> Option<Height> {
        match self.retain {
            RetainResults::Last(blocks) => {
                Some(Height::new((last.get() + 1).saturating_sub(blocks.get())))
            }
            RetainResults::None | RetainResults::All => None,
        }
    }

    /// The block was executed: the observer gets it when it is durable.
    pub(super) fn observe(&mut self, block: &Arc<Fetched>, response: &Bytes) {
        if self.observer.is_some() {
            self.observed.push(AppliedBlock {
                block: block.clone(),
                response: response.clone(),
            });
        }
    }

    /// Blocks that go with the batch that is about to be written.
    pub(super) fn take_observed(&mut self) -> Vec<AppliedBlock> {
        std::mem::take(&mut self.observed)
    }

    /// Hands durable blocks over, and waits while the observer takes none. When the service is
    /// stopped meanwhile, it gets nothing more: there must be no gap.
    pub(super) async fn hand_over(&mut self, blocks: Vec<AppliedBlock>, stop: &CancellationToken) {
        for block in blocks {
            let Some(observer) = &self.observer else {
                return;
            };
            tokio::select! {
                biased;
                sent = observer.send(block) => {
                    if sent.is_ok() {
                        continue;
                    }
                    warn!("the observer of applied blocks is gone: it is handed no more of them");
                }
                () = stop.cancelled() => {}
            }
            // For good: after a gap it must not get the blocks that follow.
            self.observer = None;
        }
    }
}
