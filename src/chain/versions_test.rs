//! The vectors of versions 0.34, 0.37 and 1.0, made by their own code, held against the rules of
//! that name.

use std::sync::OnceLock;

use bytes::Bytes;
use prost::Message;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;

use super::block::evidence_hash;
use super::commit::{BlockIdFlag, Commit, CommitSig, Signature};
use super::encode;
use super::evidence::{Evidence, RawValidator, ValidatorForm, encode_list};
use super::evidence_check::{Refusal, Trusted, verify_light_client_attack};
use super::execution::{TxResult, UpdateKey, results_hash};
use super::genesis::Genesis;
use super::median::median_time;
use super::params::ConsensusParams;
use super::rules::{ParamsGroups, Rules};
use super::testing::{hash, hex, int, list, ok, text};
use super::time::Time;
use super::validators::{Validator, ValidatorSet, encode_simple};
use super::verify::{CommitError, Light, verify_commit, verify_commit_light};
use super::{PublicKey, testing};
use crate::ids::{BlockId, Hash, Height};
use crate::wire::{convert, decode, proto};

const CHAIN: &[u8] = b"vectors";

fn rng() -> StdRng {
    StdRng::seed_from_u64(11)
}

/// The rules, and the vectors of their version.
fn versions() -> [(Rules, &'static Value); 3] {
    static ALL: OnceLock<[Value; 3]> = OnceLock::new();
    let [v034, v037, v100] = ALL.get_or_init(|| {
        [
            include_str!("../../tests/data/vectors-034.json"),
            include_str!("../../tests/data/vectors-037.json"),
            include_str!("../../tests/data/vectors-100.json"),
        ]
        .map(|json| serde_json::from_str(json).unwrap())
    });
    [
        (Rules::COMET_034, v034),
        (Rules::COMET_037, v037),
        (Rules::COMET_100, v100),
    ]
}

/// The content of a group, without its description.
fn group(vectors: &'static Value, name: &str) -> &'static Value {
    &vectors["groups"][name]["cases"]
}

/// The case's name, with the rules.
fn called(rules: &Rules, case: &Value) -> String {
    format!("{rules}: {}", text(&case["note"]))
}

fn set(members: &Value) -> ValidatorSet {
    let one = |v: &Value| {
        let key = PublicKey::from_type_bytes("ed25519", &hex(&v["pub"])).unwrap();
        Validator::new(key, int(&v["power"]))
    };
    ValidatorSet::new(list(members).iter().map(one).collect()).unwrap()
}

fn commit(value: &Value) -> Commit {
    decode::commit_from_bytes(&hex(value)).unwrap()
}

#[test]
fn commits_are_judged_as_their_version_judges_them() {
    for (rules, vectors) in versions() {
        let group = group(vectors, "verify_commit");
        let (set, height) = (set(&group["validators"]), Height::new(7));
        let cases = list(&group["commits"]);
        assert!(cases.len() >= 11);
        for case in cases {
            let (commit, named) = (commit(&case["commit"]), called(&rules, case));
            let id = &commit.block_id;
            let full = verify_commit(&rules, CHAIN, &set, id, height, &commit, &mut rng());
            assert_eq!(
                Some(full.is_ok()),
                case["full"].as_bool(),
                "{named}: {full:?}"
            );
            for (reading, column) in [(Light::Enough, "light"), (Light::All, "light_all")] {
                let judged = (height, &commit);
                let found =
                    verify_commit_light(&rules, CHAIN, &set, id, judged, reading, &mut rng());
                assert_eq!(
                    Some(found.is_ok()),
                    case[column].as_bool(),
                    "{named}: {found:?}"
                );
            }
        }
    }
}

#[test]
fn medians_are_those_of_their_version() {
    for (rules, vectors) in versions() {
        for case in list(group(vectors, "median")) {
            let (commit, set) = (commit(&case["commit"]), set(&case["validators"]));
            let (found, named) = (median_time(&commit, &set, &rules), called(&rules, case));
            if text(&case["median"]).starts_with("error") {
                assert!(found.is_err(), "{named}: {found:?}");
            } else {
                let expected = Time::parse_rfc3339(text(&case["median"])).unwrap();
                assert_eq!(found, Ok(expected), "{named}");
            }
        }
    }
}

#[test]
fn results_have_one_hash_in_all_versions() {
    for (rules, vectors) in versions() {
        let mut hashed = 0;
        for case in list(group(vectors, "results")) {
            let results = case["results"].as_array().map_or(&[][..], Vec::as_slice);
            let result = |r: &Value| {
                // A `ResponseDeliverTx` has the same numbers.
                let bytes = r.get("deliver_tx").unwrap_or(&r["exec_tx_result"]);
                let r = proto::abci::ExecTxResult::decode(&hex(bytes)[..]).unwrap();
                TxResult {
                    code: r.code,
                    data: r.data,
                    gas_wanted: r.gas_wanted,
                    gas_used: r.gas_used,
                }
            };
            let results: Vec<TxResult> = results.iter().map(result).collect();
            let expected = hash(&case["last_results_hash"]);
            assert_eq!(Some(results_hash(&results)), expected, "{rules}");
            hashed += results.len();
        }
        assert!(hashed > 3);
    }
}

fn number(value: &Value) -> i64 {
    match value {
        Value::Null => 0,
        Value::String(text) => text.parse().unwrap(),
        number => int(number),
    }
}

/// Params as a version's own JSON has them.
fn params(value: &Value, rules: &Rules) -> ConsensusParams {
    let (block, evidence) = (&value["block"], &value["evidence"]);
    let (synchrony, feature) = (&value["synchrony"], &value["feature"]);
    let types = list(&value["validator"]["pub_key_types"]).iter();
    ConsensusParams {
        block_max_bytes: number(&block["max_bytes"]),
        block_max_gas: number(&block["max_gas"]),
        evidence_max_age_num_blocks: number(&evidence["max_age_num_blocks"]),
        evidence_max_age_duration: number(&evidence["max_age_duration"]),
        evidence_max_bytes: number(&evidence["max_bytes"]),
        pub_key_types: types.map(|name| text(name).to_owned()).collect(),
        version_app: number(&value["version"][rules.params.app_version_key]) as u64,
        vote_extensions_enable_height: number(&feature["vote_extensions_enable_height"]),
        authority: Bytes::new(),
        pbts_enable_height: number(&feature["pbts_enable_height"]),
        synchrony_precision: number(&synchrony["precision"]),
        synchrony_message_delay: number(&synchrony["message_delay"]),
    }
}

#[test]
fn genesis_files_are_read_as_their_version_reads_them() {
    for (rules, vectors) in versions() {
        let cases = list(group(vectors, "genesis"));
        assert!(cases.len() >= 24);
        for case in cases {
            let doc = Bytes::from(text(&case["doc"]).to_owned());
            let read = Genesis::read(&doc, &rules.into());
            let named = called(&rules, case);
            assert_eq!(read.is_ok(), ok(case), "{named}: {read:?}");
            let Ok(read) = read else { continue };
            assert_eq!(read.params, params(&case["params"], &rules), "{named}");
            let expected = hash(&case["consensus_hash"]);
            assert_eq!(Some(read.params.hash()), expected, "{named}");
        }
    }
}

#[test]
fn attacks_are_judged_as_their_version_judges_them() {
    for (rules, vectors) in versions() {
        let group = group(vectors, "light_client_attack");
        let common = set(&group["validators"]);
        let cases = list(&group["cases"]);
        assert!(cases.len() >= 5);
        for case in cases {
            let (mut bytes, named) = (Vec::new(), called(&rules, case));
            encode::element(2, &hex(&case["evidence"]), &mut bytes);
            let item = decode::evidence_from_bytes(&bytes).unwrap();
            item.check_basic().unwrap();
            // The bytes decide the block's hashes.
            let mut again = Vec::new();
            encode_list(std::slice::from_ref(&item), &mut again);
            let mut list_of_one = Vec::new();
            encode::element(1, &bytes, &mut list_of_one);
            assert_eq!(again, list_of_one, "{named}");
            let found = evidence_hash(std::slice::from_ref(&item));
            assert_eq!(
                Some(found),
                hash(&case["evidence_hash_of_a_block"]),
                "{named}"
            );
            let Evidence::LightClientAttack(e) = item else {
                panic!("{named}: votes");
            };
            let blamed = e
                .byzantine_validators
                .iter()
                .map(|v| hex::encode(&v.address));
            let expected = list(&case["byzantine_validators"]).iter().map(text);
            assert!(blamed.eq(expected.map(str::to_owned)), "{named}");
            let trusted = Trusted {
                header: testing::header(&hex(&case["trusted_header"])).unwrap(),
                commit: Some(commit(&case["trusted_commit"])),
            };
            let judge = |rules: &Rules| {
                verify_light_client_attack(&e, rules, CHAIN, &common, &trusted, &mut rng())
            };
            let found = judge(&rules);
            // Of 1.0 the list is recorded; its check is not callable from outside.
            let two_nil = text(&case["note"]).starts_with("two for the block");
            if rules == Rules::COMET_100 && two_nil {
                assert!(
                    matches!(found, Err(Refusal::Conflicting(CommitError::Power { .. }))),
                    "{named}: {found:?}"
                );
            } else {
                assert_eq!(found, Ok(()), "{named}");
            }
            // With a vote for nil the two ways of counting them give different lists.
            let other = match rules.nil_votes_count_in_attacks {
                true => Rules::COMET_100,
                false => Rules::COMET_037,
            };
            let nil = text(&case["note"]).contains("nil");
            assert_eq!(judge(&other).is_err(), nil, "{named}");
        }
    }
}

#[test]
fn params_of_one_are_updated_member_by_member() {
    let rules = Rules::COMET_100;
    let vectors = versions()[2].1;
    let cases = list(group(vectors, "params_updates"));
    assert!(cases.len() >= 12);
    for case in cases {
        let before = convert::params_from_bytes(&hex(&case["params"])).unwrap();
        let bytes =
            |params: &ConsensusParams| hex::encode(convert::params_to_bytes(params, &rules));
        assert_eq!(bytes(&before), text(&case["params"]));
        let update = proto::types::ConsensusParams::decode(&hex(&case["update"])[..]).unwrap();
        let update = convert::params_update_from_proto(&update, ParamsGroups::Features).unwrap();
        let height = Height::from_wire(int(&case["height"])).unwrap();
        let after = before.update(&update, height, &rules.params);
        let named = called(&rules, case);
        assert_eq!(after.is_ok(), ok(case), "{named}: {after:?}");
        if let Ok(after) = after {
            assert_eq!(bytes(&after), text(&case["new_params"]), "{named}");
        }
    }
}

/// `ValidatorUpdate` as 1.0's applications write it.
#[derive(Clone, PartialEq, prost::Message)]
struct Update {
    #[prost(int64, tag = "2")]
    power: i64,
    #[prost(bytes = "bytes", tag = "3")]
    key: Bytes,
    #[prost(string, tag = "4")]
    kind: String,
}

#[test]
fn validators_of_one_are_named_by_type_and_bytes() {
    let vectors = versions()[2].1;
    for case in list(group(vectors, "validator_updates")) {
        let named = text(&case["note"]);
        let update = Update::decode(&hex(&case["update"])[..]).unwrap();
        let key = UpdateKey::new(&update.kind, update.key);
        if update.kind == "bls12_381" && !cfg!(feature = "bls") {
            assert!(matches!(key, UpdateKey::Invalid(..)), "{named}");
            continue;
        }
        assert_eq!(
            matches!(key, UpdateKey::Known(_)),
            ok(case),
            "{named}: {key:?}"
        );
        let UpdateKey::Known(key) = key else { continue };
        assert_eq!(key.address().to_string(), text(&case["address"]), "{named}");
        let written = RawValidator {
            address: Bytes::copy_from_slice(key.address().as_ref()),
            key: Some(key.clone()),
            power: update.power,
            priority: 0,
            form: ValidatorForm::BytesAndType,
        };
        let mut out = Vec::new();
        written.encode(&mut out);
        assert_eq!(
            hex::encode(&out),
            text(&case["validator_message"]),
            "{named}"
        );
        out.clear();
        encode_simple(&key, update.power, &mut out);
        assert_eq!(hex::encode(out), text(&case["simple_validator"]), "{named}");
    }
}

/// A key and a signature of small order: ZIP-215 takes them for any message, and the older rule
/// only where the numbers happen to cancel out.
#[test]
fn commits_go_by_their_versions_ed25519() {
    let key = "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a";
    let key = PublicKey::from_type_bytes("ed25519", &hex::decode(key).unwrap()).unwrap();
    let mut signature = [0; 64];
    signature[0] = 1;
    let set = ValidatorSet::new(vec![Validator::new(key.clone(), 1)]).unwrap();
    let id = BlockId::new(Hash([1; 32]), 1, Hash([2; 32]));
    let height = Height::new(7);
    let taken = |rules: &Rules| {
        let one = |seconds| {
            let commit = Commit {
                height,
                round: 0,
                block_id: id,
                signatures: vec![CommitSig {
                    flag: BlockIdFlag::Commit,
                    address: key.address(),
                    timestamp: Time::new(seconds, 0).unwrap(),
                    signature: Signature::new(&signature).unwrap(),
                }],
            };
            verify_commit(rules, CHAIN, &set, &id, height, &commit, &mut rng()).is_ok()
        };
        (0..40).filter(|seconds| one(*seconds)).count()
    };
    for rules in [Rules::COMET_038, Rules::COMET_040, Rules::COMET_100] {
        assert_eq!(taken(&rules), 40, "{rules}");
    }
    for rules in [Rules::COMET_034, Rules::COMET_037] {
        assert!(taken(&rules) < 20, "{rules}");
    }
}
