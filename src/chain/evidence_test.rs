//! Evidence in blocks of a chain with real keys: what the vectors leave out, which is time, expiry,
//! repetition and look-ups.

use std::collections::HashSet;
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::block::Block;
use super::commit::{BlockIdFlag, Commit, Signature};
use super::evidence::{
    Evidence, LightBlock, LightClientAttackEvidence, RawValidator, ValidatorForm,
};
use super::evidence_check::{EvidenceContext, LookupError, Refusal, check_evidence};
use super::header::Header;
use super::rules::Rules;
use super::state::ChainState;
use super::testkit::{BlockSpec, TestChain, resealed};
use super::validators::{Validator, ValidatorSet};
use crate::ids::{Hash, Height};

/// Lookups of a node that has applied a test chain.
struct Known<'a> {
    chain: &'a TestChain,
    committed: HashSet<Hash>,
    /// The lowest height that it has.
    base: Height,
}

impl Known<'_> {
    fn has(&self, height: Height) -> bool {
        self.base <= height && height <= self.chain.height()
    }
}

impl EvidenceContext for Known<'_> {
    fn set_at(&self, height: Height) -> Result<Option<Arc<ValidatorSet>>, LookupError> {
        Ok(self
            .has(height)
            .then(|| Arc::clone(self.chain.set_of(height))))
    }

    fn header_at(&self, height: Height) -> Result<Option<Header>, LookupError> {
        let header = || self.chain.at(height).fetched.block.header.clone();
        Ok(self.has(height).then(header))
    }

    fn commit_at(&self, height: Height) -> Result<Option<Commit>, LookupError> {
        Ok(self
            .has(height)
            .then(|| self.chain.at(height).commit.clone()))
    }

    fn committed(&self, identity: &Hash) -> Result<bool, LookupError> {
        Ok(self.committed.contains(identity))
    }
}

fn h(height: u64) -> Height {
    Height::new(height)
}

fn known(chain: &TestChain) -> Known<'_> {
    Known {
        chain,
        committed: HashSet::new(),
        base: h(1),
    }
}

fn check(state: &ChainState, known: &Known<'_>, evidence: Vec<Evidence>) -> Result<(), Refusal> {
    check_by(&Rules::COMET_038, state, known, evidence)
}

fn check_by(
    rules: &Rules,
    state: &ChainState,
    known: &Known<'_>,
    evidence: Vec<Evidence>,
) -> Result<(), Refusal> {
    for item in &evidence {
        item.check_basic().unwrap();
    }
    let mut block: Block = known.chain.at(h(1)).fetched.block.clone();
    block.header.height = state.next_height();
    block.evidence = evidence;
    let mut rng = StdRng::seed_from_u64(1);
    check_evidence(state, &block, rules, known, &mut rng).map_err(|e| *e.why)
}

#[test]
fn duplicate_votes_are_judged_by_what_was_applied() {
    let chain = TestChain::builder(8).heights(10).build();
    let (state, known) = (chain.state(), known(&chain));
    let good = chain.duplicate_vote(h(6), "a");
    check(
        state,
        &known,
        vec![good.clone(), chain.duplicate_vote(h(6), "b")],
    )
    .unwrap();

    let identity = good.identity();
    let repeated = check(state, &known, vec![good.clone(), good.clone()]);
    assert_eq!(repeated, Err(Refusal::Repeated { identity, first: 0 }));

    let mut seen = self::known(&chain);
    seen.committed.insert(identity);
    assert_eq!(
        check(state, &seen, vec![good.clone()]),
        Err(Refusal::Committed(identity))
    );

    let mut pruned = self::known(&chain);
    pruned.base = h(7);
    let unknown = Refusal::Unknown {
        what: "header",
        height: h(6),
    };
    assert_eq!(
        check(state, &pruned, vec![good.clone()]),
        Err(unknown.clone())
    );
    // A stored block that is not applied yet does not count.
    assert_eq!(
        check(chain.state_after(h(5)), &known, vec![good.clone()]),
        Err(unknown)
    );

    let Evidence::DuplicateVote(mut late) = good else {
        unreachable!()
    };
    late.timestamp.nanos += 1;
    let late = check(state, &known, vec![Evidence::DuplicateVote(late)]);
    assert!(matches!(late, Err(Refusal::Time { .. })), "{late:?}");
}

#[test]
fn evidence_expires_in_time_and_in_blocks() {
    let chain = TestChain::builder(8).heights(10).build();
    let (known, good) = (known(&chain), chain.duplicate_vote(h(4), "a"));
    let with = |blocks: i64, nanos: i64| {
        let mut state = chain.state().clone();
        state.params.evidence_max_age_num_blocks = blocks;
        state.params.evidence_max_age_duration = nanos;
        check(&state, &known, vec![good.clone()])
    };
    with(6, 1).unwrap();
    with(1, 1_000_000_000_000).unwrap();
    assert!(matches!(with(5, 1), Err(Refusal::Expired { .. })));
}

