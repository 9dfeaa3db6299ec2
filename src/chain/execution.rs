//! Requests to the application for a block, and its answers (`protocol.md` 6.3, 7.2, 7.4).

use bytes::Bytes;

use super::block::Block;
use super::commit::{BlockIdFlag, Commit};
use super::encode;
use super::evidence::{Evidence, Misbehavior};
use super::header::Header;
use super::key::{KeyType, PublicKey};
use super::merkle::{self, Tree};
use super::time::Time;
use super::validators::ValidatorSet;
use crate::ids::{Address, BlockId, Hash, Height};

/// The commit of the block before, for the application: every validator of that height, in set
/// order, absent ones included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitInfo {
    /// The round of the last commit.
    pub round: i32,
    /// Address, power, and what the validator did.
    pub votes: Vec<(Address, i64, BlockIdFlag)>,
}

/// `FinalizeBlock`'s request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinalizeBlock {
    /// Transactions in order.
    pub txs: Vec<Bytes>,
    /// The commit of the block before.
    pub decided_last_commit: CommitInfo,
    /// Offenders, in block order.
    pub misbehavior: Vec<Misbehavior>,
    /// The block's hash.
    pub hash: Hash,
    /// The block's height.
    pub height: Height,
    /// The block's time.
    pub time: Time,
    /// The next validators' hash in the block's header.
    pub next_validators_hash: Option<Hash>,
    /// The proposer in the block's header.
    pub proposer_address: Address,
    /// The whole header, which ABCI before 2.0 hands over.
    pub header: Option<Box<Header>>,
    /// The highest height that a peer has told of, or the block's own: ABCI 2.1 tells the
    /// application how far there is to go.
    pub syncing_to: Height,
}

/// The parts of a transaction's result that enter `last_results_hash`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxResult {
    /// 0 is success.
    pub code: u32,
    /// The result.
    pub data: Bytes,
    /// Gas asked for.
    pub gas_wanted: i64,
    /// Gas used.
    pub gas_used: i64,
}

/// A validator's new power; 0 removes it. The key is checked when the update is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatorUpdate {
    /// The key; an unsupported or malformed one is named in the error when the update is applied.
    pub key: UpdateKey,
    /// New power.
    pub power: i64,
}

/// A key as an application gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UpdateKey {
    /// A key of a known type and of that type's length.
    Known(PublicKey),
    /// Type and bytes of a key of a known type that this build cannot use.
    Invalid(KeyType, Bytes),
    /// The name of a type that no validator can have.
    Unsupported(String),
}

impl UpdateKey {
    /// A key of the type with this name in params.
    #[must_use]
    pub fn new(type_name: &str, bytes: Bytes) -> Self {
        match KeyType::from_name(type_name) {
            Some(kind) => Self::of_type(kind, bytes),
            None => UpdateKey::Unsupported(type_name.to_owned()),
        }
    }

    /// A key of this type.
    #[must_use]
    pub fn of_type(kind: KeyType, bytes: Bytes) -> Self {
        match PublicKey::new(kind, &bytes) {
            Ok(key) => UpdateKey::Known(key),
            // Kept with its bytes: a build with the type, or rules with a shorter
            // form, may still take it.
            Err(_) => UpdateKey::Invalid(kind, bytes),
        }
    }
}

/// A change of consensus params: groups that are present replace the whole group (`protocol.md`
/// 6.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParamsUpdate {
    /// max_bytes, max_gas.
    pub block: Option<(i64, i64)>,
    /// max_age_num_blocks, max_age_duration in nanoseconds, max_bytes.
    pub evidence: Option<(i64, i64, i64)>,
    /// Names as bytes.
    pub pub_key_types: Option<Vec<Bytes>>,
    /// app.
    pub version_app: Option<u64>,
    /// vote_extensions_enable_height.
    pub vote_extensions_enable_height: Option<i64>,
    /// authority.
    pub authority: Option<Bytes>,
    /// pbts_enable_height. Of 1.0's groups `feature` and `synchrony` the members are replaced one
    /// by one.
    pub pbts_enable_height: Option<i64>,
    /// precision in nanoseconds.
    pub synchrony_precision: Option<i64>,
    /// message_delay in nanoseconds.
    pub synchrony_message_delay: Option<i64>,
}

