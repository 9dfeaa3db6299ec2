//! Each check of a block, by itself and against the state, broken alone.

use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::basic::{BasicError, MAX_EXTENSION};
use super::block::Block;
use super::commit::{BlockIdFlag, Commit, MAX_SIGNATURE, Signature};
use super::median::median_time;
use super::rules::Rules;
use super::state::ChainState;
use super::testkit::{ABSENT, BlockSpec, TestChain, nowhere, resealed};
use super::time::Time;
use super::validate::{LastCommit, Mismatch as M, validate_block};
use super::verify::CommitError;
use crate::ids::{Address, BlockId, Hash, Height};

fn chain() -> TestChain {
    TestChain::builder(5)
        .powers(&[40, 30, 20, 10])
        .change(4, 4, 5)
        .heights(8)
        .build()
}

fn h(height: u64) -> Height {
    Height::new(height)
}

fn held(state: &ChainState, block: &Block) -> Result<(), M> {
    let mut rng = StdRng::seed_from_u64(1);
    let commit = LastCommit::Verify(&mut rng);
    validate_block(state, block, &Rules::COMET_038, commit, None)
}

#[test]
fn every_block_of_a_chain_fits_the_state_before_it() {
    let chain = chain();
    for block in &chain.blocks {
        let b = &block.fetched.block;
        b.check_basic().unwrap();
        b.check_links().unwrap();
        held(chain.state_after(b.header.height.prev()), b).unwrap();
    }
}

/// Breaks one thing of block 6 or of the state before it, and tells the error that must follow.
type Break = (fn(&mut ChainState, &mut Block), fn(&M) -> bool);
/// Breaks one thing of a block alone.
type BreakAlone = (fn(&mut Block), fn(&BasicError) -> bool);

fn breaks_of_the_header() -> Vec<Break> {
    vec![
        (
            |_, b| b.header.version_block = 10,
            |m| matches!(m, M::BlockProtocol { found: 10, .. }),
        ),
        (
            |_, b| b.header.version_app = 9,
            |m| {
                matches!(
                    m,
                    M::AppVersion {
                        found: 9,
                        expected: 1,
                        ..
                    }
                )
            },
        ),
        (
            |_, b| b.header.chain_id = "x".into(),
            |m| matches!(m, M::ChainId { .. }),
        ),
        (
            |_, b| b.header.height = h(7),
            |m| matches!(m, M::Height { expected, .. } if *expected == h(6)),
        ),
        (
            |_, b| b.header.last_block_id = nowhere("x"),
            |m| matches!(m, M::LastBlockId { .. }),
        ),
        (
            |_, b| b.header.app_hash = "x".into(),
            |m| matches!(m, M::AppHash { .. }),
        ),
        (
            |_, b| b.header.consensus_hash = None,
            |m| matches!(m, M::ConsensusHash { found: None, .. }),
        ),
        (
            |_, b| b.header.last_results_hash = None,
            |m| matches!(m, M::LastResultsHash { .. }),
        ),
        (
            |_, b| b.header.validators_hash = None,
            |m| matches!(m, M::ValidatorsHash { .. }),
        ),
        (
            |_, b| b.header.next_validators_hash = None,
            |m| matches!(m, M::NextValidatorsHash { .. }),
        ),
        (
            |_, b| b.header.proposer_address = Address([1; 20]),
            |m| matches!(m, M::Proposer { .. }),
        ),
    ]
}

fn breaks_of_signers_and_time() -> Vec<Break> {
    vec![
        (
            |s, _| s.last_validators = None,
            |m| matches!(m, M::NoLastValidators { .. }),
        ),
        (
            |_, b| b.last_commit.signatures[3].signature = Signature::EMPTY,
            |m| {
                matches!(
                    m,
                    M::LastCommit {
                        error: CommitError::Signature { index: 3, .. },
                        ..
                    }
                )
            },
        ),
        (
            |_, b| b.last_commit.round = 1,
            |m| {
                matches!(
                    m,
                    M::LastCommit {
                        error: CommitError::Signature { index: 0, .. },
                        ..
                    }
                )
            },
        ),
        (
            |_, b| b.last_commit.height = h(4),
            |m| {
                matches!(
                    m,
                    M::LastCommit {
                        error: CommitError::Height { .. },
                        ..
                    }
                )
            },
        ),
        (
            |_, b| b.last_commit.block_id = nowhere("x"),
            |m| {
                matches!(
                    m,
                    M::LastCommit {
                        error: CommitError::BlockId { .. },
                        ..
                    }
                )
            },
        ),
        (
            |s, b| s.last_block_time = b.header.time,
            |m| matches!(m, M::TimeNotAfter { .. }),
        ),
        (
            |_, b| b.header.time.nanos += 1,
            |m| matches!(m, M::BlockTime { .. }),
        ),
        (
            |s, _| s.params.evidence_max_bytes = -1,
            |m| matches!(m, M::EvidenceSize { found: 0, .. }),
        ),
    ]
}

