//! Commits: precommits of one height and round for one block (`protocol.md` 5.1, 5.5).

use std::fmt;
use std::hash::{Hash as StdHash, Hasher};
use std::sync::Arc;

use bytes::Bytes;

use super::encode;
use super::merkle::{self, Tree};
use super::time::Time;
use crate::ids::{Address, BlockId, Hash, Height};

/// The longest signature that any supported key makes, ML-DSA-65's.
pub const MAX_SIGNATURE: usize = 3309;
/// The longest signature that is held in place.
const INLINE_SIGNATURE: usize = 70;

/// Kind of a validator's entry in a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum BlockIdFlag {
    /// No precommit was received.
    Absent = 1,
    /// A precommit for the block.
    Commit = 2,
    /// A precommit for nil.
    Nil = 3,
    /// The first precommit for the block, with one signature for all of them. This and the three
    /// that follow are of [`VoteForm::Aggregated`].
    AggCommit = 4,
    /// Another precommit for the block, whose signature is part of the first one's.
    AggCommitAbsent = 5,
    /// The first precommit for nil, with one signature for all of them.
    AggNil = 6,
    /// Another precommit for nil.
    AggNilAbsent = 7,
}

impl BlockIdFlag {
    /// The flag of this number on the wire.
    #[must_use]
    pub fn from_wire(number: i32) -> Option<Self> {
        Some(match number {
            1 => BlockIdFlag::Absent,
            2 => BlockIdFlag::Commit,
            3 => BlockIdFlag::Nil,
            4 => BlockIdFlag::AggCommit,
            5 => BlockIdFlag::AggCommitAbsent,
            6 => BlockIdFlag::AggNil,
            7 => BlockIdFlag::AggNilAbsent,
            _ => return None,
        })
    }

    /// Whether the vote is for the block.
    #[must_use]
    pub fn is_for_block(self) -> bool {
        use BlockIdFlag::{AggCommit, AggCommitAbsent, Commit};
        matches!(self, Commit | AggCommit | AggCommitAbsent)
    }

    /// Whether the vote's signature is part of a sum.
    #[must_use]
    pub fn is_aggregated(self) -> bool {
        self as u8 >= BlockIdFlag::AggCommit as u8
    }
}

/// The ways in which versions write and sign votes (`versions.md` 1.10).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum VoteForm {
    /// Each vote has a time and a signature of its own.
    #[default]
    Timed,
    /// Votes have no time, and a commit may have one signature for all votes for the block and one
    /// for all those for nil: Berachain's.
    Aggregated,
}

/// A signature of up to [`MAX_SIGNATURE`] bytes. Those of the usual keys are held in place: a
/// commit of a hundred is one allocation. A copy of a longer one shares its bytes.
#[derive(Clone)]
pub struct Signature(Held);

#[derive(Clone)]
enum Held {
    Inline {
        len: u8,
        bytes: [u8; INLINE_SIGNATURE],
    },
    Shared(Arc<[u8]>),
}

/// One validator's entry in a commit. An absent one has the zero address, the zero time and no
/// signature.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CommitSig {
    /// Kind of the vote.
    pub flag: BlockIdFlag,
    /// Address of the signer; zero bytes when absent (an empty byte string on the wire).
    pub address: Address,
    /// The time that the vote states.
    pub timestamp: Time,
    /// Empty when absent.
    pub signature: Signature,
}

/// The precommits for one block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Commit {
    /// The height that was decided; 0 in the empty commit of a chain's first block.
    pub height: Height,
    /// The round, 0 or more.
    pub round: i32,
    /// Id of the decided block.
    pub block_id: BlockId,
    /// One entry for each validator, in set order.
    pub signatures: Vec<CommitSig>,
}

/// An entry of an extended commit: a commit's entry with the vote extension.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExtendedCommitSig {
    /// The entry.
    pub sig: CommitSig,
    /// The vote extension, at most 1 MiB; may be empty.
    pub extension: Bytes,
    /// Signature over the extension.
    pub extension_signature: Bytes,
}

/// A commit with vote extensions. No hash covers it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ExtendedCommit {
    /// The height that was decided.
    pub height: Height,
    /// The round.
    pub round: i32,
    /// Id of the decided block.
    pub block_id: BlockId,
    /// One entry for each validator, in set order.
    pub signatures: Vec<ExtendedCommitSig>,
}