/// `FinalizeBlock`'s response: what block sync uses of it, and the whole as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FinalizeResponse {
    /// One for each transaction.
    pub tx_results: Vec<TxResult>,
    /// Changes to the validator set, in force two heights up.
    pub validator_updates: Vec<ValidatorUpdate>,
    /// Changes to the params, in force from the next height; `Some` of nothing still sets the
    /// application's version.
    pub param_updates: Option<ParamsUpdate>,
    /// The application's hash after the block.
    pub app_hash: Bytes,
    /// Whether only `Commit` gives the application's hash, as before ABCI 2.0: `app_hash` is empty
    /// then.
    pub app_hash_is_late: bool,
    /// The encoded response as it came from the application, with events and logs; `None` when
    /// nothing but the above is known of it.
    pub encoded: Option<Bytes>,
}

impl TxResult {
    /// The leaf of the results hash, without its 0x00.
    fn encode(&self, out: &mut Vec<u8>) {
        encode::uint(1, u64::from(self.code), out);
        encode::bytes(2, &self.data, out);
        encode::int(5, self.gas_wanted, out);
        encode::int(6, self.gas_used, out);
    }
}

/// Root over transaction results: what the next header names as `last_results_hash` (`protocol.md`
/// 5.3).
#[must_use]
pub fn results_hash(results: &[TxResult]) -> Hash {
    let mut tree = Tree::new();
    let mut leaf = Vec::new();
    // Most results equal the one before: they are "it went well".
    for same in results.chunk_by(|a, b| a == b) {
        leaf.clear();
        leaf.push(0);
        same[0].encode(&mut leaf);
        let hash = merkle::prefixed_leaf_hash(&leaf);
        same.iter().for_each(|_| tree.push(hash));
    }
    tree.root()
}

/// Why no request can be made of a block. A block that has been held against the state never meets
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The last commit does not belong to the set.
    #[error("commit for height {height} has {found} entries, its validator set {expected} members")]
    CommitSize {
        /// The commit's height.
        height: Height,
        /// Members of the set.
        expected: usize,
        /// Entries of the commit.
        found: usize,
    },
    /// The set that signed the last commit was not given.
    #[error("the validator set of height {0} is not known")]
    NoSet(Height),
    /// The id names no header hash.
    #[error("block at height {0} has no hash")]
    NoHash(Height),
}

impl CommitInfo {
    /// CommitInfo of the last commit: an entry for each member of the set that signed it. Nothing
    /// for the block at the chain's initial height (`protocol.md` 7.4).
    ///
    /// # Errors
    /// When the commit has another size than the set, or there is no set though the block is not
    /// the initial one.
    pub fn build(
        last_commit: &Commit,
        last_validators: Option<&ValidatorSet>,
        initial: bool,
    ) -> Result<Self, RequestError> {
        // The first block's last commit is empty, and CometBFT sends an empty `CommitInfo` with it.
        if initial {
            return Ok(CommitInfo::default());
        }
        let height = last_commit.height;
        let set = last_validators.ok_or(RequestError::NoSet(height))?;
        if set.len() != last_commit.signatures.len() {
            return Err(RequestError::CommitSize {
                height,
                expected: set.len(),
                found: last_commit.signatures.len(),
            });
        }
        let entries = set.iter().zip(&last_commit.signatures);
        Ok(CommitInfo {
            round: last_commit.round,
            votes: entries
                .map(|(v, sig)| (v.address, v.power, sig.flag))
                .collect(),
        })
    }
}

