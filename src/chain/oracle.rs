//! Our hashes and sign bytes against the `tendermint` crate's, an implementation of another hand,
//! over random values.

use bytes::Bytes;
use proptest::prelude::*;
use tendermint_proto::Protobuf;
use tendermint_proto::v0_38::types as pb;

use super::commit::{Signature, VoteForm};
use super::evidence::Vote;
use super::header::Header;
use super::key::PublicKey;
use super::time::Time;
use super::validators::{MAX_TOTAL_POWER, Validator, ValidatorSet};
use crate::ids::{Address, BlockId, Hash, Height};

fn hash() -> impl Strategy<Value = Hash> {
    any::<[u8; 32]>().prop_map(Hash)
}

/// From year 1 to 9999, the whole seconds and those around 1970 more often.
fn time() -> impl Strategy<Value = Time> {
    let seconds = prop_oneof![Time::ZERO.seconds..253_402_300_800, -5_i64..5];
    let nanos = prop_oneof![Just(0), 0..1_000_000_000];
    (seconds, nanos).prop_map(|(s, n)| Time::new(s, n).unwrap())
}

fn block_id() -> impl Strategy<Value = BlockId> {
    (hash(), 1..u32::MAX, hash()).prop_map(|(h, total, parts)| BlockId::new(h, total, parts))
}

fn height() -> impl Strategy<Value = Height> {
    (2..i64::MAX).prop_map(|h| Height::from_wire(h).unwrap())
}

prop_compose! {
    fn header()(
        (version_app, chain_id, height, time) in (any::<u64>(), "[a-zA-Z0-9_.-]{1,50}", height(), time()),
        last_block_id in block_id(),
        sure in any::<[[u8; 32]; 3]>(),
        maybe in any::<[Option<[u8; 32]>; 4]>(),
        app_hash in prop::collection::vec(any::<u8>(), 0..80),
        proposer in any::<[u8; 20]>(),
    ) -> Header {
        Header {
            version_block: 11,
            version_app,
            chain_id: chain_id.into(),
            height,
            time,
            last_block_id,
            last_commit_hash: maybe[0].map(Hash),
            data_hash: maybe[1].map(Hash),
            validators_hash: Some(Hash(sure[0])),
            next_validators_hash: Some(Hash(sure[1])),
            consensus_hash: Some(Hash(sure[2])),
            app_hash: app_hash.into(),
            last_results_hash: maybe[2].map(Hash),
            evidence_hash: maybe[3].map(Hash),
            proposer_address: Address(proposer),
        }
    }
}

prop_compose! {
    fn vote()(
        (kind, height, round, index) in (1..3, height(), 0..i32::MAX, 0..i32::MAX),
        block_id in prop::option::of(block_id()),
        timestamp in time(),
        address in any::<[u8; 20]>(),
        signature in any::<[u8; 32]>(),
    ) -> Vote {
        Vote {
            kind,
            height,
            round,
            block_id: block_id.unwrap_or(BlockId::ZERO),
            timestamp,
            address: Address(address),
            index,
            signature: Signature::new(&[signature, signature].concat()).unwrap(),
            extension: Bytes::new(),
            extension_signature: Bytes::new(),
        }
    }
}

proptest! {
    #[test]
    fn header_hashes_agree(header in header()) {
        let mut raw = Vec::new();
        header.encode(&mut raw);
        let theirs = <tendermint::block::Header as Protobuf<pb::Header>>::decode_vec(&raw).unwrap();
        let hash = header.hash().unwrap();
        let theirs = theirs.hash();
        prop_assert_eq!(theirs.as_bytes(), &hash.0[..]);
    }

    #[test]
    fn vote_sign_bytes_agree(vote in vote(), chain_id in "[a-zA-Z0-9_.-]{1,50}") {
        let mut raw = Vec::new();
        vote.encode(&mut raw);
        let theirs = <tendermint::Vote as Protobuf<pb::Vote>>::decode_vec(&raw).unwrap();
        let ours = vote.sign_bytes(chain_id.as_bytes(), VoteForm::Timed);
        prop_assert_eq!(theirs.into_signable_vec(chain_id.parse().unwrap()), ours);
    }

    #[test]
    fn validator_set_hashes_agree(powers in prop::collection::vec(1..MAX_TOTAL_POWER / 40, 0..40)) {
        // Keys must be points there; those of counted seeds are.
        let members = powers.iter().enumerate().map(|(i, power)| {
            let seed = [u8::try_from(i).unwrap(); 32];
            let key = ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key();
            Validator::new(PublicKey::Ed25519(key.to_bytes()), *power)
        });
        let members: Vec<Validator> = members.collect();
        let theirs = members.iter().map(|v| {
            let key = tendermint::PublicKey::from_raw_ed25519(v.key.as_bytes()).unwrap();
            tendermint::validator::Info::new(key, u64::try_from(v.power).unwrap().try_into().unwrap())
        });
        let theirs = tendermint::validator::Set::without_proposer(theirs.collect());
        let ours = ValidatorSet::new(members).unwrap();
        let (hash, their_hash) = (ours.hash(), theirs.hash());
        prop_assert_eq!(their_hash.as_bytes(), &hash.0[..]);
        for (a, b) in ours.iter().zip(theirs.validators()) {
            prop_assert_eq!(&a.address.0[..], b.address.as_bytes());
        }
    }
}