#[test]
fn each_difference_from_the_state_is_an_error_of_its_own() {
    let cases = [breaks_of_the_header(), breaks_of_signers_and_time()].concat();
    let chain = chain();
    for (number, (change, expected)) in cases.into_iter().enumerate() {
        let mut state = chain.state_after(h(5)).clone();
        let mut block = chain.at(h(6)).fetched.block.clone();
        change(&mut state, &mut block);
        let found = held(&state, &block).unwrap_err();
        assert!(expected(&found), "case {number}: {found:?}");
        let text = found.to_string();
        assert!(
            text.contains("block 6") || text.contains("block 7"),
            "{text}"
        );
    }
}

#[test]
fn the_first_block_has_rules_of_its_own() {
    let chain = TestChain::builder(5).initial_height(3).heights(2).build();
    let (state, block) = (&chain.initial, &chain.at(h(3)).fetched.block);
    held(state, block).unwrap();
    let mut early = block.clone();
    early.header.time.nanos -= 1;
    assert!(matches!(held(state, &early), Err(M::GenesisTime { .. })));
    // 1.0 lets it be later, but not earlier.
    let mut late = block.clone();
    late.header.time.nanos += 1;
    assert!(matches!(held(state, &late), Err(M::GenesisTime { .. })));
    let by_one = |block| {
        let commit = LastCommit::AlreadyVerified;
        validate_block(state, block, &Rules::COMET_100, commit, None)
    };
    by_one(&late).unwrap();
    let refused = by_one(&early).unwrap_err();
    assert!(
        matches!(refused, M::GenesisTime { or_later: true, .. }),
        "{refused}"
    );
    assert!(
        refused.to_string().contains("by the rules of comet-1.0"),
        "{refused}"
    );
    let mut signed = block.clone();
    signed.last_commit.signatures.push(ABSENT);
    assert!(matches!(
        held(state, &signed),
        Err(M::InitialCommit { found: 1, .. })
    ));
    let mut linked = block.clone();
    linked.header.last_block_id = nowhere("x");
    assert!(matches!(held(state, &linked), Err(M::LastBlockId { .. })));
    let mut other = block.clone();
    other.header.height = h(1);
    assert!(matches!(held(state, &other), Err(M::Height { .. })));
}

#[test]
fn verified_commits_are_checked_but_for_their_signatures() {
    let chain = chain();
    let (state, mut block) = (
        chain.state_after(h(5)),
        chain.at(h(6)).fetched.block.clone(),
    );
    let quick = |b: &Block| {
        validate_block(
            state,
            b,
            &Rules::COMET_038,
            LastCommit::AlreadyVerified,
            None,
        )
    };
    block.last_commit.signatures[3].signature = Signature::EMPTY;
    quick(&block).unwrap();
    block.last_commit.signatures.swap(0, 1);
    assert!(matches!(
        quick(&block),
        Err(M::LastCommit {
            error: CommitError::Address { .. },
            ..
        })
    ));
}

/// A nil vote moves the median by one set of rules and not by the other; the message names the
/// rules and the setting.
#[test]
fn block_time_names_the_rules_that_it_breaks() {
    let build = |rules| {
        let builder = TestChain::builder(5).powers(&[30, 30, 30, 30]).rules(rules);
        builder.vote(3, 0, BlockIdFlag::Nil).heights(4).build()
    };
    for (ours, theirs) in [
        (Rules::COMET_038, Rules::COMET_040),
        (Rules::COMET_040, Rules::COMET_038),
    ] {
        let chain = build(theirs);
        let (state, block) = (chain.state_after(h(3)), &chain.at(h(4)).fetched.block);
        let held = |rules| validate_block(state, block, &rules, LastCommit::AlreadyVerified, None);
        held(theirs).unwrap();
        let set = state.last_validators.as_ref().unwrap();
        let median = median_time(&block.last_commit, set, &ours).unwrap();
        let error = held(ours).unwrap_err();
        assert_eq!(
            error,
            M::BlockTime {
                height: h(4),
                expected: median,
                found: block.header.time,
                rules: ours.name,
                nil_votes_count: ours.nil_votes_count_in_time,
            }
        );
        let text = error.to_string();
        assert!(
            text.contains(ours.name) && text.contains("--rules"),
            "{text}"
        );
        assert!(text.contains(&median.to_string()), "{text}");
    }
}

#[test]
fn a_block_ahead_of_our_clock_is_told_from_a_wrong_one() {
    let chain = chain();
    let (state, block) = (chain.state_after(h(5)), &chain.at(h(6)).fetched.block);
    let time = block.header.time;
    let by = |rules: &Rules, state: &ChainState, seconds: i64| {
        let now = Time::new(time.seconds + seconds, time.nanos).unwrap();
        let clock = Some((now, Duration::from_secs(60)));
        validate_block(state, block, rules, LastCommit::AlreadyVerified, clock)
    };
    let at = |state: &ChainState, seconds| by(&Rules::COMET_038, state, seconds);
    for without in [Rules::COMET_034, Rules::COMET_037, Rules::COMET_100] {
        by(&without, state, -60).unwrap();
    }
    at(state, -59).unwrap();
    at(state, 1000).unwrap();
    assert!(matches!(at(state, -60), Err(M::AheadOfClock { .. })));
    // Waiting does not help a block that contradicts our state: that is said first.
    let mut wrong = state.clone();
    wrong.app_hash = "x".into();
    assert!(matches!(at(&wrong, -60), Err(M::AppHash { .. })));
}

