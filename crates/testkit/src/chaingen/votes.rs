//! The validators' precommits for a block, really signed.

use bytes::Bytes;
use rayon::ThreadPool;
use rayon::prelude::*;

use super::keys::Keys;
use super::options::Options;
use super::rng::Chance;
use blocksync::chain::{
    BlockIdFlag, CommitSig, ExtendedCommit, ExtendedCommitSig, Signature, Time, ValidatorSet,
    VoteForm,
};
use blocksync::ids::{Address, BlockId, Height};

/// Votes come this long after the block's time, and up to `JITTER` later: nanoseconds.
const DELAY: i128 = 1_000_000_000;
/// How far apart votes are, in nanoseconds.
const JITTER: u64 = 400_000_000;
/// One in this number of votes is at a full second, whose encoding is shorter.
const FULL_SECOND: u64 = 64;
/// Signatures that are not worth another thread.
const MIN_CHUNK: usize = 8;

/// A block to vote on.
pub(super) struct Ballot<'a> {
    pub(super) chain_id: &'a [u8],
    pub(super) height: Height,
    pub(super) round: i32,
    pub(super) id: BlockId,
    pub(super) time: Time,
    pub(super) extensions: bool,
}

impl Ballot<'_> {
    /// Every member's vote: for the block, for nil, or none; always more than 2/3 for the block.
    pub(super) fn votes(
        &self,
        set: &ValidatorSet,
        options: &Options,
        chance: &mut Chance,
    ) -> ExtendedCommit {
        let total = i128::from(set.total_power());
        let mut for_block = total;
        let signatures = set.iter().enumerate().map(|(index, member)| {
            let roll = chance.below(1000);
            let timestamp = self.voting_time(chance);
            let left = for_block - i128::from(member.power);
            let mut flag = BlockIdFlag::Commit;
            if roll < options.absent + options.nil && 3 * left > 2 * total {
                for_block = left;
                flag = if roll < options.nil {
                    BlockIdFlag::Nil
                } else {
                    BlockIdFlag::Absent
                };
            }
            let extended = self.extensions && flag == BlockIdFlag::Commit && index % 3 != 1;
            let absent = flag == BlockIdFlag::Absent;
            ExtendedCommitSig {
                sig: CommitSig {
                    flag,
                    address: if absent {
                        Address([0; 20])
                    } else {
                        member.address
                    },
                    timestamp: if absent { Time::ZERO } else { timestamp },
                    signature: Signature::EMPTY,
                },
                extension: if extended {
                    self.extension(index, options)
                } else {
                    Bytes::new()
                },
                extension_signature: Bytes::new(),
            }
        });
        ExtendedCommit {
            height: self.height,
            round: self.round,
            block_id: self.id,
            signatures: signatures.collect(),
        }
    }

    /// Later than the block, so that the median is too.
    fn voting_time(&self, chance: &mut Chance) -> Time {
        let nanos = self.time.as_nanos() + DELAY + i128::from(chance.below(JITTER));
        let full = chance.below(FULL_SECOND) == 0;
        let nanos = if full {
            nanos - nanos % DELAY + DELAY
        } else {
            nanos
        };
        from_nanos(nanos)
    }

    fn extension(&self, index: usize, options: &Options) -> Bytes {
        let text = format!("ext-{}-{index}.", self.height);
        text.bytes().cycle().take(options.extension_size).collect()
    }

    /// Signs what `votes` returned, on all threads.
    pub(super) fn sign(&self, commit: &mut ExtendedCommit, keys: &Keys, threads: &ThreadPool) {
        let signing = commit.to_commit().signing(self.chain_id, VoteForm::Timed);
        let sign = |index: usize| {
            let entry = &commit.signatures[index];
            if entry.sig.flag == BlockIdFlag::Absent {
                return (Signature::EMPTY, Bytes::new());
            }
            let key = keys.secret(&entry.sig.address);
            let mut message = Vec::with_capacity(192);
            signing.write(&entry.sig, &mut message);
            let signature = Signature::new(&key.sign(&message)).expect("a key's length");
            if !self.extensions || entry.sig.flag != BlockIdFlag::Commit {
                return (signature, Bytes::new());
            }
            let message = commit.extension_sign_bytes(self.chain_id, index);
            let extension = Bytes::from(key.sign(&message));
            (signature, extension)
        };
        let indices = (0..commit.signatures.len()).into_par_iter();
        let signed: Vec<(Signature, Bytes)> =
            threads.install(|| indices.with_min_len(MIN_CHUNK).map(sign).collect());
        for (entry, (signature, extension)) in commit.signatures.iter_mut().zip(signed) {
            entry.sig.signature = signature;
            entry.extension_signature = extension;
        }
    }
}

/// A time by nanoseconds since 1970; the chain's times begin in 2026 and move by seconds.
fn from_nanos(nanos: i128) -> Time {
    let seconds = i64::try_from(nanos.div_euclid(1_000_000_000)).ok();
    let rest = i32::try_from(nanos.rem_euclid(1_000_000_000)).ok();
    (seconds.zip(rest))
        .and_then(|(seconds, rest)| Time::new(seconds, rest))
        .expect("before year 10000")
}
