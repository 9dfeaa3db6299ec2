//! Keys and signatures of every type, held against the verdicts of CometBFT v0.40.0
//! (`tests/data/vectors-keys.json`) and, for ed25519 without the cofactor, of v0.34.35
//! (`tests/data/vectors-ed25519-034.json`).

use std::sync::OnceLock;

use prost::Message;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;

use super::commit::{CommitSig, Signature};
use super::execution::UpdateKey;
use super::genesis::Genesis;
use super::key::{Ed25519Rule, KeyError, KeyType, PublicKey};
use super::params::ConsensusParams;
use super::rules::Rules;
use super::signatures::SignatureBatch;
use super::testing::{hex, int, list, ok, size, text};
use super::validators;
use super::validators::{Validator, ValidatorSet};
use crate::wire::convert::update_key_from_proto;
use crate::wire::proto::{crypto, types};

fn group(name: &str, cases: usize) -> &'static [Value] {
    static ALL: OnceLock<Value> = OnceLock::new();
    let read = || serde_json::from_str(include_str!("../../tests/data/vectors-keys.json")).unwrap();
    let found = list(&ALL.get_or_init(read)["groups"][name]["cases"]);
    assert_eq!(found.len(), cases, "{name}");
    found
}

/// The type of a case, if this build can verify it.
fn built(kind: KeyType) -> Option<KeyType> {
    if kind.missing_feature().is_none() {
        return Some(kind);
    }
    let refused = PublicKey::new(kind, &vec![0; kind.key_len()]);
    assert!(matches!(refused, Err(KeyError::NotBuilt { .. })));
    None
}

fn kind(case: &Value) -> Option<KeyType> {
    built(KeyType::from_name(text(&case["key_type"])).unwrap())
}

#[test]
fn identities_are_gos() {
    let mut members = Vec::new();
    for case in group("keys", 5) {
        let Some(kind) = kind(case) else { continue };
        let bytes = hex(&case["pub"]);
        let key = PublicKey::new(kind, &bytes).unwrap();
        assert_eq!(key.as_bytes(), bytes);
        assert_eq!(key.address().to_string(), text(&case["address"]));
        let mut proto = Vec::new();
        key.encode(&mut proto);
        assert_eq!(proto, hex(&case["proto"]));
        let message = crypto::PublicKey::decode(&proto[..]).unwrap();
        let read = update_key_from_proto(Some(&message));
        assert_eq!(read, UpdateKey::Known(key.clone()));
        let power = int(&case["simple_validator_power"]);
        let mut leaf = Vec::new();
        validators::encode_simple(&key, power, &mut leaf);
        assert_eq!(leaf, hex(&case["simple_validator"]));
        let json = serde_json::json!({"chain_id": "c", "validators": [
            {"pub_key": case["genesis_json"], "power": "1"}]});
        let json = json.to_string().into();
        let genesis = Genesis::read(&json, &Rules::COMET_040.into()).unwrap();
        assert_eq!(genesis.validators[0].key, key);
        assert!(key.verify(&hex(&case["msg"]), &hex(&case["sig"])));
        members.push(Validator::new(key, power));
    }
    if members.len() == KeyType::ALL.len() {
        let case = &group("mixed_set", 1)[0];
        let set = ValidatorSet::new(members).unwrap();
        let order = set.iter().map(|v| v.address.to_string());
        assert!(order.eq(list(&case["addresses_in_order"]).iter().map(text)));
        assert_eq!(set.hash().to_string(), text(&case["validators_hash"]));
    }
}

#[test]
fn keys_decode_as_gos_do() {
    let groups = [
        ("secp256k1eth_keys", 11, KeyType::Secp256k1Eth),
        ("ml_dsa_65_keys", 5, KeyType::MlDsa65),
        ("bls12_381_keys", 11, KeyType::Bls12381),
    ];
    for (name, cases, kind) in groups {
        for case in group(name, cases) {
            let Some(kind) = built(kind) else { continue };
            let note = text(&case["note"]);
            let bytes = hex(&case["pub"]);
            let key = PublicKey::new(kind, &bytes);
            assert_eq!(key.is_ok(), ok(case), "{name}: {note}: {key:?}");
            let Ok(key) = key else { continue };
            assert_eq!(key.address().to_string(), text(&case["address"]), "{note}");
            let reencoded = case.get("reencoded").map_or(bytes, hex);
            assert_eq!(key.as_bytes(), reencoded, "{note}");
        }
    }
}

#[test]
fn messages_decode_as_gos_do() {
    for case in group("public_key_messages", 6) {
        let message = crypto::PublicKey::decode(&hex(&case["proto"])[..]).unwrap();
        let key = update_key_from_proto(Some(&message));
        let known = matches!(&key, UpdateKey::Known(k) if k.type_name() == text(&case["key_type"]));
        assert_eq!(known, ok(case), "{}: {key:?}", text(&case["note"]));
    }
}

#[test]
fn params_take_the_names_that_go_takes() {
    for case in group("pub_key_types", 12) {
        let params = ConsensusParams {
            pub_key_types: (list(&case["pub_key_types"]).iter())
                .map(|name| text(name).to_owned())
                .collect(),
            ..Default::default()
        };
        assert_eq!(
            params.validate(&Rules::COMET_040.params).is_ok(),
            ok(case),
            "{case}"
        );
    }
}