fn raw(v: &Validator) -> RawValidator {
    RawValidator {
        address: bytes::Bytes::copy_from_slice(v.address.as_ref()),
        key: Some(v.key.clone()),
        power: v.power,
        priority: 0,
        form: ValidatorForm::Key,
    }
}

/// All validators of `fork` at `height` have signed its block, and a light client of `chain` was
/// shown that.
fn attack(chain: &TestChain, fork: &TestChain, common: u64, height: u64) -> Evidence {
    let (shown, common_set) = (fork.at(h(height)), chain.set_of(h(common)));
    let set = fork.set_of(h(height));
    Evidence::LightClientAttack(Box::new(LightClientAttackEvidence {
        conflicting_block: Box::new(LightBlock {
            header: shown.fetched.block.header.clone(),
            commit: shown.commit.clone(),
            validators: set.iter().map(raw).collect(),
            proposer: raw(set.get(0).unwrap()),
        }),
        common_height: h(common),
        byzantine_validators: common_set.iter().map(raw).collect(),
        total_voting_power: common_set.total_power(),
        timestamp: chain.at(h(common)).fetched.block.header.time,
    }))
}

#[test]
fn attacks_on_light_clients() {
    let chain = TestChain::builder(8)
        .powers(&[40, 30, 20, 10])
        .heights(10)
        .build();
    let (state, known) = (chain.state(), known(&chain));
    let mut fork = chain.up_to(h(5));
    fork.push(&BlockSpec {
        txs: vec!["fork=1".into()],
        ..BlockSpec::default()
    });
    fork.grow(2);
    // Equivocation at 6; at 7 the application's hash differs, which makes it lunatic from 5 on.
    check(state, &known, vec![attack(&chain, &fork, 6, 6)]).unwrap();
    check(state, &known, vec![attack(&chain, &fork, 5, 6)]).unwrap();
    let own = check(state, &known, vec![attack(&chain, &chain, 6, 6)]);
    assert!(matches!(own, Err(Refusal::SameHeader(_))), "{own:?}");

    let mut longer = chain.up_to(h(5));
    longer.push(&BlockSpec {
        txs: vec!["a=1".into(), "b=1".into()],
        ..BlockSpec::default()
    });
    longer.grow(2);
    check(state, &known, vec![attack(&chain, &longer, 5, 7)]).unwrap();
    let same = check(state, &known, vec![attack(&chain, &longer, 7, 7)]);
    assert_eq!(same, Err(Refusal::NotDerived(h(7))));

    // Another round: amnesia, of which nobody is to blame.
    let mut amnesia = chain.up_to(h(5));
    amnesia.push(&BlockSpec {
        txs: vec!["c=1".into()],
        round: 1,
        ..BlockSpec::default()
    });
    let nobody = check(state, &known, vec![attack(&chain, &amnesia, 6, 6)]);
    assert_eq!(nobody, Err(Refusal::NobodyToBlame));

    // Less than two thirds of its own set.
    let mut weak = chain.up_to(h(5));
    let absent = vec![(0, BlockIdFlag::Absent)];
    weak.push(&BlockSpec {
        txs: vec!["d=1".into()],
        votes: absent,
        ..BlockSpec::default()
    });
    let refused = check(state, &known, vec![attack(&chain, &weak, 6, 6)]);
    assert!(
        matches!(refused, Err(Refusal::Conflicting(_))),
        "{refused:?}"
    );
}

type AttackChange = fn(&mut LightClientAttackEvidence);

/// Three validators have signed both blocks of one height, and the fourth has voted for nil in the
/// other one. Judges the evidence, changed, by these rules.
fn equivocation_by(rules: &Rules, change: AttackChange) -> Result<(), Refusal> {
    let chain = TestChain::builder(8)
        .powers(&[40, 30, 20, 10])
        .heights(10)
        .build();
    let mut fork = chain.up_to(h(5));
    fork.push(&BlockSpec {
        txs: vec!["fork=1".into()],
        votes: vec![(3, BlockIdFlag::Nil)],
        ..BlockSpec::default()
    });
    let Evidence::LightClientAttack(mut e) = attack(&chain, &fork, 6, 6) else {
        panic!("an attack");
    };
    change(&mut e);
    let evidence = vec![Evidence::LightClientAttack(e)];
    check_by(rules, chain.state(), &known(&chain), evidence)
}

fn blame_three(e: &mut LightClientAttackEvidence) {
    e.byzantine_validators.truncate(3);
}

#[test]
fn votes_for_nil_and_other_keys_are_blamed_by_the_rules() {
    // The fourth has voted for nil: up to 0.37 it is to blame, too.
    let all: AttackChange = |_| {};
    equivocation_by(&Rules::COMET_037, all).unwrap();
    equivocation_by(&Rules::COMET_038, blame_three).unwrap();
    for (rules, change) in [
        (Rules::COMET_038, all),
        (Rules::COMET_034, blame_three as AttackChange),
    ] {
        let refused = equivocation_by(&rules, change);
        assert!(
            matches!(refused, Err(Refusal::BlameCount { .. })),
            "{rules}"
        );
    }
    // 0.34 goes by the address that the item names.
    let swapped: AttackChange =
        |e| e.byzantine_validators[0].key = e.byzantine_validators[1].key.clone();
    equivocation_by(&Rules::COMET_034, swapped).unwrap();
    let refused = equivocation_by(&Rules::COMET_037, swapped);
    assert!(matches!(refused, Err(Refusal::Blame { .. })), "{refused:?}");
}

