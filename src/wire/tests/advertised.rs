//! Signed statuses of any content: each is read as it was written, and whatever is changed on its
//! way is refused in order, or read as it then is.

use std::cell::Cell;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::super::{Advertisement, Claim, Message, decode, fuzzing};
use super::mutate::{Choices, mutate};
use super::random::config;
use crate::chain::height_proof::HeightProof;
use crate::chain::testing::{group, hex, ok, segments};
use crate::ids::Height;

/// Proofs whose parts need not belong together, of CometBFT's headers and commits.
fn proofs() -> Vec<HeightProof> {
    let blocks = group("blocks").iter().filter(|case| ok(case));
    let headers = blocks.map(|case| decode::header_of_block(&segments(&case["segments"])).unwrap());
    let commits = group("commit_hash").iter().cycle();
    let commits = commits.map(|case| decode::commit_from_bytes(&hex(&case["proto"])).unwrap());
    let pairs = headers.zip(commits);
    let proofs = pairs.map(|(header, commit)| HeightProof { header, commit });
    proofs.collect()
}

#[test]
fn any_advertisement_is_read_as_it_was_written() {
    let proofs = proofs();
    assert!(proofs.len() > 3);
    let claims = (
        any::<[u64; 3]>(),
        any::<i64>(),
        option::of(any::<[u8; 16]>()),
    );
    let keys = any::<[[u8; 32]; 3]>();
    let proof = option::of(0..proofs.len());
    let strategy = (claims, keys, proof, vec(any::<u32>(), 16));
    let [read, refused] = [const { Cell::new(0u32) }; 2];
    let result = TestRunner::new(config(10_000)).run(&strategy, |(claim, keys, proof, choices)| {
        let ([base, height, sequence], time, nonce) = claim;
        let (base, height) = (Height::new(base), Height::new(height));
        let [key, first, second] = keys;
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&first);
        signature[32..].copy_from_slice(&second);
        let signed = Advertisement {
            key,
            claim: Claim {
                base,
                height,
                sequence,
                time,
                nonce,
            },
            proof: proof.map(|n| proofs[n].clone()),
            signature,
        };
        let status = Message::Status {
            height,
            base: height.min(base),
            max_range: 1,
        };
        let message = signed.beside(&status);
        prop_assert_eq!(Advertisement::read(&message), Ok(Some(signed)));
        prop_assert_eq!(Message::decode_small(&message), Ok(status));
        let cut = choices[0] as usize % message.len();
        fuzzing::message(&message[..cut]);
        let mut choices = choices.into_iter();
        let (changed, _) = mutate(&message, &mut Choices(&mut choices));
        fuzzing::message(&changed);
        let still = matches!(Advertisement::read(&changed), Ok(Some(_)));
        let cell = if still { &read } else { &refused };
        cell.set(cell.get() + 1);
        Ok(())
    });
    result.unwrap();
    assert!(
        read.get() > 1000 && refused.get() > 1000,
        "{read:?} {refused:?}"
    );
}