#[test]
fn an_entry_of_a_commit_takes_the_longest_signature() {
    for case in group("commit_sig_size", 8) {
        let entry = types::CommitSig {
            block_id_flag: 2,
            validator_address: vec![1; 20].into(),
            timestamp: Some(types::Timestamp::default()),
            signature: vec![7; size(&case["signature_bytes"])].into(),
        };
        let commit = types::Commit {
            height: 1,
            round: 0,
            block_id: Some(types::BlockId {
                hash: vec![1; 32].into(),
                part_set_header: Some(types::PartSetHeader {
                    total: 1,
                    hash: vec![2; 32].into(),
                }),
            }),
            signatures: vec![entry],
        };
        let read = crate::wire::decode::commit_from_bytes(&commit.encode_to_vec());
        let basic = read.is_ok_and(|commit| {
            let sig: &CommitSig = &commit.signatures[0];
            assert_eq!(sig.signature.len(), size(&case["signature_bytes"]));
            commit.check_basic().is_ok()
        });
        assert_eq!(basic, ok(case), "{case}");
    }
}

struct Case {
    key: PublicKey,
    message: Vec<u8>,
    signature: Vec<u8>,
    good: bool,
    note: String,
}

/// All signatures that this build can verify, those of the different types in turn.
fn signatures() -> Vec<Case> {
    let groups = [
        ("keys", 5),
        ("secp256k1eth", 34),
        ("ml_dsa_65", 17),
        ("bls12_381", 21),
        ("secp256k1_unreduced", 4),
    ];
    let mut found = Vec::new();
    for (name, cases) in groups {
        for (place, case) in group(name, cases).iter().enumerate() {
            let Some(kind) = kind(case) else { continue };
            let note = case.get("note").map_or("valid", text);
            found.push((
                place,
                Case {
                    key: PublicKey::new(kind, &hex(&case["pub"])).unwrap(),
                    message: hex(&case["msg"]),
                    signature: hex(&case["sig"]),
                    good: ok(case),
                    note: format!("{name}: {note}"),
                },
            ));
        }
    }
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, case)| case).collect()
}

#[test]
fn signatures_are_judged_as_go_judges_them_alone_and_among_others() {
    let cases = signatures();
    let mut batch = SignatureBatch::new();
    let mut bad = Vec::new();
    let mut held = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        let verdict = case.key.verify(&case.message, &case.signature);
        assert_eq!(verdict, case.good, "{}", case.note);
        // A longer one cannot stand in a commit.
        let Some(signature) = Signature::new(&case.signature) else {
            assert!(!case.good);
            continue;
        };
        if !case.good {
            bad.push(batch.len());
        }
        held.push(index);
        batch.push(case.key.clone(), signature, index, |out| {
            out.extend_from_slice(&case.message);
        });
    }
    for seed in 0..4 {
        let mut rng = StdRng::seed_from_u64(seed);
        assert_eq!(batch.verify(&mut rng), Err(bad.clone()), "seed {seed}");
    }
    // The good ones of all types hold together, in whatever parts.
    let mut good = SignatureBatch::new();
    for case in cases.iter().filter(|case| case.good) {
        let signature = Signature::new(&case.signature).unwrap();
        good.push(case.key.clone(), signature, 0, |out| {
            out.extend_from_slice(&case.message);
        });
    }
    let mut rng = StdRng::seed_from_u64(9);
    assert_eq!(good.verify(&mut rng), Ok(()));
    for range in good.split(5) {
        assert!(good.verify_range(range, &mut rng).is_empty());
    }
}

/// Each signature with one bit altered is refused, wherever the bit is; V of Ethereum's form too.
#[test]
fn a_signature_with_another_bit_is_refused() {
    for case in signatures().iter().filter(|case| case.good) {
        if case.note.contains("unreduced") {
            continue;
        }
        let len = case.signature.len();
        for place in [0, len / 2, len - 1] {
            let mut altered = case.signature.clone();
            altered[place] ^= 1;
            assert!(!case.key.verify(&case.message, &altered), "{}", case.note);
        }
    }
}

#[test]
fn ed25519_without_the_cofactor_is_gos() {
    let all: Value =
        serde_json::from_str(include_str!("../../tests/data/vectors-ed25519-034.json")).unwrap();
    let cases = list(&all["cases"]);
    assert_eq!(cases.len(), 215);
    let mut batch = SignatureBatch::new();
    batch.set_ed25519_rule(Ed25519Rule::Cofactorless);
    let (mut bad, mut only_zip215) = (Vec::new(), 0);
    for (index, case) in cases.iter().enumerate() {
        let key = PublicKey::new(KeyType::Ed25519, &hex(&case["pub"])).unwrap();
        let (message, signature) = (hex(&case["msg"]), hex(&case["sig"]));
        let verdict = key.verify_by(Ed25519Rule::Cofactorless, &message, &signature);
        assert_eq!(verdict, ok(case), "{}", text(&case["note"]));
        if !verdict {
            bad.push(index);
            only_zip215 += usize::from(key.verify(&message, &signature));
        }
        let signature = Signature::new(&signature).unwrap();
        batch.push(key, signature, index, |out| out.extend_from_slice(&message));
    }
    assert_eq!(only_zip215, 201); // the rules do differ
    let mut rng = StdRng::seed_from_u64(1);
    assert_eq!(batch.verify(&mut rng), Err(bad));
}