impl Signature {
    /// No signature.
    pub const EMPTY: Signature = Signature(Held::Inline {
        len: 0,
        bytes: [0; INLINE_SIGNATURE],
    });

    /// A signature; `None` when it is longer than any key's.
    #[must_use]
    #[inline]
    pub fn new(from: &[u8]) -> Option<Self> {
        let mut bytes = [0; INLINE_SIGNATURE];
        // Nearly all signatures have this length, and a copy of a fixed length is a few moves.
        if let Ok(usual) = <&[u8; 64]>::try_from(from) {
            bytes[..64].copy_from_slice(usual);
            return Some(Signature(Held::Inline { len: 64, bytes }));
        }
        Self::unusual(from, bytes)
    }

    fn unusual(from: &[u8], mut bytes: [u8; INLINE_SIGNATURE]) -> Option<Self> {
        if from.len() > MAX_SIGNATURE {
            return None;
        }
        Some(Signature(match bytes.get_mut(..from.len()) {
            Some(room) => {
                room.copy_from_slice(from);
                let len = from.len() as u8; // at most INLINE_SIGNATURE
                Held::Inline { len, bytes }
            }
            None => Held::Shared(from.into()),
        }))
    }

    /// Its bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Held::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Held::Shared(bytes) => bytes,
        }
    }

    /// Number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl PartialEq for Signature {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Signature {}

impl StdHash for Signature {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_slice().hash(state);
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.as_slice()))
    }
}

/// The type that a precommit's sign bytes name.
pub const PRECOMMIT: i32 = 2;

/// Sign bytes shared by all signatures of a commit: only flag and timestamp differ between them
/// (`protocol.md` 5.5).
#[derive(Clone, Debug)]
pub struct SignBytes {
    /// Type, height and round.
    head: Vec<u8>,
    /// The block id's field; empty for the zero id.
    block_id: Vec<u8>,
    /// The chain id's field.
    tail: Vec<u8>,
    /// Whether the vote's time is signed.
    timed: bool,
}

impl SignBytes {
    /// The parts that do not depend on the voter, for votes of this type, height and round that
    /// state their time.
    #[must_use]
    pub fn new(kind: i32, height: Height, round: i32, id: &BlockId, chain_id: &[u8]) -> Self {
        let mut head = Vec::with_capacity(20);
        encode::int(1, i64::from(kind), &mut head);
        encode::sfixed64(2, height.to_wire(), &mut head);
        encode::sfixed64(3, i64::from(round), &mut head);
        let mut block_id = Vec::new();
        // Go's canonical form of the zero id is none, so that a vote for nil names no block.
        if !id.is_zero() {
            encode::message(4, &mut block_id, |out| encode::block_id(id, out));
        }
        let mut tail = Vec::with_capacity(chain_id.len() + 2);
        encode::bytes(6, chain_id, &mut tail);
        SignBytes {
            head,
            block_id,
            tail,
            timed: true,
        }
    }

    /// Sets whether the votes state their time.
    #[must_use]
    pub fn of(self, form: VoteForm) -> Self {
        let timed = form == VoteForm::Timed;
        SignBytes { timed, ..self }
    }

    /// Appends what `sig` signs. An entry for nil, and an absent one, names no block.
    pub fn write(&self, sig: &CommitSig, out: &mut Vec<u8>) {
        self.write_vote(sig.flag.is_for_block(), sig.timestamp, out);
    }

    /// Appends a vote's sign bytes, with or without the block's id.
    pub(super) fn write_vote(&self, for_block: bool, timestamp: Time, out: &mut Vec<u8>) {
        let block_id: &[u8] = if for_block { &self.block_id } else { &[] };
        encode::delimited(out, |out| {
            out.extend_from_slice(&self.head);
            out.extend_from_slice(block_id);
            if self.timed {
                // Written even when it is the zero time, which Go encodes as
                // year 1 (`protocol.md` 0.2).
                encode::message(5, out, |out| timestamp.encode(out));
            }
            out.extend_from_slice(&self.tail);
        });
    }
}

impl Commit {
    /// Signatures that the full check looks at: all that are present, those for nil too.
    #[must_use]
    pub fn signature_count(&self) -> usize {
        self.signatures
            .iter()
            .filter(|sig| sig.is_looked_at())
            .count()
    }

