//! Against the replies of CometBFT's own kvstore, and what its replies do not show.

use futures::executor::block_on;
use prost::Message;
use serde_json::Value;

use super::*;
use crate::app::conformance;
use crate::chain::Misbehavior;
use crate::chain::execution::{CommitInfo, results_hash};
use crate::chain::testing::{group, hex, int, list, name, ok, size, text};
use crate::chain::{ConsensusParams, Rules, Time, Validator};
use crate::ids::Hash;
use crate::store::{Batch, MemStore};
use crate::wire::proto::abci;

fn request(height: i64, txs: Vec<Bytes>, misbehavior: Vec<Misbehavior>) -> FinalizeBlock {
    FinalizeBlock {
        txs,
        decided_last_commit: CommitInfo::default(),
        misbehavior,
        hash: Hash([1; 32]),
        height: Height::from_wire(height).unwrap(),
        time: Time::ZERO,
        next_validators_hash: None,
        proposer_address: Address([0; 20]),
        header: None,
        syncing_to: Height::ZERO,
    }
}

fn init(validators: Vec<Validator>) -> InitChain {
    InitChain {
        time: Time::ZERO,
        chain_id: Bytes::from_static(b"c"),
        params: ConsensusParams::default(),
        validators,
        app_state: Bytes::new(),
        initial_height: Height::new(1),
        rules: Rules::COMET_038,
    }
}

fn misbehavior(proto: &[u8]) -> Misbehavior {
    let m = abci::Misbehavior::decode(proto).unwrap();
    let validator = m.validator.unwrap();
    let time = m.time.unwrap();
    Misbehavior {
        kind: m.r#type,
        address: Address::from_slice(&validator.address).unwrap(),
        power: validator.power,
        height: Height::from_wire(m.height).unwrap(),
        time: Time::new(time.seconds, time.nanos).unwrap(),
        total_voting_power: m.total_voting_power,
    }
}

fn update_proto(update: &ValidatorUpdate) -> Vec<u8> {
    crate::wire::convert::update_to_proto(update).encode_to_vec()
}

fn info_proto(info: AppInfo) -> Vec<u8> {
    let info = abci::ResponseInfo {
        data: info.data,
        version: info.version,
        app_version: info.app_version,
        last_block_height: info.last_height.to_wire(),
        last_block_app_hash: info.last_app_hash,
    };
    info.encode_to_vec()
}

fn save(app: &mut KvStore, store: &MemStore) {
    let batch = Batch {
        app: app.take_writes(),
        ..Batch::default()
    };
    store.commit(batch).unwrap();
}

/// One case of the vectors.
async fn call(app: &mut KvStore, store: &MemStore, case: &Value) {
    let response = &case["response"];
    match text(&case["call"]) {
        "info" => {
            let found = info_proto(app.info().await.unwrap());
            assert_eq!(found, hex(&response["proto"]));
        }
        "init_chain" => {
            let validators = list(&case["validators"]).iter();
            let validators = validators.map(|v| {
                let key = PublicKey::from_type_bytes(text(&v["key_type"]), &hex(&v["pub_key"]));
                Validator::new(key.unwrap(), int(&v["power"]))
            });
            let found = app.init_chain(init(validators.collect())).await.unwrap();
            assert_eq!(found.app_hash, hex(&response["app_hash"]));
            assert_eq!((found.params, found.validators), (None, Vec::new()));
        }
        "finalize_block" => finalize(app, store, case).await,
        "query" => {
            let found = app.query(store, &hex(&case["data"])).unwrap();
            let found = abci::ResponseQuery {
                log: Bytes::from_static(found.log.as_bytes()),
                key: found.key,
                value: found.value,
                height: found.height.to_wire(),
                ..abci::ResponseQuery::default()
            };
            assert_eq!(found.encode_to_vec(), hex(&response["proto"]));
        }
        "check_tx" => {
            let tx = hex(&case["tx"]);
            let code = i64::from(KvStore::check_tx(&tx));
            assert_eq!(code, int(&response["code"]), "{}", case["tx"]);
        }
        other => panic!("a call {other}"),
    }
}

