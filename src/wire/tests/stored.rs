//! Stored records decode to the values that were encoded.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;

use super::super::convert;
use super::super::decode;
use super::super::proto::{abci, crypto, types};
use crate::chain::execution::{ParamsUpdate, UpdateKey};
use crate::chain::rules::ParamsGroups;
use crate::chain::{FinalizeResponse, PublicKey, Time, TxResult, ValidatorUpdate};

fn key() -> impl Strategy<Value = UpdateKey> {
    prop_oneof![
        any::<[u8; 32]>().prop_map(|key| UpdateKey::Known(PublicKey::Ed25519(key))),
        any::<[u8; 33]>().prop_map(|key| UpdateKey::Known(PublicKey::Secp256k1(key))),
        (0..31usize).prop_map(|length| UpdateKey::new("ed25519", vec![1; length].into())),
        (34..40usize).prop_map(|length| UpdateKey::new("secp256k1", vec![2; length].into())),
        any::<[u8; 32]>().prop_map(|key| UpdateKey::new("ml_dsa_65", key.repeat(61).into())),
        any::<[u8; 32]>().prop_map(|key| UpdateKey::new("bls12_381", key.repeat(3).into())),
        any::<[u8; 33]>().prop_map(|key| UpdateKey::new("secp256k1eth", key.to_vec().into())),
        Just(UpdateKey::Unsupported("none".to_owned())),
    ]
}

fn bytes() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

prop_compose! {
    fn params_update()(
        block in proptest::option::of(any::<(i64, i64)>()),
        evidence in proptest::option::of(any::<(i64, i64, i64)>()),
        pub_key_types in proptest::option::of(proptest::collection::vec(bytes(), 0..3)),
        version_app in proptest::option::of(any::<u64>()),
        vote_extensions_enable_height in proptest::option::of(any::<i64>()),
        authority in proptest::option::of(bytes()),
        features in proptest::option::of(any::<(i64, Option<i64>, Option<i64>)>()),
    ) -> ParamsUpdate {
        match features {
            None => ParamsUpdate {
                block, evidence, pub_key_types, version_app, vote_extensions_enable_height, authority,
                ..ParamsUpdate::default()
            },
            // Of 1.0, which has no authority.
            Some((pbts_enable_height, precision, delay)) => ParamsUpdate {
                block, evidence, pub_key_types, version_app, vote_extensions_enable_height,
                authority: None,
                pbts_enable_height: Some(pbts_enable_height),
                synchrony_precision: precision,
                synchrony_message_delay: delay,
            },
        }
    }
}

prop_compose! {
    fn response()(
        results in proptest::collection::vec((any::<u32>(), bytes(), any::<(i64, i64)>()), 0..5),
        updates in proptest::collection::vec((key(), any::<i64>()), 0..5),
        param_updates in proptest::option::of(params_update()),
        app_hash in bytes(),
    ) -> FinalizeResponse {
        let result = |(code, data, (gas_wanted, gas_used))| TxResult { code, data, gas_wanted, gas_used };
        FinalizeResponse {
            tx_results: results.into_iter().map(result).collect(),
            validator_updates: updates.into_iter().map(|(key, power)| ValidatorUpdate { key, power }).collect(),
            param_updates,
            app_hash,
            app_hash_is_late: false,
            encoded: None,
        }
    }
}

