//! Checks of a proven block before it is executed, and who each refusal is charged to.

use std::sync::Arc;

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::config::Config;
use super::offload::Offload;
use super::stages::{Meters, Stage};
use crate::app::AppError;
use crate::chain::evidence_check::{self, EvidenceContext, LookupError};
use crate::chain::rules::ExtendedCommits;
use crate::chain::validate::{self, LastCommit, Mismatch};
use crate::chain::{
    Block, ChainState, Commit, Fetched, Header, RuleSchedule, Rules, Time, ValidatorSet, verify,
};
use crate::fault::{Fault, Proof};
use crate::ids::{BlockId, Hash, Height, Source};
use crate::pool::LocalFault;
use crate::store::{Store, StoreError};
use crate::{chain, wire};

/// Randomness of batch verification. All of it counts: a forger who knew it could make bad
/// signatures cancel out.
pub(super) type Seed = [u8; 32];

/// The randomness of one of several checks that share a seed.
pub(super) fn rng(mut seed: Seed, index: u64) -> StdRng {
    for (byte, mix) in seed.iter_mut().zip(index.to_le_bytes()) {
        // Distinct indices give distinct seeds: checks that run side by side must not share draws.
        *byte ^= mix;
    }
    StdRng::from_seed(seed)
}

/// Why a job was not applied to its end.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The copy's supplier alone is to blame.
    Copy {
        /// The copy's height.
        height: Height,
        /// Its supplier.
        from: Source,
        /// The fault.
        fault: Fault,
    },
    /// Nobody but we.
    Ours(LocalFault),
    /// The application's answer to a stored block may be wrong, and the block above that would tell
    /// is not proven yet.
    Unproven,
    /// We are stopping, or have failed already.
    Stopped,
}

/// A block that does not fit our state.
#[derive(Debug)]
pub(super) enum Against {
    /// Its time is ahead of our clock: the clock is wrong, wait.
    AheadOfClock(String),
    /// It contradicts our state.
    Diverged(String),
}

/// The block whose commit is wanted, and the set that must have signed it.
pub(super) struct Wanted {
    pub(super) chain_id: Bytes,
    pub(super) set: Arc<ValidatorSet>,
    pub(super) id: BlockId,
    pub(super) height: Height,
    /// Those of the block that holds the commit.
    pub(super) rules: Rules,
}

/// The application's failure, as ours.
pub(super) fn app_failed(error: AppError) -> Refusal {
    Refusal::Ours(LocalFault::App(error.to_string()))
}

/// The same, over a block: an application that says that it does not execute this height is no
/// failure.
pub(super) fn app_failed_at(height: Height, error: &AppError) -> Refusal {
    Refusal::Ours(match error.refuses_height() {
        Some(why) => LocalFault::Halted { height, why },
        None => LocalFault::App(format!("block {height}: {error}")),
    })
}

/// The store's failure, as ours.
pub(super) fn store_failed(error: StoreError) -> Refusal {
    Refusal::Ours(LocalFault::Store(error.to_string()))
}

/// A response of the application that the rules forbid.
pub(super) fn bad_response(error: chain::state::StateError) -> Refusal {
    Refusal::Ours(LocalFault::App(error.to_string()))
}

/// The operator's own anchor (`--trust HEIGHT:HASH`).
pub(super) fn trusted(config: &Config, block: &Fetched) -> Result<(), Refusal> {
    match config.trust {
        // Nobody's fault: the chain was proven, and the operator expects another one.
        Some((height, hash)) if height == block.height() && block.id.hash != Some(hash) => {
            let found = block.id;
            let why = format!(
                "block {height}: --trust expects hash {hash}, the certified block is {found}"
            );
            Err(Refusal::Ours(LocalFault::Diverged(why)))
        }
        _ => Ok(()),
    }
}

/// `ValidateBlock` (`protocol.md` 5.10). The last commit needs no check: the block is certified, so
/// its signers made it.
pub(super) fn against_state(
    state: &ChainState,
    block: &Fetched,
    config: &Config,
    now: Time,
) -> Result<(), Against> {
    let rules = config.rules.at(block.height());
    let clock = Some((now, config.clock_tolerance));
    match validate::validate_block(
        state,
        &block.block,
        rules,
        LastCommit::AlreadyVerified,
        clock,
    ) {
        Ok(()) => Ok(()),
        Err(e @ Mismatch::AheadOfClock { .. }) => Err(Against::AheadOfClock(e.to_string())),
        Err(e) => Err(Against::Diverged(e.to_string())),
    }
}

