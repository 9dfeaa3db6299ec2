//! The record of a height's execution with which a restart finds the state after it, should the
//! application have committed it when we have not: the application's response, or what the header
//! above says of it.

use bytes::Bytes;

use crate::chain::execution::results_hash;
use crate::chain::rules::ParamsGroups;
use crate::chain::state::StateError;
use crate::chain::{ChainState, Fetched, FinalizeResponse, Rules};
use crate::ids::Hash;
use crate::wire;

/// The results and the app hash that the next header names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expectation {
    /// The header is proven: what differs contradicts the chain.
    pub(super) certified: bool,
    pub(super) results_hash: Hash,
    pub(super) app_hash: Bytes,
}

/// The record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stored {
    Response(Box<FinalizeResponse>),
    Expected(Expectation),
}

/// The first byte of a stored expectation. No protobuf message begins with it: there is no wire
/// type 7.
const EXPECTED: u8 = 0x07;

impl Expectation {
    pub(super) fn encode(&self) -> Bytes {
        let head = [EXPECTED, u8::from(self.certified)];
        [&head, &self.results_hash.0[..], &self.app_hash]
            // The app hash stands last and takes the rest: it may have any length.
            .concat()
            .into()
    }

    /// In what the state after the height differs from it, as far as can be told without the
    /// header.
    pub(super) fn differs(&self, after: &ChainState) -> Option<String> {
        let found = (after.last_results_hash, &after.app_hash);
        (found != (self.results_hash, &self.app_hash)).then(|| {
            format!(
                "block {}: app_hash {} and last_results_hash {}, our application computed {} and {} after block {}",
                after.next_height(),
                hex::encode(&self.app_hash),
                self.results_hash,
                hex::encode(&after.app_hash),
                after.last_results_hash,
                after.last_height
            )
        })
    }

    /// Whether it leads from `state` to `after`, which was made of the response.
    pub(super) fn suffices(
        &self,
        state: &ChainState,
        response: &FinalizeResponse,
        after: &ChainState,
    ) -> bool {
        state.advances_unchanged(response, after, (self.results_hash, &self.app_hash))
    }
}

impl Stored {
    /// Reads the record of a height whose params have these groups.
    ///
    /// # Errors
    /// When the bytes are neither.
    pub(super) fn decode(bytes: &Bytes, groups: ParamsGroups) -> Result<Self, String> {
        if bytes.first() != Some(&EXPECTED) {
            let response = wire::convert::finalize_response_from_bytes(bytes, groups);
            let response = response.map_err(|e| e.to_string())?;
            return Ok(Stored::Response(Box::new(response)));
        }
        let hash = bytes.get(2..34).and_then(Hash::from_slice);
        let results_hash = hash.ok_or("an expectation without a hash")?;
        let app_hash = bytes.slice(34..);
        // Within the bytes: the hash behind it has been read.
        let certified = bytes[1] != 0;
        Ok(Stored::Expected(Expectation {
            certified,
            results_hash,
            app_hash,
        }))
    }

    /// The answer to expect when the block is executed once more.
    pub(super) fn into_expectation(self) -> Expectation {
        match self {
            Stored::Expected(expected) => expected,
            Stored::Response(response) => Expectation {
                // The application's own word, which no header has confirmed.
                certified: false,
                results_hash: results_hash(&response.tx_results),
                app_hash: response.app_hash,
            },
        }
    }

    /// Whether the application's hash in it is one that the chain has.
    pub(super) fn is_certified(&self) -> bool {
        matches!(self, Stored::Expected(expected) if expected.certified)
    }