proptest! {
    #[test]
    fn finalize_responses(response in response()) {
        let stored = convert::finalize_response_to_bytes(&response);
        let (mut of_new, mut of_old) = (false, false);
        if let Some(p) = &response.param_updates {
            let synchrony = p.synchrony_precision.or(p.synchrony_message_delay);
            of_new = p.pbts_enable_height.or(synchrony).is_some();
            of_old = p.authority.is_some() && !of_new;
        }
        // A change that both can make is read back by the rules of either.
        for (groups, fits) in [(ParamsGroups::Features, !of_old), (ParamsGroups::Authority, !of_new)] {
            if fits {
                let found = convert::finalize_response_from_bytes(&stored, groups).unwrap();
                prop_assert_eq!(&found, &response);
            }
        }
    }

    #[test]
    fn durations(nanos: i64) {
        let proto = convert::duration_to_proto(nanos);
        prop_assert_eq!(convert::duration_from_proto(Some(&proto)), Ok(nanos));
    }

    #[test]
    fn times(seconds in Time::ZERO.seconds..253_402_300_800, nanos in 0..1_000_000_000) {
        let time = Time::new(seconds, nanos).unwrap();
        let proto = convert::time_to_proto(time);
        prop_assert_eq!(convert::time_from_proto(Some(&proto)), Ok(time));
    }
}

#[test]
fn what_no_duration_or_time_can_be() {
    for (seconds, nanos) in [
        (1, -1),
        (-1, 1),
        (0, 1_000_000_000),
        (i64::MAX, 0),
        (9_223_372_036, 999_999_999),
    ] {
        let duration = types::Duration { seconds, nanos };
        assert!(
            convert::duration_from_proto(Some(&duration)).is_err(),
            "{duration:?}"
        );
    }
    assert_eq!(convert::duration_from_proto(None), Ok(0));
    assert_eq!(convert::time_from_proto(None), Ok(Time::ZERO));
    let late = types::Timestamp {
        seconds: 253_402_300_800,
        nanos: 0,
    };
    assert!(convert::time_from_proto(Some(&late)).is_err());
}

#[test]
fn a_response_keeps_only_what_enters_the_results_hash() {
    let response = abci::ResponseFinalizeBlock {
        events: vec![abci::Event::default()],
        tx_results: vec![abci::ExecTxResult {
            code: 5,
            data: Bytes::from_static(b"d"),
            log: Bytes::from_static(&[0xff]),
            codespace: Bytes::from_static(b"c"),
            ..Default::default()
        }],
        ..Default::default()
    };
    let bytes = response.encode_to_vec();
    let found = convert::finalize_response_from_bytes(&bytes, ParamsGroups::Abci).unwrap();
    let kept = TxResult {
        code: 5,
        data: Bytes::from_static(b"d"),
        gas_wanted: 0,
        gas_used: 0,
    };
    assert_eq!(found.tx_results, [kept]);
}

#[test]
fn sets_that_cannot_be_are_refused() {
    let validator = |address: &'static [u8], key: Option<&[u8]>| types::Validator {
        address: Bytes::from_static(address),
        pub_key: key.map(|key| crypto::PublicKey {
            sum: Some(crypto::public_key::Sum::Ed25519(Bytes::copy_from_slice(
                key,
            ))),
        }),
        voting_power: 1,
        proposer_priority: 0,
    };
    for member in [
        validator(&[1; 20], None),
        validator(&[1; 20], Some(&[1; 31])),
        validator(&[1; 20], Some(&[1; 32])),
    ] {
        let set = types::ValidatorSet {
            validators: vec![member],
            proposer: None,
            total_voting_power: 0,
        };
        assert!(convert::set_from_proto(&set).is_err(), "{set:?}");
    }
}

#[test]
fn headers_and_last_commits_are_cut_out_of_blocks() {
    for message in super::chains::messages("full-040").iter().step_by(50) {
        let fetched = decode::fetched_response(message, &super::Limits::default()).unwrap();
        let (header, commit) = (&fetched.block.header, &fetched.block.last_commit);
        assert_eq!(&decode::header_of_block(&fetched.raw).unwrap(), header);
        let raw = decode::last_commit_of_block(&fetched.raw).unwrap();
        assert_eq!(&decode::commit_from_bytes(&raw).unwrap(), commit);
    }
    let twice = [0x22, 0x00].repeat(2);
    assert!(decode::last_commit_of_block(&twice.into()).is_err());
}
