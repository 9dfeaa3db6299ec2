//! Over random and mutated bytes: the canonical scan agrees with our encoder and with prost's, both
//! ways, and our decoder with prost's.

use std::cell::Cell;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::super::error::Problem;
use super::super::message::{BlockResponse, Message};
use super::super::{canonical, decode, fuzzing};
use super::chains::messages;
use super::mutate::{Change, Choices, Made, mutate};
use super::{by_prost, encoded};
use crate::chain::testing::{group, hex, ok, segments};
use crate::ids::BlockId;
use crate::ids::Height;

/// Blocks with all that a block can hold: those of the vectors below 10 kB, and some of a chain.
fn bases() -> Vec<Vec<u8>> {
    let vectors = group("blocks").iter().filter(|case| ok(case));
    let mut found: Vec<Vec<u8>> = vectors.map(|case| segments(&case["segments"])).collect();
    found.retain(|raw| raw.len() < 10_000);
    for message in messages("full-038").iter().step_by(83) {
        let limits = super::super::Limits::default();
        let fetched = decode::fetched_response(message, &limits).unwrap();
        found.push(fetched.raw.to_vec());
    }
    found
}

/// Whether prost's decoder means the same as CometBFT's after such a change: it merges timestamps
/// and members of a oneof that are there twice, and knows more types of keys.
fn prost_agrees(made: &Made) -> bool {
    let path = &made.path[..];
    let evidence = path.first() == Some(&3);
    let time = path.starts_with(&[1, 4]) || path.starts_with(&[4, 4, 3]);
    match made.change {
        Change::Swap | Change::Drop | Change::LongTag | Change::LongValue => true,
        Change::Unknown | Change::Number | Change::Type => !evidence,
        // With a header goes its time.
        Change::Repeat => !evidence && !time && path != [1],
        // A field put in beside a time may be a time.
        Change::Zero | Change::Noise => {
            !evidence && !time && !matches!(path, [_] | [1, _] | [4, 4, _])
        }
    }
}

/// A number of cases, without a file of those that failed: a failure prints its choices.
pub(super) fn config(cases: u32) -> Config {
    Config {
        failure_persistence: None,
        ..Config::with_cases(cases)
    }
}

#[test]
fn canonical_is_what_the_encoders_write() {
    let bases = bases();
    let strategy = (
        0..bases.len(),
        proptest::collection::vec(any::<u32>(), 64),
        1..3usize,
    );
    let [same, strange, refused] = [const { Cell::new(0u32) }; 3];
    let count = |cell: &Cell<u32>| cell.set(cell.get() + 1);
    let config = config(20_000);
    let result = TestRunner::new(config).run(&strategy, |(base, choices, times)| {
        let mut raw = bases[base].clone();
        let mut choices = choices.into_iter();
        let mut all = Vec::new();
        for _ in 0..times {
            let (next, made) = mutate(&raw, &mut Choices(&mut choices));
            raw = next;
            all.push(made);
        }
        let prost = by_prost(&raw).filter(|_| all.iter().all(prost_agrees));
        match decode::block_from_bytes(&Bytes::copy_from_slice(&raw)) {
            Ok(block) => {
                let ours = encoded(&block);
                let canonical = canonical::block(&raw);
                prop_assert_eq!(canonical, ours == raw, "{:?}", all);
                let stored = decode::stored_block(raw.clone().into(), None, BlockId::ZERO);
                prop_assert_eq!(stored.unwrap().canonical, canonical, "{:?}", all);
                if let Some(prost) = prost {
                    prop_assert_eq!(canonical, prost == raw, "{:?}", all);
                    prop_assert!(prost == ours, "{:?}", all);
                }
                count(if canonical { &same } else { &strange });
            }
            Err(error) => {
                let undecodable = matches!(
                    error.problem,
                    Problem::Truncated | Problem::Varint | Problem::Tag | Problem::WireType { .. }
                );
                prop_assert!(prost.is_none() || !undecodable, "{}: {:?}", error, all);
                count(&refused);
            }
        }
        Ok(())
    });
    result.unwrap();
    for cell in [&same, &strange, &refused] {
        assert!(
            cell.get() > 500,
            "too few of a kind: {same:?} {strange:?} {refused:?}"
        );
    }
}

/// The same for commits and extended commits, through the checks that the fuzz targets make.
#[test]
fn commits_too() {
    let protos = |name| group(name).iter().map(|case| hex(&case["proto"]));
    let bases: Vec<Vec<u8>> = protos("extended_commits")
        .chain(protos("commit_hash"))
        .collect();
    let strategy = (0..bases.len(), proptest::collection::vec(any::<u32>(), 32));
    let result = TestRunner::new(config(5_000)).run(&strategy, |(base, choices)| {
        let mut choices = choices.into_iter();
        let (raw, _) = mutate(&bases[base], &mut Choices(&mut choices));
        fuzzing::canonical(&raw);
        Ok(())
    });
    result.unwrap();
}

/// A message around a block, changed anywhere.
#[test]
fn messages_hold_what_the_fuzzer_demands() {
    let extended = Bytes::from(hex(&group("extended_commits")[0]["proto"]));
    let mut bases: Vec<Bytes> = group("blocksync_messages")
        .iter()
        .map(|case| hex(&case["message"]).into())
        .collect();
    for block in bases_of_messages() {
        bases.push(block.encode());
        bases.push(
            BlockResponse {
                ext_commit: Some(extended.clone()),
                ..block
            }
            .encode(),
        );
    }
    let strategy = (0..bases.len(), proptest::collection::vec(any::<u32>(), 48));
    let result = TestRunner::new(config(5_000)).run(&strategy, |(base, choices)| {
        let mut choices = choices.into_iter();
        let (raw, _) = mutate(&bases[base], &mut Choices(&mut choices));
        fuzzing::message(&raw);
        Ok(())
    });
    result.unwrap();
}

fn bases_of_messages() -> Vec<BlockResponse> {
    let response = |raw: Vec<u8>| BlockResponse {
        block: raw.into(),
        ..BlockResponse::default()
    };
    bases().into_iter().map(response).collect()
}

proptest! {
    #![proptest_config(config(2_000))]

    #[test]
    fn noise_breaks_nothing(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        fuzzing::message(&data);
        fuzzing::frame(&data);
        fuzzing::canonical(&data);
    }

    #[test]
    fn small_messages_survive_the_wire(
        height in 0..=i64::MAX as u64, base in 0..=i64::MAX as u64, count: u32
    ) {
        let (height, base) = (Height::new(height.max(base)), Height::new(base.min(height)));
        for message in [
            Message::BlockRequest { height, count },
            Message::NoBlock { height },
            Message::StatusRequest,
            Message::Status { height, base, max_range: count.max(1) },
        ] {
            let bytes = message.encode();
            fuzzing::message(&bytes);
            prop_assert_eq!(Message::decode_small(&bytes), Ok(message));
        }
    }
}