#[test]
fn a_set_with_another_proposer_is_the_same_set() {
    let chain = chain();
    let mut state = chain.state_after(h(5)).clone();
    state.validators = Arc::new(state.validators.increment(3));
    let mut block = chain.at(h(6)).fetched.block.clone();
    block.header.proposer_address = state.validators.get(3).unwrap().address;
    held(&state, &block).unwrap();
}

#[test]
fn each_stateless_check_is_an_error_of_its_own() {
    let cases: Vec<BreakAlone> = vec![
        (
            |b| b.header.version_block = 1,
            |e| matches!(e, BasicError::BlockProtocol { found: 1, .. }),
        ),
        (
            |b| b.header.chain_id = vec![b'x'; 51].into(),
            |e| matches!(e, BasicError::ChainIdLength { found: 51, .. }),
        ),
        (
            |b| b.header.height = Height::ZERO,
            |e| matches!(e, BasicError::ZeroHeight),
        ),
        (
            |b| b.last_commit.round = -1,
            |e| matches!(e, BasicError::NegativeRound { found: -1, .. }),
        ),
        (
            |b| b.last_commit.block_id = BlockId::ZERO,
            |e| matches!(e, BasicError::CommitForNil { .. }),
        ),
        (
            |b| b.last_commit.signatures.clear(),
            |e| matches!(e, BasicError::NoSignatures { .. }),
        ),
        (
            |b| b.last_commit.signatures[1].flag = BlockIdFlag::Absent,
            |e| matches!(e, BasicError::AbsentNotEmpty { index: 1, .. }),
        ),
        (
            |b| b.last_commit.signatures[1].signature = Signature::EMPTY,
            |e| matches!(e, BasicError::SignatureMissing { index: 1, .. }),
        ),
        (
            |b| b.last_commit.signatures[0] = ABSENT,
            |e| matches!(e, BasicError::LastCommitHash { .. }),
        ),
        (
            |b| b.header.data_hash = None,
            |e| matches!(e, BasicError::DataHash { expected: None, .. }),
        ),
        (
            |b| b.header.evidence_hash = Some(Hash([0; 32])),
            |e| matches!(e, BasicError::EvidenceHash { .. }),
        ),
    ];
    let chain = chain();
    for (number, (change, expected)) in cases.into_iter().enumerate() {
        let mut block = chain.at(h(6)).fetched.block.clone();
        change(&mut block);
        let found = block.check_basic().unwrap_err();
        assert!(expected(&found), "case {number}: {found:?}");
        // `check_body` finds errors that only the body's hashes tell; `check_structure` finds the
        // others.
        let of_body = number >= 8;
        assert_eq!(block.check_structure().is_ok(), of_body, "case {number}");
        assert_eq!(
            block.check_body().is_err(),
            of_body || block != resealed(block.clone())
        );
    }
}

#[test]
fn header_and_last_commit_must_name_the_same_block() {
    let chain = chain();
    let block = &chain.at(h(6)).fetched.block;
    let with = |change: fn(&mut Commit)| {
        let mut block = block.clone();
        change(&mut block.last_commit);
        block.check_links()
    };
    with(|_| {}).unwrap();
    assert!(matches!(
        with(|c| c.height = h(6)),
        Err(BasicError::LastCommitHeight { .. })
    ));
    assert!(matches!(
        with(|c| c.block_id.parts.total = 9),
        Err(BasicError::LastCommitBlockId { .. })
    ));
    chain.at(h(1)).fetched.block.check_links().unwrap();
}

#[test]
fn extended_commits_have_limits() {
    let mut chain = TestChain::builder(5).extensions_from(2).heights(2).build();
    chain.push(&BlockSpec {
        votes: vec![(1, BlockIdFlag::Nil)],
        ..BlockSpec::default()
    });
    let commit = chain.at(h(3)).fetched.ext_commit.clone().unwrap();
    commit.check_basic().unwrap();
    assert!(chain.at(h(1)).fetched.ext_commit.is_none());
    let mut large = commit.clone();
    large.signatures[0].extension = vec![0; MAX_EXTENSION + 1].into();
    assert!(matches!(
        large.check_basic(),
        Err(BasicError::ExtensionSize { index: 0, .. })
    ));
    large.signatures[0].extension = vec![0; MAX_EXTENSION].into();
    large.check_basic().unwrap();
    large.signatures[0].extension_signature = vec![0; MAX_SIGNATURE].into();
    large.check_basic().unwrap();
    large.signatures[0].extension_signature = vec![0; MAX_SIGNATURE + 1].into();
    assert!(matches!(
        large.check_basic(),
        Err(BasicError::ExtensionSignatureSize {
            index: 0,
            found: 3310,
            ..
        })
    ));
    let mut unsigned = commit;
    unsigned.signatures[1].extension = "x".into();
    assert!(matches!(
        unsigned.check_basic(),
        Err(BasicError::ExtensionUnsigned { index: 1, .. })
    ));
}