impl FinalizeBlock {
    /// The request for a block with this id. `last_validators` is the set that signed its last
    /// commit (`protocol.md` 7.4).
    ///
    /// # Errors
    /// As for `CommitInfo::build`, and when the id names no header hash.
    pub fn from_block(
        block: &Block,
        id: BlockId,
        last_validators: Option<&ValidatorSet>,
        initial_height: Height,
    ) -> Result<Self, RequestError> {
        let header = &block.header;
        Ok(FinalizeBlock {
            txs: block.txs.iter().collect(),
            decided_last_commit: CommitInfo::build(
                &block.last_commit,
                last_validators,
                header.height == initial_height,
            )?,
            misbehavior: block
                .evidence
                .iter()
                .flat_map(Evidence::misbehavior)
                .collect(),
            hash: id.hash.ok_or(RequestError::NoHash(header.height))?,
            height: header.height,
            time: header.time,
            next_validators_hash: header.next_validators_hash,
            proposer_address: header.proposer_address,
            header: Some(Box::new(header.clone())),
            // A caller that knows of a higher one puts it here.
            syncing_to: header.height,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::testing::{
        commit, empty_block, group, hash, hex, int, list, name, ok, text, validators,
    };

    #[test]
    fn results_hashes_are_gos() {
        for case in group("results") {
            let result = |r: &serde_json::Value| TxResult {
                code: u32::try_from(int(&r["code"])).unwrap(),
                data: hex(&r["data"]).into(),
                gas_wanted: int(&r["gas_wanted"]),
                gas_used: int(&r["gas_used"]),
            };
            let results: Vec<TxResult> = list(&case["results"]).iter().map(result).collect();
            assert_eq!(Some(results_hash(&results)), hash(&case["hash"]));
            for (result, leaf) in results.iter().zip(list(&case["leaves"])) {
                let mut out = Vec::new();
                result.encode(&mut out);
                assert_eq!(out, hex(leaf));
            }
        }
    }

    #[test]
    fn commit_infos_are_gos() {
        for case in group("last_commit_info") {
            let last_commit = commit(&hex(&case["last_commit"]["proto"])).unwrap();
            let members = validators(&case["last_validators"]);
            let priorities = vec![0; members.len()];
            let set = ValidatorSet::from_stored(members, priorities).unwrap();
            let mut block =
                empty_block(Height::from_wire(int(&case["height"])).unwrap(), Time::ZERO);
            block.last_commit = last_commit;
            let initial_height = Height::from_wire(int(&case["initial_height"])).unwrap();
            let id = BlockId::new(Hash([1; 32]), 1, Hash([2; 32]));
            let found = FinalizeBlock::from_block(&block, id, Some(&set), initial_height);
            assert_eq!(found.is_ok(), ok(case), "{}: {found:?}", name(case));
            let Ok(found) = found else { continue };
            let info = found.decided_last_commit;
            let expected = &case["commit_info"];
            assert_eq!(i64::from(info.round), int(&expected["round"]));
            let found = info
                .votes
                .iter()
                .map(|(address, power, flag)| (address.to_string(), *power, *flag as i64));
            let vote = |v: &serde_json::Value| {
                let address = text(&v["address"]).to_owned();
                (address, int(&v["power"]), int(&v["flag"]))
            };
            let votes = expected["votes"].as_array();
            let votes = votes.map_or(&[][..], Vec::as_slice);
            assert!(found.eq(votes.iter().map(vote)), "{}", name(case));
        }
    }

    #[test]
    fn a_request_needs_set_and_hash() {
        let block = empty_block(Height::new(7), Time::ZERO);
        let id = BlockId::new(Hash([1; 32]), 1, Hash([2; 32]));
        let request =
            |id, initial| FinalizeBlock::from_block(&block, id, None, Height::new(initial));
        assert_eq!(request(id, 1), Err(RequestError::NoSet(Height::ZERO)));
        let none = Err(RequestError::NoHash(Height::new(7)));
        assert_eq!(request(BlockId::ZERO, 7), none);
        let first = request(id, 7).unwrap();
        assert_eq!((first.hash, first.height), (Hash([1; 32]), Height::new(7)));
        assert_eq!(first.decided_last_commit, CommitInfo::default());
    }
}
