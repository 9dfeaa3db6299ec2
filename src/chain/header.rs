//! A block's header (`protocol.md` 5.1, 5.2).

use bytes::Bytes;

use super::encode;
use super::merkle::{self, Tree};
use super::time::Time;
use crate::ids::{Address, BlockId, Hash, Height};

/// A block's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Block protocol version; 11.
    pub version_block: u64,
    /// The application's version.
    pub version_app: u64,
    /// At most 50 bytes; Go does not check that they are UTF-8.
    pub chain_id: Bytes,
    /// The height, 1 or more.
    pub height: Height,
    /// The block's time.
    pub time: Time,
    /// The block before; zero in the first block.
    pub last_block_id: BlockId,
    /// Root over the signatures of the last commit. For all hashes here: absent is an empty byte
    /// string on the wire.
    pub last_commit_hash: Option<Hash>,
    /// Root over the transactions' hashes.
    pub data_hash: Option<Hash>,
    /// The set that signs this height.
    pub validators_hash: Option<Hash>,
    /// The set that signs the next height.
    pub next_validators_hash: Option<Hash>,
    /// Hash of the consensus params.
    pub consensus_hash: Option<Hash>,
    /// The application's hash after the block before; of any length.
    pub app_hash: Bytes,
    /// Root over the results of the block before.
    pub last_results_hash: Option<Hash>,
    /// Root over the evidence.
    pub evidence_hash: Option<Hash>,
    /// Address of the proposer.
    pub proposer_address: Address,
}

impl Header {
    /// The header's hash, which is the block's: a root over its 14 fields (`protocol.md` 5.2).
    /// `None` without a validators' hash.
    #[must_use]
    pub fn hash(&self) -> Option<Hash> {
        self.validators_hash?;
        let mut tree = Tree::new();
        let mut leaf = Vec::with_capacity(256);
        // One buffer for all leaves, behind the prefix that tells a leaf from an inner node.
        let mut push = |body: &dyn Fn(&mut Vec<u8>)| {
            leaf.clear();
            leaf.push(0);
            body(&mut leaf);
            tree.push(merkle::prefixed_leaf_hash(&leaf));
        };
        // Single values are hashed as the wrapper messages of protobuf, which are a field 1 each.
        push(&|out| encode::version(self.version_block, self.version_app, out));
        push(&|out| encode::bytes(1, &self.chain_id, out));
        push(&|out| encode::int(1, self.height.to_wire(), out));
        push(&|out| self.time.encode(out));
        push(&|out| encode::block_id(&self.last_block_id, out));
        let mut push_bytes = |value: &[u8]| push(&|out| encode::bytes(1, value, out));
        push_bytes(or_empty(&self.last_commit_hash));
        push_bytes(or_empty(&self.data_hash));
        push_bytes(or_empty(&self.validators_hash));
        push_bytes(or_empty(&self.next_validators_hash));
        push_bytes(or_empty(&self.consensus_hash));
        push_bytes(&self.app_hash);
        push_bytes(or_empty(&self.last_results_hash));
        push_bytes(or_empty(&self.evidence_hash));
        push_bytes(&self.proposer_address.0);
        Some(tree.root())
    }

    /// Appends the message `Header`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode::message(1, out, |out| {
            encode::version(self.version_block, self.version_app, out)
        });
        encode::bytes(2, &self.chain_id, out);
        encode::int(3, self.height.to_wire(), out);
        encode::message(4, out, |out| self.time.encode(out));
        encode::message(5, out, |out| encode::block_id(&self.last_block_id, out));
        encode::hash(6, self.last_commit_hash.as_ref(), out);
        encode::hash(7, self.data_hash.as_ref(), out);
        encode::hash(8, self.validators_hash.as_ref(), out);
        encode::hash(9, self.next_validators_hash.as_ref(), out);
        encode::hash(10, self.consensus_hash.as_ref(), out);
        encode::bytes(11, &self.app_hash, out);
        encode::hash(12, self.last_results_hash.as_ref(), out);
        encode::hash(13, self.evidence_hash.as_ref(), out);
        encode::bytes(14, &self.proposer_address.0, out);
    }
}

fn or_empty(hash: &Option<Hash>) -> &[u8] {
    hash.as_ref().map_or(&[], AsRef::as_ref)
}