    /// Whether one signature stands for several votes.
    #[must_use]
    pub fn is_aggregated(&self) -> bool {
        self.signatures.iter().any(|sig| sig.flag.is_aggregated())
    }

    /// Root over the entries, all of them; height, round and block id are not covered
    /// (`protocol.md` 5.3).
    #[must_use]
    pub fn hash(&self) -> Hash {
        let mut tree = Tree::new();
        let mut leaf = Vec::with_capacity(128);
        for sig in &self.signatures {
            leaf.clear();
            // The prefix of a leaf, in the same buffer: one hash over one slice.
            leaf.push(0);
            sig.encode(&mut leaf);
            tree.push(merkle::prefixed_leaf_hash(&leaf));
        }
        tree.root()
    }

    /// Sign bytes of the commit's entries on this chain, where votes have this form.
    #[must_use]
    pub fn signing(&self, chain_id: &[u8], form: VoteForm) -> SignBytes {
        SignBytes::new(PRECOMMIT, self.height, self.round, &self.block_id, chain_id).of(form)
    }

    /// Sign bytes of the entry at `index`, length prefix included (`protocol.md` 5.5), where votes
    /// have a time.
    ///
    /// # Panics
    /// When there is no such entry.
    #[must_use]
    pub fn sign_bytes(&self, chain_id: &[u8], index: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(192);
        self.signing(chain_id, VoteForm::Timed)
            .write(&self.signatures[index], &mut out);
        out
    }
}

impl ExtendedCommit {
    /// Signatures that the full check looks at: those of the commit, and those of the extensions.
    #[must_use]
    pub fn signature_count(&self) -> usize {
        let of_one = |s: &ExtendedCommitSig| {
            usize::from(s.sig.is_looked_at()) + usize::from(s.sig.flag == BlockIdFlag::Commit)
        };
        self.signatures.iter().map(of_one).sum()
    }

    /// The commit without the extensions.
    #[must_use]
    pub fn to_commit(&self) -> Commit {
        Commit {
            height: self.height,
            round: self.round,
            block_id: self.block_id,
            signatures: self.signatures.iter().map(|s| s.sig.clone()).collect(),
        }
    }

    /// Sign bytes of the extension signature at `index`, length prefix included (`protocol.md`
    /// 5.5).
    ///
    /// # Panics
    /// When there is no such entry.
    #[must_use]
    pub fn extension_sign_bytes(&self, chain_id: &[u8], index: usize) -> Vec<u8> {
        let extension = &self.signatures[index].extension;
        extension_sign_bytes(chain_id, self.height, self.round, extension)
    }
}

/// The encoded, length-prefixed `CanonicalVoteExtension`.
fn extension_sign_bytes(chain_id: &[u8], height: Height, round: i32, extension: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(extension.len() + chain_id.len() + 32);
    encode::delimited(&mut out, |out| {
        encode::bytes(1, extension, out);
        // No block id: an extension belongs to a height and round, whatever block its vote is for.
        encode::sfixed64(2, height.to_wire(), out);
        encode::sfixed64(3, i64::from(round), out);
        encode::bytes(4, chain_id, out);
    });
    out
}

impl CommitSig {
    /// Whether the full check looks at its signature: also at one for nil. Of an aggregate only the
    /// first entry holds one.
    fn is_looked_at(&self) -> bool {
        use BlockIdFlag::{AggCommit, AggNil, Commit, Nil};
        matches!(self.flag, Commit | Nil | AggCommit | AggNil)
    }

    /// Appends the message `CommitSig`. An absent entry has no address.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let address: &[u8] = match self.flag {
            BlockIdFlag::Absent => &[],
            _ => &self.address.0,
        };
        encode::int(1, self.flag as i64, out);
        encode::bytes(2, address, out);
        encode::message(3, out, |out| self.timestamp.encode(out));
        encode::bytes(4, self.signature.as_slice(), out);
    }
}

impl ExtendedCommitSig {
    /// Appends the message `ExtendedCommitSig`: a `CommitSig` with two more fields.
    fn encode(&self, out: &mut Vec<u8>) {
        self.sig.encode(out);
        encode::bytes(5, &self.extension, out);
        encode::bytes(6, &self.extension_signature, out);
    }
}