/// The extended commit that came with a block: there exactly when extensions are enabled, and valid
/// under the block's own set (`protocol.md` 5.8). No hash covers it, so its supplier alone answers
/// for it; and where its version hands on what it has not checked, not for that either.
pub(super) fn extended_commit(
    state: &ChainState,
    block: &Fetched,
    (wanted, rules): (bool, &Rules),
    seed: Seed,
    meters: &Meters,
) -> Result<(), Fault> {
    let height = block.height();
    let proof = |why: String| Proof(format!("height {height}, by the rules of {rules}: {why}"));
    let bad = |why: String| Fault::BadExtendedCommit(proof(why));
    match (&block.ext_commit, wanted) {
        (None, false) => Ok(()),
        (Some(_), false) => Err(bad(
            "an extended commit, although vote extensions are not enabled".into(),
        )),
        (None, true) => Err(bad(
            "no extended commit, although vote extensions are enabled".into(),
        )),
        // Judged ahead of its turn, under this very set.
        (Some(_), true) if is_judged_ahead(state, block) => Ok(()),
        (Some(ext), true) => {
            let mut rng = rng(seed, 0);
            meters.signatures(Stage::Execute, ext.signature_count());
            let (chain_id, set) = (&state.chain_id, &state.validators);
            verify::verify_extended_commit(rules, chain_id, set, &block.id, height, ext, &mut rng)
                .map_err(|e| match rules.extended_commits {
                    // Such a node stores and hands on extended commits without checking their
                    // signatures, so a forged one may come from an honest peer.
                    ExtendedCommits::VerifiedByUs if verify::check_extensions(ext).is_ok() => {
                        Fault::UncheckedExtendedCommit(proof(e.to_string()))
                    }
                    _ => bad(e.to_string()),
                })
        }
    }
}

/// Judges the extended commits of several blocks at once, on all threads, where a set that is in
/// force now signed them. A failure is not reported: each block is judged again in its turn, when
/// it is certain what it must carry.
pub(super) fn extended_commits_ahead(
    offload: &Offload,
    (state, rules): (&ChainState, &RuleSchedule),
    blocks: Vec<Arc<Fetched>>,
    seed: Seed,
    meters: &Meters,
) {
    let sets = [&state.validators, &state.next_validators];
    offload.each(blocks, |block| {
        // The header's own claim is enough: the mark names the set, and counts only where that set
        // is the right one.
        let named = block.header().validators_hash;
        let set = sets.into_iter().find(|set| Some(set.hash()) == named);
        let (Some(set), Some(ext)) = (set, &block.ext_commit) else {
            return;
        };
        let height = block.height();
        let mut rng = rng(seed, height.get());
        let (chain_id, rules) = (&state.chain_id, rules.at(height));
        meters.signatures(Stage::Execute, ext.signature_count());
        let id = &block.id;
        if verify::verify_extended_commit(rules, chain_id, set, id, height, ext, &mut rng).is_ok() {
            let _ = block.checked.ext_commit.set(set.hash()); // set already: to the same
        }
    });
}

/// Whether nothing is left to be judged of the extended commit that came with the next block.
pub(super) fn extended_commit_is_settled(state: &ChainState, block: &Fetched) -> bool {
    let wanted = state.params.vote_extensions_enabled(block.height());
    match &block.ext_commit {
        None => !wanted,
        Some(_) => wanted && is_judged_ahead(state, block),
    }
}

/// Whether the block's extended commit has passed the check under the set of the height that is
/// next.
pub(super) fn is_judged_ahead(state: &ChainState, block: &Fetched) -> bool {
    block.checked.ext_commit.get() == Some(&state.validators.hash())
}

/// The full check of the commit for a block (`protocol.md` 5.7), from the holder's last commit or
/// its own seen commit, unless the verifier has made it already. Gives the commit encoded.
pub(super) fn commit_for(
    wanted: &Wanted,
    holder: &Fetched,
    own: bool,
    seed: Seed,
    meters: &Meters,
) -> Result<Bytes, Fault> {
    let Wanted {
        chain_id,
        set,
        id,
        height,
        rules,
    } = wanted;
    // A commit that is not there is judged as an empty one, which fails.
    let none = Commit::default();
    let (commit, checked) = if own {
        (
            holder.seen_commit.as_ref().unwrap_or(&none),
            &holder.checked.seen_commit,
        )
    } else {
        (&holder.block.last_commit, &holder.checked.last_commit)
    };
    // The mark holds for one set: a proof through another set says nothing about this one.
    if checked.get() != Some(&set.hash()) {
        let mut rng = rng(seed, 0);
        meters.signatures(Stage::Execute, commit.signature_count());
        verify::verify_commit(rules, chain_id, set, id, *height, commit, &mut rng)
            .map_err(|e| Fault::BadCommit(Proof(format!("{e} (by the rules of {rules})"))))?;
        let _ = checked.set(set.hash());
    }
    let mut bytes = Vec::new();
    commit.encode(&mut bytes);
    Ok(bytes.into())
}

