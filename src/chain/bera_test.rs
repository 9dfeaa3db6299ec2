//! The vectors of Berachain's fork, made by its own code.

#![cfg(feature = "bls")]

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;

use super::basic::BasicError;
use super::commit::{BlockIdFlag, Commit, Signature};
use super::execution::UpdateKey;
use super::key::{KeyType, PublicKey};
use super::rules::Rules;
use super::signatures::SignatureBatch;
use super::testing::{hex, list, ok, text};
use super::time::Time;
use super::validators::{Validator, ValidatorSet};
use super::verify::{
    CommitError, Light, Share, push_trusting, verify_commit, verify_commit_light,
    verify_commit_light_trusting,
};
use crate::ids::Height;
use crate::wire::decode;

const CHAIN: &[u8] = b"vectors";
const RULES: &Rules = &Rules::BERA_100;
const HEIGHT: Height = Height::new(7);

fn rng() -> StdRng {
    StdRng::seed_from_u64(11)
}

fn vectors(name: &str) -> Value {
    let json = include_str!("../../tests/data/vectors-bera.json");
    serde_json::from_str::<Value>(json).unwrap()["groups"][name].take()
}

fn key(bytes: &[u8]) -> PublicKey {
    PublicKey::new(KeyType::Bls12381, bytes).unwrap()
}

fn set(group: &Value) -> ValidatorSet {
    let member = |v: &Value| Validator::new(key(&hex(&v["pub"])), v["power"].as_i64().unwrap());
    ValidatorSet::new(list(&group["validators"]).iter().map(member).collect()).unwrap()
}

fn full(rules: &Rules, set: &ValidatorSet, commit: &Commit) -> Result<(), CommitError> {
    let id = &commit.block_id;
    verify_commit(rules, CHAIN, set, id, HEIGHT, commit, &mut rng()).map(|_| ())
}

fn light(set: &ValidatorSet, commit: &Commit) -> Result<(), CommitError> {
    let (id, judged) = (&commit.block_id, (HEIGHT, commit));
    verify_commit_light(RULES, CHAIN, set, id, judged, Light::Enough, &mut rng()).map(|_| ())
}

#[test]
fn commits_are_judged_as_the_fork_judges_them() {
    let group = vectors("commits");
    let set = set(&group);
    let cases = list(&group["cases"]);
    assert_eq!(cases.len(), 16);
    for case in cases {
        let note = text(&case["note"]);
        let accepted = |column: &str| text(&case[column]).is_empty();
        let decoded = decode::commit_from_bytes(&hex(&case["commit"])).unwrap();
        let basic = decoded.check_basic();
        assert_eq!(basic.is_ok(), accepted("basic"), "{note}: {basic:?}");
        assert_eq!(decoded.hash().to_string(), text(&case["last_commit_hash"]));
        // The stateless check of this form is part of ours with the set.
        let found = full(RULES, &set, &decoded);
        let expected = accepted("basic") && accepted("full");
        assert_eq!(found.is_ok(), expected, "{note}: {found:?}");
        let found = light(&set, &decoded);
        let expected = accepted("basic") && accepted("light");
        assert_eq!(found.is_ok(), expected, "{note}: {found:?}");
        // Nobody else takes any of them.
        let found = full(&Rules::COMET_100, &set, &decoded);
        assert!(found.is_err(), "{note}");
    }
}

#[test]
fn keys_of_updates_are_read_as_the_fork_reads_them() {
    let group = vectors("keys");
    for case in list(&group["cases"]) {
        let bytes = hex(&case["bytes"]);
        let read = PublicKey::maybe_compressed(KeyType::Bls12381, &bytes);
        assert_eq!(read.is_ok(), ok(case), "{read:?}");
        assert_eq!(
            hex::encode(read.unwrap().as_bytes()),
            text(&case["reencoded"])
        );
        // Elsewhere the short form is no key.
        let elsewhere = UpdateKey::of_type(KeyType::Bls12381, bytes.clone().into());
        let long = matches!(elsewhere, UpdateKey::Known(_));
        assert_eq!(long, bytes.len() == 96);
    }
}

/// The vector's commit of this note, and its set of four with equal power.
fn noted(note: &str) -> (ValidatorSet, Commit) {
    let group = vectors("commits");
    let case = list(&group["cases"]).iter().find(|c| c["note"] == note);
    let commit = decode::commit_from_bytes(&hex(&case.unwrap()["commit"])).unwrap();
    (set(&group), commit)
}

fn whole() -> (ValidatorSet, Commit) {
    noted("all, aggregated")
}

fn trusting(set: &ValidatorSet, commit: &Commit) -> Result<i64, CommitError> {
    verify_commit_light_trusting(RULES, CHAIN, set, commit, Share::ONE_THIRD, &mut rng())
        .map(|tally| tally.power)
}