async fn finalize(app: &mut KvStore, store: &MemStore, case: &Value) {
    let what = name(case);
    let txs = list(&case["txs"]).iter().map(|tx| hex(tx).into());
    let offences = list(&case["misbehavior"]).iter();
    let offences = offences.map(|m| misbehavior(&hex(m)));
    let block = request(int(&case["height"]), txs.collect(), offences.collect());
    let expected = &case["response"];
    let found = app.finalize_block(block).await.unwrap();
    assert_eq!(found.app_hash, hex(&expected["app_hash"]), "{what}");
    let results = results_hash(&found.tx_results);
    assert_eq!(results.0[..], hex(&expected["results_hash"]), "{what}");
    let updates: Vec<Vec<u8>> = found.validator_updates.iter().map(update_proto).collect();
    let wanted: Vec<Vec<u8>> = list(&expected["validator_updates"])
        .iter()
        .map(hex)
        .collect();
    assert_eq!(updates, wanted, "{what}");
    if !ok(case) {
        let said = app.commit().await.unwrap_err().to_string();
        assert!(said.contains("height 9: tx 0 is neither"), "{said}");
        return;
    }
    assert_eq!(app.commit().await.unwrap(), Height::ZERO, "{what}");
    let info = info_proto(app.info().await.unwrap());
    assert_eq!(info, hex(&case["info_after"]["proto"]), "{what}");
    save(app, store);
}

#[test]
fn answers_as_comet_does() {
    let (mut app, store) = (KvStore::new(), MemStore::new());
    for case in group("kvstore") {
        block_on(call(&mut app, &store, case));
    }
}

#[test]
fn answers_as_comet_does_when_it_is_restarted_before_every_call() {
    let store = MemStore::new();
    for case in group("kvstore") {
        let mut app = KvStore::new();
        app.load(&store).unwrap();
        block_on(call(&mut app, &store, case));
        if text(&case["call"]) == "init_chain" {
            save(&mut app, &store);
        }
    }
    assert_eq!(
        size(&group("kvstore")[0]["response"]["last_block_height"]),
        0
    );
}

#[test]
fn passes_the_contract() {
    let txs = |height: u64| -> Vec<Bytes> {
        let joins = format!(
            "val=ed25519!{}!7",
            base64_of(&[u8::try_from(height).unwrap(); 32])
        );
        let leaves = format!(
            "val=!{}!0",
            base64_of(&[u8::try_from(height - 1).unwrap(); 32])
        );
        let pair = format!("k{height}=v");
        let mut txs = vec![
            joins.into(),
            pair.into(),
            Bytes::from_static(b"same=key"),
            leaves.into(),
        ];
        txs.truncate(usize::try_from(height % 5).unwrap());
        txs
    };
    block_on(conformance::run(KvStore::new, txs));
}

fn base64_of(key: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(key)
}