/// The evidence of a block (`protocol.md` 5.11), against what is stored.
pub(super) fn evidence(
    store: &dyn Store,
    state: &ChainState,
    block: &Block,
    rules: &Rules,
    seed: Seed,
) -> Result<(), Refusal> {
    let mut rng = rng(seed, 0);
    evidence_check::check_evidence(state, block, rules, &Stored(store), &mut rng).map_err(|e| {
        match &*e.why {
            evidence_check::Refusal::Lookup(error) => {
                Refusal::Ours(LocalFault::Store(error.to_string()))
            }
            // The block is certified: its signers have taken this evidence, and its supplier is not
            // to blame.
            _ => Refusal::Ours(LocalFault::Diverged(e.to_string())),
        }
    })
}

/// The store as the evidence checks see it.
struct Stored<'a>(&'a dyn Store);

fn lookup<T>(result: Result<T, StoreError>) -> Result<T, LookupError> {
    result.map_err(|e| LookupError(e.to_string()))
}

impl EvidenceContext for Stored<'_> {
    fn set_at(&self, height: Height) -> Result<Option<Arc<ValidatorSet>>, LookupError> {
        lookup(self.0.validators(height))
    }

    fn header_at(&self, height: Height) -> Result<Option<Header>, LookupError> {
        Ok(lookup(self.0.header(height))?.map(|(header, _)| header))
    }

    fn commit_at(&self, height: Height) -> Result<Option<Commit>, LookupError> {
        let Some(bytes) = lookup(self.0.commit_for(height))? else {
            return Ok(None);
        };
        wire::decode::commit_from_bytes(&bytes)
            .map(Some)
            .map_err(|e| LookupError(e.to_string()))
    }

    fn committed(&self, identity: &Hash) -> Result<bool, LookupError> {
        lookup(self.0.has_evidence(identity))
    }
}