#[test]
fn attacks_are_read_by_the_rules() {
    let of_one: AttackChange = |e| {
        blame_three(e);
        let block = &mut e.conflicting_block;
        let members = block.validators.iter_mut().chain([&mut block.proposer]);
        for validator in members.chain(&mut e.byzantine_validators) {
            validator.form = ValidatorForm::BytesAndType;
        }
    };
    equivocation_by(&Rules::COMET_100, of_one).unwrap();
    for (rules, change) in [
        (Rules::COMET_038, of_one),
        (Rules::COMET_100, blame_three as AttackChange),
    ] {
        let refused = equivocation_by(&rules, change);
        assert!(matches!(refused, Err(Refusal::Form { .. })), "{refused:?}");
    }
    // Nobody verifies the vote for nil, but its length is read.
    let long: AttackChange = |e| {
        blame_three(e);
        let vote = &mut e.conflicting_block.commit.signatures[3];
        vote.signature = Signature::new(&[7; 96]).unwrap();
    };
    equivocation_by(&Rules::COMET_039, long).unwrap();
    let short = Rules {
        max_signature_len: 64,
        ..Rules::COMET_038
    };
    let refused = equivocation_by(&short, long);
    assert!(
        matches!(
            refused,
            Err(Refusal::SignatureLength {
                index: 3,
                found: 96,
                ..
            })
        ),
        "{refused:?}"
    );
}

/// The blamed are compared with their keys: the application is told the key's address.
#[test]
fn a_swapped_key_does_not_shift_the_blame() {
    let chain = TestChain::builder(8).heights(10).build();
    let mut fork = chain.up_to(h(5));
    fork.push(&BlockSpec {
        txs: vec!["fork=1".into()],
        ..BlockSpec::default()
    });
    let Evidence::LightClientAttack(good) = attack(&chain, &fork, 6, 6) else {
        unreachable!()
    };
    let refused = |change: fn(&mut LightClientAttackEvidence)| {
        let mut item = good.clone();
        change(&mut item);
        check(
            chain.state(),
            &known(&chain),
            vec![Evidence::LightClientAttack(item)],
        )
    };
    refused(|_| {}).unwrap();
    let swapped =
        refused(|e| e.byzantine_validators[0].key = e.byzantine_validators[1].key.clone());
    assert!(
        matches!(swapped, Err(Refusal::Blame { index: 0, .. })),
        "{swapped:?}"
    );
    let order = refused(|e| e.byzantine_validators.swap(2, 3));
    assert!(
        matches!(order, Err(Refusal::Blame { index: 2, .. })),
        "{order:?}"
    );
    let power = refused(|e| e.byzantine_validators[3].power += 1);
    assert!(
        matches!(power, Err(Refusal::Blame { index: 3, .. })),
        "{power:?}"
    );
    let short = refused(|e| e.byzantine_validators.truncate(3));
    assert_eq!(
        short,
        Err(Refusal::BlameCount {
            expected: 4,
            found: 3
        })
    );
    let total = refused(|e| e.total_voting_power += 1);
    assert!(
        matches!(total, Err(Refusal::Power { whose: "total", .. })),
        "{total:?}"
    );
}

/// A header of a height that we have not reached is an attack when its time has not come either.
#[test]
fn attacks_from_the_future() {
    let chain = TestChain::builder(8).heights(10).build();
    let mut fork = chain.up_to(h(5));
    fork.push(&BlockSpec {
        txs: vec!["a=1".into(), "b=1".into()],
        ..BlockSpec::default()
    });
    fork.grow(6);
    let later = check(
        chain.state(),
        &known(&chain),
        vec![attack(&chain, &fork, 5, 12)],
    );
    assert!(
        matches!(later, Err(Refusal::NotForward { .. })),
        "{later:?}"
    );

    // Height 12 at the time of block 10: signed anew.
    let mut block = fork.at(h(12)).fetched.block.clone();
    block.header.time = chain.at(h(10)).fetched.block.header.time;
    let block = super::testkit::fetched(resealed(block));
    let commit = fork.sign(h(12), 0, block.id, |_| BlockIdFlag::Commit);
    let Evidence::LightClientAttack(mut item) = attack(&chain, &fork, 5, 12) else {
        unreachable!()
    };
    item.conflicting_block.header = block.block.header;
    item.conflicting_block.commit = commit;
    let item = Evidence::LightClientAttack(item);
    check(chain.state(), &known(&chain), vec![item]).unwrap();
}