#[test]
fn reads_validator_transactions_as_go_does() {
    let key = base64_of(&[7; 32]);
    let known = |power| {
        Ok(ValidatorUpdate {
            key: UpdateKey::Known(PublicKey::Ed25519([7; 32])),
            power,
        })
    };
    let parse = |text: String| parse_validator_tx(text.as_bytes());
    assert_eq!(parse(format!("val=ed25519!{key}!5")), known(5));
    assert_eq!(parse(format!("val=!{key}!+5")), known(5));
    assert_eq!(parse(format!("val=ed25519!{key}!-0")), known(0));
    // Line breaks are skipped, bits behind the end are not looked at.
    let broken = format!("{}\r\n{}", &key[..9], &key[9..]);
    assert_eq!(parse(format!("val=ed25519!{broken}!5")), known(5));
    let loose = key.replace("c=", "d=");
    assert_ne!(loose, key);
    assert_eq!(parse(format!("val=ed25519!{loose}!5")), known(5));
    let short = parse("val=secp256k1!AAAA!5".into()).unwrap().key;
    assert_eq!(
        short,
        UpdateKey::Invalid(KeyType::Secp256k1, vec![0; 3].into())
    );
    let other = parse(format!("val=sr25519!{key}!5")).unwrap().key;
    assert_eq!(other, UpdateKey::Unsupported("sr25519".into()));
    for bad in [
        "val=".into(),
        format!("val=ed25519!{key}"),
        format!("val=ed25519!{key}!5!"),
        format!("val=ed25519!{}!5", key.trim_end_matches('=')),
        format!("val=ed25519!{key}!"),
        format!("val=ed25519!{key}!0x5"),
        format!("val=ed25519!{key}!-1"),
        format!("val=ed25519!{key}!9223372036854775808"),
    ] {
        parse(bad.clone()).expect_err(&bad);
    }
}

#[test]
fn refuses_what_go_panics_on() {
    let finalize = |txs: &[&'static [u8]], misbehavior| {
        let mut app = KvStore::new();
        let txs = txs.iter().map(|tx| Bytes::from_static(tx)).collect();
        block_on(app.finalize_block(request(3, txs, misbehavior)))
    };
    let said = finalize(&[b"a=b", b"val=nonsense"], vec![]).unwrap_err();
    assert!(said.to_string().contains("height 3: tx 1: "), "{said}");
    let stranger = Misbehavior {
        kind: DUPLICATE_VOTE,
        address: Address([9; 20]),
        power: 5,
        height: Height::new(2),
        time: Time::ZERO,
        total_voting_power: 10,
    };
    let said = finalize(&[], vec![stranger]).unwrap_err().to_string();
    assert!(said.contains("wanted to punish 0909"), "{said}");
    let mut app = KvStore::new();
    for bad in ["", "a:b", "a=b=c"] {
        let txs = vec![Bytes::from_static(b"a=b"), Bytes::from(bad)];
        block_on(app.finalize_block(request(3, txs, vec![]))).unwrap();
        let said = block_on(app.commit()).unwrap_err().to_string();
        assert!(said.contains("height 3: tx 1 is neither"), "{said}");
        assert_eq!(app.take_writes(), []);
    }
    block_on(app.commit()).expect_err("nothing is finalized");
}

#[test]
fn pairs_are_slices_of_the_transaction() {
    let mut app = KvStore::new();
    let tx = Bytes::from("key=value".to_owned());
    block_on(app.finalize_block(request(1, vec![tx.clone()], vec![]))).unwrap();
    block_on(app.commit()).unwrap();
    let writes = app.take_writes();
    let (key, value) = writes[0].clone();
    assert_eq!(
        (&key[..], value.as_deref()),
        (&b"key"[..], Some(&b"value"[..]))
    );
    assert_eq!(key.as_ptr(), tx.as_ptr(), "no copy");
}

#[test]
fn the_app_hash_is_a_zig_zag_varint() {
    for (size, hash) in [
        (0, [0, 0, 0, 0, 0, 0, 0, 0]),
        (63, [0x7e, 0, 0, 0, 0, 0, 0, 0]),
        (64, [0x80, 1, 0, 0, 0, 0, 0, 0]),
        (1_000_000, [0x80, 0x89, 0x7a, 0, 0, 0, 0, 0]),
    ] {
        assert_eq!(app_hash(size)[..], hash, "{size} transactions");
    }
}

#[test]
fn asks_for_pruning_when_it_is_told_to() {
    let mut app = KvStore::with_retain_blocks(3);
    for (height, retain) in [(1, 0), (2, 0), (3, 1), (4, 2)] {
        block_on(app.finalize_block(request(height, vec![], vec![]))).unwrap();
        assert_eq!(block_on(app.commit()).unwrap(), Height::new(retain));
    }
}