/// The fields that commits with and without extensions begin with.
fn encode_head(height: Height, round: i32, id: &BlockId, out: &mut Vec<u8>) {
    encode::int(1, height.to_wire(), out);
    encode::int(2, i64::from(round), out);
    encode::message(3, out, |out| encode::block_id(id, out));
}

impl Commit {
    /// Appends the message `Commit`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_head(self.height, self.round, &self.block_id, out);
        for sig in &self.signatures {
            encode::message(4, out, |out| sig.encode(out));
        }
    }
}

impl ExtendedCommit {
    /// Appends the message `ExtendedCommit`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_head(self.height, self.round, &self.block_id, out);
        for sig in &self.signatures {
            encode::message(4, out, |out| sig.encode(out));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::evidence::Vote;
    use crate::chain::testing::{
        block_id, commit, commit_sig, extended_commit, group, hash, hex, int, list, name, ok, text,
        time,
    };

    #[test]
    fn commit_hashes_and_encodings_are_gos() {
        for case in group("commit_hash") {
            let commit = commit(&hex(&case["proto"])).unwrap();
            assert_eq!(Some(commit.hash()), hash(&case["hash"]));
            let leaves = case.get("leaves").map_or(&[][..], list);
            for (sig, leaf) in commit.signatures.iter().zip(leaves) {
                let mut out = Vec::new();
                sig.encode(&mut out);
                assert_eq!(out, hex(leaf));
            }
            let mut out = Vec::new();
            commit.encode(&mut out);
            assert_eq!(out, hex(&case["proto"]));
        }
    }

    #[test]
    fn timestamps_are_gos() {
        let mut seen = 0;
        for case in group("timestamps")
            .iter()
            .filter(|c| c.get("decode").is_none())
        {
            // The vectors have no flag; ours is always written.
            let mut sig = commit_sig(&[8, 1]).unwrap();
            sig.timestamp = time(&case["time"]);
            let mut out = Vec::new();
            sig.encode(&mut out);
            assert_eq!(out[..2], [8, 1]);
            assert_eq!(out[2..], hex(&case["commit_sig"]));
            seen += 1;
        }
        assert!(seen >= 8, "{seen}");
    }

    #[test]
    fn vote_sign_bytes_are_gos() {
        for case in group("vote_sign_bytes") {
            let vote = Vote {
                kind: int(&case["type"]) as i32,
                height: Height::from_wire(int(&case["height"])).unwrap(),
                round: int(&case["round"]) as i32,
                block_id: block_id(&case["block_id"]),
                timestamp: time(&case["time"]),
                address: Address([7; 20]),
                index: 3,
                signature: Signature::EMPTY,
                extension: Bytes::new(),
                extension_signature: Bytes::new(),
            };
            let chain_id = text(&case["chain_id"]).as_bytes();
            let expected = hex(&case["sign_bytes"]);
            assert_eq!(
                vote.sign_bytes(chain_id, VoteForm::Timed),
                expected,
                "{}",
                name(case)
            );
            if vote.kind != PRECOMMIT {
                continue;
            }
            // The same vote, as an entry of a commit.
            let entry = |flag| CommitSig {
                flag,
                address: vote.address,
                timestamp: vote.timestamp,
                signature: Signature::EMPTY,
            };
            let (flag, decided) = if vote.block_id.is_zero() {
                let other = BlockId::new(Hash([1; 32]), 1, Hash([2; 32]));
                (BlockIdFlag::Nil, other)
            } else {
                (BlockIdFlag::Commit, vote.block_id)
            };
            let commit = Commit {
                height: vote.height,
                round: vote.round,
                block_id: decided,
                signatures: vec![entry(BlockIdFlag::Absent), entry(flag)],
            };
            assert_eq!(commit.sign_bytes(chain_id, 1), expected, "{}", name(case));
        }
    }

    #[test]
    fn extension_sign_bytes_are_gos() {
        for case in group("extension_sign_bytes") {
            let commit = ExtendedCommit {
                height: Height::from_wire(int(&case["height"])).unwrap(),
                round: int(&case["round"]) as i32,
                block_id: BlockId::ZERO,
                signatures: vec![ExtendedCommitSig {
                    sig: commit_sig(&[8, 1]).unwrap(),
                    extension: hex(&case["extension"]).into(),
                    extension_signature: Bytes::new(),
                }],
            };
            let chain_id = text(&case["chain_id"]).as_bytes();
            let found = commit.extension_sign_bytes(chain_id, 0);
            assert_eq!(found, hex(&case["sign_bytes"]));
        }
    }

    /// Signatures that Go made and accepts: the sign bytes under them are right.
    #[test]
    fn signatures_of_accepted_extended_commits_verify() {
        let mut verified = 0;
        for case in group("extended_commits").iter().filter(|case| ok(case)) {
            let proto = hex(&case["proto"]);
            let extended = extended_commit(&proto).unwrap();
            let mut out = Vec::new();
            extended.encode(&mut out);
            assert_eq!(out, proto, "{}", name(case));
            let chain_id = text(&case["chain_id"]).as_bytes();
            let commit = extended.to_commit();
            let set = crate::chain::testing::validators(&case["validators"]);
            for (index, (entry, v)) in extended.signatures.iter().zip(&set).enumerate() {
                if entry.sig.flag == BlockIdFlag::Absent {
                    continue;
                }
                let msg = commit.sign_bytes(chain_id, index);
                assert!(v.key.verify(&msg, entry.sig.signature.as_slice()));
                if entry.sig.flag == BlockIdFlag::Commit {
                    let msg = extended.extension_sign_bytes(chain_id, index);
                    assert!(v.key.verify(&msg, &entry.extension_signature));
                    verified += 1;
                }
            }
        }
        assert!(verified > 0);
    }

    #[test]
    fn sign_bytes_of_the_appendix() {
        let id = BlockId::new(Hash([0xaa; 32]), 1, Hash([0xbb; 32]));
        let sig = |flag, seconds, nanos| CommitSig {
            flag,
            address: Address([1; 20]),
            timestamp: Time { seconds, nanos },
            signature: Signature::EMPTY,
        };
        let mut commit = Commit {
            height: Height::new(5),
            round: 0,
            block_id: id,
            signatures: vec![
                sig(BlockIdFlag::Commit, 1_704_164_645, 6),
                sig(BlockIdFlag::Nil, 1_704_164_646, 0),
            ],
        };
        let (aa, bb) = ("aa".repeat(32), "bb".repeat(32));
        assert_eq!(
            hex::encode(commit.sign_bytes(b"test-chain", 0)),
            format!(
                "6b080211050000000000000022480a20{aa}122408011220{bb}2a0808a5facdac061006320a746573742d636861696e"
            )
        );
        commit.round = 1;
        assert_eq!(
            hex::encode(commit.sign_bytes(b"test-chain", 1)),
            "280802110500000000000000190100000000000000\
             2a0608a6facdac06320a746573742d636861696e"
        );
    }

    #[test]
    fn the_commit_hash_of_the_appendix() {
        let sig = |flag, address, seconds, nanos, signature| CommitSig {
            flag,
            address: Address([address; 20]),
            timestamp: Time { seconds, nanos },
            signature,
        };
        let signature = |byte| Signature::new(&[byte; 64]).unwrap();
        let zero = Time::ZERO.seconds;
        let commit = Commit {
            signatures: vec![
                sig(BlockIdFlag::Commit, 1, 1_704_164_645, 6, signature(7)),
                sig(BlockIdFlag::Absent, 0, zero, 0, Signature::EMPTY),
                sig(BlockIdFlag::Nil, 2, 1_704_164_646, 0, signature(8)),
            ],
            ..Commit::default()
        };
        assert_eq!(
            commit.hash().to_string(),
            "ba258f066fa34347d6313a8e81fc807303f15ea4568cb2639a307caddea88548"
        );
    }

    #[test]
    fn fixed_encodings_of_the_appendix() {
        let commit = Commit {
            signatures: vec![CommitSig {
                flag: BlockIdFlag::Absent,
                address: Address([0; 20]),
                timestamp: Time::ZERO,
                signature: Signature::EMPTY,
            }],
            ..Commit::default()
        };
        let mut out = Vec::new();
        commit.encode(&mut out);
        assert_eq!(
            hex::encode(out),
            "1a021200220f08011a0b088092b8c398feffffff01"
        );
    }
}