    /// The state after the block for which it was stored.
    pub(super) fn advance(
        &self,
        state: &ChainState,
        block: &Fetched,
        rules: &Rules,
    ) -> Result<ChainState, StateError> {
        match self {
            Stored::Response(response) => state.advance(&block.block, block.id, response, rules),
            Stored::Expected(expected) => {
                let app_hash = expected.app_hash.clone();
                let results = (expected.results_hash, app_hash);
                state.advance_unchanged(&block.block, block.id, results, rules)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::execution::{ParamsUpdate, UpdateKey};
    use crate::chain::testkit::TestChain;
    use crate::chain::{TxResult, ValidatorUpdate};

    const RULES: &Rules = &Rules::COMET_038;
    const GROUPS: ParamsGroups = RULES.params.groups;

    fn expectation(of: &ChainState) -> Expectation {
        Expectation {
            certified: true,
            results_hash: of.last_results_hash,
            app_hash: of.app_hash.clone(),
        }
    }

    #[test]
    fn an_expectation_suffices_exactly_where_it_leads_to_the_same_state() {
        let chain = TestChain::builder(3).heights(6).txs(2, 20).build();
        let state = chain.state_after(crate::ids::Height::new(4));
        let block = &chain.blocks[4].fetched;
        let results = vec![TxResult::default(); block.block.txs.len()];
        let plain = FinalizeResponse {
            tx_results: results,
            app_hash: Bytes::from_static(b"hash"),
            ..FinalizeResponse::default()
        };
        let update = |power| ValidatorUpdate {
            key: UpdateKey::Known(state.validators.get(0).unwrap().key.clone()),
            power,
        };
        let params = |gas| FinalizeResponse {
            param_updates: Some(ParamsUpdate {
                block: Some((state.params.block_max_bytes, gas)),
                ..ParamsUpdate::default()
            }),
            ..plain.clone()
        };
        let with = |updates| FinalizeResponse {
            validator_updates: updates,
            ..plain.clone()
        };
        let same = params(state.params.block_max_gas);
        let cases = [
            (plain.clone(), true),
            (with(vec![update(7)]), false),
            (
                with(vec![update(state.validators.get(0).unwrap().power)]),
                false,
            ),
            (same.clone(), false),
            (params(77), false),
        ];
        for (response, expected) in cases {
            judge(state, block, &response, expected);
        }
        // An application that names its params with every block.
        let names = state.advance(&block.block, block.id, &same, RULES).unwrap();
        let next = &chain.blocks[5].fetched;
        let results = vec![TxResult::default(); next.block.txs.len()];
        let of_next = |response: &FinalizeResponse| FinalizeResponse {
            tx_results: results.clone(),
            ..response.clone()
        };
        judge(&names, next, &of_next(&same), true);
        judge(&names, next, &of_next(&plain), false);
        judge(&names, next, &of_next(&params(77)), false);
    }

    fn judge(state: &ChainState, block: &Fetched, response: &FinalizeResponse, expected: bool) {
        let after = state
            .advance(&block.block, block.id, response, RULES)
            .unwrap();
        let expectation = expectation(&after);
        let stored = Stored::decode(&expectation.encode(), GROUPS).unwrap();
        assert_eq!(stored, Stored::Expected(expectation.clone()));
        let found = stored.advance(state, block, RULES).unwrap();
        let same = format!("{found:?}") == format!("{after:?}");
        assert_eq!(same, expected, "{response:?}");
        assert_eq!(
            expectation.suffices(state, response, &after),
            expected,
            "{response:?}"
        );
        assert_eq!(expectation.differs(&after), None);
        let mut other = after.clone();
        other.app_hash = Bytes::from_static(b"other");
        assert!(expectation.differs(&other).is_some());
    }

    #[test]
    fn a_response_is_told_from_an_expectation() {
        let response = FinalizeResponse {
            app_hash: Bytes::from_static(&[7; 40]),
            ..FinalizeResponse::default()
        };
        let bytes = wire::convert::finalize_response_to_bytes(&response);
        assert_eq!(
            Stored::decode(&bytes, GROUPS),
            Ok(Stored::Response(Box::new(response)))
        );
        for short in [&[EXPECTED][..], &[EXPECTED, 1, 2]] {
            assert!(Stored::decode(&Bytes::copy_from_slice(short), GROUPS).is_err());
        }
    }
}