#[test]
fn a_changed_aggregate_is_named() {
    let (set, commit) = whole();
    let index = 0;
    assert_eq!(full(RULES, &set, &commit), Ok(()));
    let mut other_round = commit.clone();
    other_round.round += 1;
    let wrong = Err(CommitError::Aggregate {
        height: HEIGHT,
        index,
    });
    assert_eq!(full(RULES, &set, &other_round), wrong);
    assert_eq!(light(&set, &other_round), wrong);
    let mut timed = commit.clone();
    timed.signatures[1].timestamp = Time::new(1, 0).unwrap();
    let form = full(RULES, &set, &timed).unwrap_err().to_string();
    assert!(form.contains("entry 1: the vote has a time"), "{form}");
    let form = full(&Rules::COMET_100, &set, &commit).unwrap_err();
    let form = form.to_string();
    assert!(
        form.contains("entry 0: the vote is part of an agg"),
        "{form}"
    );
}

/// An aggregate is judged by the keys of all who are said to have part in it: all must be known,
/// each once, and nothing else.
#[test]
fn members_are_trusted_only_together() {
    let (set, commit) = whole();
    assert_eq!(trusting(&set, &commit), Ok(40));
    let mut other_round = commit.clone();
    other_round.round += 1;
    assert!(matches!(
        trusting(&set, &other_round),
        Err(CommitError::Aggregate { index: 0, .. })
    ));
    let rest: Vec<Validator> = set.iter().skip(1).cloned().collect();
    let (gone, rest) = (set.get(0).unwrap(), ValidatorSet::new(rest).unwrap());
    assert_eq!(
        trusting(&rest, &commit),
        Err(CommitError::Stranger {
            height: HEIGHT,
            index: 0,
            address: gone.address
        })
    );
    let mut twice = commit.clone();
    twice.signatures[3].address = twice.signatures[1].address;
    assert!(matches!(
        trusting(&set, &twice),
        Err(CommitError::Twice { .. })
    ));
    // Upstream's rules see no vote for the block at all.
    let mut batch = SignatureBatch::new();
    let rules = (&Rules::COMET_100, Light::All);
    let pushed = push_trusting(rules, CHAIN, &set, &commit, Share::ONE_THIRD, &mut batch);
    assert!(matches!(pushed, Err(CommitError::Power { found: 0, .. })));
}

/// Beside an aggregate the checks that do not read all entries look at nothing else: neither at an
/// aggregate of votes for nil nor at a vote with a signature of its own, be it wrong.
#[test]
fn what_stands_beside_an_aggregate_counts_for_nothing() {
    let (set, nil) = noted("three, one nil");
    assert_eq!(trusting(&set, &nil), Ok(30));
    let (set, mut mixed) = noted("aggregated and plain mixed");
    assert_eq!(mixed.signatures[3].flag, BlockIdFlag::Commit);
    mixed.signatures[3].signature = Signature::new(&[7; 96]).unwrap();
    assert_eq!(light(&set, &mixed), Ok(()));
    assert_eq!(trusting(&set, &mixed), Ok(30));
}

#[test]
fn faults_of_form_are_named() {
    let said = |note: &str, rules: &Rules| {
        let (set, commit) = noted(note);
        full(rules, &set, &commit).unwrap_err().to_string()
    };
    let second = said("two aggregated signatures", RULES);
    let expected = "a second aggregated signature for the same votes";
    assert!(second.contains(expected), "{second}");
    let empty = said("plain, an empty signature", &Rules::COMET_100);
    assert!(empty.contains("entry 3: expected a signature"), "{empty}");
    let (_, mut commit) = whole();
    commit.signatures[1].timestamp = Time::new(1, 0).unwrap();
    let timed = commit.check_basic();
    assert!(
        matches!(timed, Err(BasicError::TimedAggregate { index: 1, .. })),
        "{timed:?}"
    );
}

#[test]
fn keys_of_other_types_have_no_sum() {
    let (set, commit) = whole();
    let mut members: Vec<Validator> = set.iter().cloned().collect();
    members[3] = Validator::new(PublicKey::Ed25519([7; 32]), 1);
    let mixed = ValidatorSet::new(members).unwrap();
    let mut commit = commit;
    for (sig, seat) in commit.signatures.iter_mut().zip(mixed.iter()) {
        sig.address = seat.address;
    }
    let form = full(RULES, &mixed, &commit).unwrap_err().to_string();
    assert!(form.contains("the key is not of bls12_381"), "{form}");
    // The light check, which does not ask for types, finds no sum, and so no good signature.
    let wrong = light(&mixed, &commit);
    assert!(
        matches!(wrong, Err(CommitError::Aggregate { .. })),
        "{wrong:?}"
    );
}

#[test]
fn flags_are_those_of_the_wire() {
    for number in 1..=7 {
        assert_eq!(
            BlockIdFlag::from_wire(number).map(|flag| flag as i32),
            Some(number)
        );
    }
    assert_eq!(BlockIdFlag::from_wire(0), None);
    assert_eq!(BlockIdFlag::from_wire(8), None);
    let (_, commit) = whole();
    assert!(commit.is_aggregated());
    assert_eq!(commit.signature_count(), 1);
}