/// The lowest height whose evidence may still come: both its age in blocks and its age in time must
/// be over before it is gone. 0 keeps everything.
pub(super) fn evidence_horizon(
    store: &dyn Store,
    state: &ChainState,
) -> Result<Height, StoreError> {
    let params = &state.params;
    let blocks = u64::try_from(params.evidence_max_age_num_blocks).unwrap_or(0);
    let oldest = Height::new(state.last_height.get().saturating_sub(blocks));
    let Some((header, _)) = store.header(oldest)? else {
        // Its age in time cannot be told, so nothing may go.
        return Ok(Height::ZERO);
    };
    let age = state.last_block_time.since(header.time);
    Ok(if age > i128::from(params.evidence_max_age_duration) {
        oldest
    } else {
        Height::ZERO
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::RngExt as _;

    use super::*;
    use crate::chain::Signature;
    use crate::chain::testkit::{BlockSpec, TestChain, nowhere};
    use crate::service::batches::record_of;
    use crate::service::external::tests::home;

    type Doctoring = fn(&mut Commit);

    /// The draws differ with the seed, and with the number.
    #[test]
    fn checks_that_share_a_seed_share_no_draws() {
        let mut draws = BTreeSet::new();
        for place in 0..32 {
            for flipped in [1, 0x80] {
                let mut seed = [0x55; 32];
                seed[place] ^= flipped;
                let of = |index| rng(seed, index).random::<u64>();
                draws.extend([0, 2, 2 << 8, 2 << 56].map(of));
            }
        }
        assert_eq!(draws.len(), 32 * 2 * 4);
    }

    /// Evidence is held against what is stored: what was committed before is refused, and a store
    /// that cannot be read is our fault and not the chain's.
    #[test]
    fn evidence_is_looked_up() {
        let chain = TestChain::builder(3).heights(6).build();
        let item = chain.duplicate_vote(Height::new(4), "twice");
        let mut with_evidence = chain.clone();
        with_evidence.push(&BlockSpec {
            evidence: vec![item.clone()],
            ..BlockSpec::default()
        });
        let block = &with_evidence.at(Height::new(7)).fetched.block;
        let judged =
            |store: &dyn Store| evidence(store, chain.state(), block, &Rules::COMET_038, [1; 32]);
        let store = home(&chain, 6);
        assert!(judged(&*store).is_ok());
        let committed = crate::store::Batch {
            evidence: vec![(item.identity(), item.height())],
            ..Default::default()
        };
        store.commit(committed).unwrap();
        match judged(&*store) {
            Err(Refusal::Ours(LocalFault::Diverged(why))) => {
                assert!(why.contains("was committed before"), "{why}");
            }
            other => panic!("{other:?}"),
        }
        let mut broken = chain.clone();
        broken.blocks[3].fetched.raw = "what the disk has left of it".into();
        match judged(&*home(&broken, 6)) {
            Err(Refusal::Ours(LocalFault::Store(why))) => {
                assert!(
                    why.contains("height 4") || why.contains("header 4"),
                    "{why}"
                );
            }
            other => panic!("{other:?}"),
        }
    }

    /// Nothing goes while evidence may still come: both ages have to be over.
    #[test]
    fn what_evidence_may_need_is_kept() {
        let chain = TestChain::builder(2).heights(12).build();
        let store = crate::store::MemStore::new();
        let blocks = chain.blocks.iter();
        let batch = crate::store::Batch {
            blocks: blocks.map(|b| record_of(&b.fetched)).collect(),
            ..Default::default()
        };
        store.commit(batch).unwrap();
        let horizon = |blocks: i64, age: i128| {
            let mut state = chain.state().clone();
            state.params.evidence_max_age_num_blocks = blocks;
            state.params.evidence_max_age_duration = i64::try_from(age).unwrap();
            evidence_horizon(&store, &state).unwrap().get()
        };
        let age = |height| {
            let time = chain.at(Height::new(height)).fetched.header().time;
            chain.state().last_block_time.since(time)
        };
        assert_eq!(chain.state().last_height, Height::new(12));
        assert_eq!(horizon(5, age(7) - 1), 7);
        assert_eq!(horizon(5, age(7)), 0, "just as old as it may be");
        assert_eq!(horizon(5, age(7) + 1), 0);
        assert_eq!(horizon(3, age(9) - 1), 9);
        // More blocks than there are.
        assert_eq!(horizon(12, 0), 0);
        assert_eq!(horizon(100, 0), 0);
    }

    /// A wrong signature may have passed through an honest node, a wrong shape may not.
    #[test]
    fn a_supplier_answers_for_the_shape_of_an_extended_commit() {
        let chain = TestChain::builder(2).extensions_from(2).heights(3).build();
        let at = Height::new(3);
        let judged = |lie: fn(&mut crate::chain::commit::ExtendedCommitSig)| {
            let mut block = chain.at(at).fetched.clone();
            lie(&mut block.ext_commit.as_mut().unwrap().signatures[0]);
            let needed = (true, &Rules::COMET_100);
            let (state, meters) = (chain.state_after(at.prev()), Meters::default());
            extended_commit(state, &block, needed, [1; 32], &meters)
        };
        assert_eq!(judged(|_| ()), Ok(()));
        let forged = judged(|entry| entry.extension = "forged".into());
        assert!(
            matches!(forged, Err(Fault::UncheckedExtendedCommit(_))),
            "{forged:?}"
        );
        let bare = judged(|entry| entry.extension_signature = Bytes::new());
        assert!(matches!(bare, Err(Fault::BadExtendedCommit(_))), "{bare:?}");
    }

    #[test]
    fn a_commit_is_kept_only_after_the_full_check() {
        let chain = TestChain::builder(1).heights(6).build();
        let (below, above) = (Height::new(5), Height::new(6));
        let wanted = Wanted {
            chain_id: chain.initial.chain_id.clone(),
            set: Arc::clone(chain.set_of(below)),
            id: chain.at(below).fetched.id,
            height: below,
            rules: Rules::COMET_038,
        };
        let carrier = &chain.at(above).fetched;
        let own = chain.at(below).with_seen_commit();
        let mut expected = Vec::new();
        chain.at(below).commit.encode(&mut expected);
        assert_eq!(
            commit_for(&wanted, carrier, false, [1; 32], &Meters::default()).unwrap(),
            expected
        );
        assert_eq!(
            commit_for(&wanted, &own, true, [1; 32], &Meters::default()).unwrap(),
            expected
        );
        let doctorings: [Doctoring; 4] = [
            |c| c.round += 1,
            |c| c.block_id = nowhere("doctored"),
            |c| c.signatures[2].signature = Signature::EMPTY,
            |c| c.signatures.clear(),
        ];
        for doctor in doctorings {
            let mut carrier = carrier.clone();
            carrier.checked = Default::default();
            doctor(&mut carrier.block.last_commit);
            let judged = commit_for(&wanted, &carrier, false, [1; 32], &Meters::default());
            assert!(matches!(judged, Err(Fault::BadCommit(_))), "{judged:?}");
            let mut own = chain.at(below).with_seen_commit();
            own.seen_commit.as_mut().map(doctor);
            let judged = commit_for(&wanted, &own, true, [1; 32], &Meters::default());
            assert!(matches!(judged, Err(Fault::BadCommit(_))), "{judged:?}");
        }
        let without = commit_for(
            &wanted,
            &chain.at(below).fetched,
            true,
            [1; 32],
            &Meters::default(),
        );
        assert!(matches!(without, Err(Fault::BadCommit(_))), "{without:?}");
    }
}
