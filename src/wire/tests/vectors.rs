//! `tests/data/vectors.json`: what CometBFT's own code encodes, decodes and refuses.

use bytes::{Bytes, BytesMut};
use prost::Message as _;

use super::super::proto::types;
use super::super::{Limits, Message, canonical, convert, decode, guard};
use super::{by_prost, encoded, fetch};
use crate::chain::testing::{group, hash, hex, int, list, name, ok, segments, size, text, time};
use crate::chain::{Commit, Rules, ValidatorSet};
use crate::ids::Height;

/// A field of bytes or of a message.
fn field(number: u8, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::from(&[number << 3 | 2][..]);
    crate::varint::put(body.len() as u64, &mut out);
    out.extend_from_slice(body);
    out.to_vec()
}

/// A block with the header of a vector and these bodies of data and evidence.
fn block_with(data: &[u8], evidence: &[u8]) -> Vec<u8> {
    let header = hex(&group("headers")[1]["proto"]);
    let empty_commit = [0x22, 0x04, 0x1a, 0x02, 0x12, 0x00];
    [
        field(1, &header),
        field(2, data),
        field(3, evidence),
        empty_commit.to_vec(),
    ]
    .concat()
}

fn commit_bytes(commit: &Commit) -> Vec<u8> {
    let mut out = Vec::new();
    commit.encode(&mut out);
    out
}

#[test]
fn timestamps() {
    // A signature with the vector's bytes for a time, in a commit for height 1.
    let commit_with = |sig: &[u8]| {
        let body = [
            &[0x08, 0x02],
            &field(2, &[7; 20])[..],
            sig,
            &field(4, &[8; 64]),
        ]
        .concat();
        [&[0x08, 0x01, 0x1a, 0x02, 0x12, 0x00], &field(4, &body)[..]].concat()
    };
    for case in group("timestamps") {
        let came = commit_with(&hex(&case["commit_sig"]));
        let found = decode::commit_from_bytes(&came);
        assert_eq!(found.is_ok(), ok(case), "{}", name(case));
        let Ok(commit) = found else { continue };
        assert_eq!(
            commit.signatures[0].timestamp,
            time(&case["time"]),
            "{}",
            name(case)
        );
        let again = match case["reencoded"].as_str() {
            Some(_) => commit_with(&hex(&case["reencoded"])),
            None => came.clone(),
        };
        assert_eq!(commit_bytes(&commit), again, "{}", name(case));
        assert_eq!(canonical::commit(&came), came == again, "{}", name(case));
    }
}

#[test]
fn headers() {
    let mut decoded = 0;
    for case in group("headers") {
        let proto = hex(&case["proto"]);
        let header = decode::header_from_bytes(&proto);
        let valid = header.as_ref().is_ok_and(|h| h.check_basic().is_ok());
        assert_eq!(valid, case["valid"].as_bool().unwrap(), "{}", name(case));
        let Ok(header) = header else { continue };
        decoded += 1;
        assert_eq!(header.hash(), hash(&case["hash"]), "{}", name(case));
        let mut out = Vec::new();
        header.encode(&mut out);
        assert_eq!(out, proto, "{}", name(case));
    }
    assert!(decoded >= 18);
}

#[test]
fn data() {
    for case in group("data") {
        let raw = Bytes::from(block_with(&hex(&case["proto"]), &[]));
        let block = decode::block_from_bytes(&raw).unwrap();
        let txs: Vec<Vec<u8>> = match case["txs"].as_array() {
            Some(txs) => txs.iter().map(hex).collect(),
            None => continue,
        };
        assert_eq!(block.txs, txs.into());
        assert!(canonical::block(&raw));
        assert_eq!(encoded(&block), raw);
        assert_eq!(
            Some(crate::chain::block::data_hash(&block.txs)),
            hash(&case["data_hash"])
        );
    }
}

#[test]
fn blocks() {
    for case in group("blocks") {
        let raw = segments(&case["segments"]);
        let found = decode::block_from_bytes(&Bytes::copy_from_slice(&raw));
        let passes = found.as_ref().is_ok_and(|b| b.check_basic().is_ok());
        assert_eq!(passes, ok(case), "{}: {found:?}", name(case));
        let found = fetch(&raw);
        if name(case) == "commit of height 0 with a block id is taken here" {
            // CometBFT refuses it against the state; ours on arrival, since it is for no block of
            // height 2.
            let error = found.unwrap_err();
            assert!(error.to_string().contains("expected 2"), "{error}");
            continue;
        }
        if !ok(case) {
            let passes = found.is_ok_and(|f| f.block.check_body().is_ok());
            assert!(!passes, "{}", name(case));
            continue;
        }
        let fetched = found.unwrap();
        assert!(fetched.canonical, "{}", name(case));
        assert_eq!(fetched.id.hash, hash(&case["hash"]), "{}", name(case));
        assert_eq!(fetched.id.parts.hash, hash(&case["parts_hash"]));
        assert_eq!(fetched.id.parts.total as usize, size(&case["parts_total"]));
        assert_eq!(fetched.raw.len(), size(&case["size"]));
        assert_eq!(fetched.block.txs.len(), size(&case["num_txs"]));
        assert_eq!(fetched.block.evidence.len(), size(&case["num_evidence"]));
        assert_eq!(encoded(&fetched.block), raw, "{}", name(case));
        assert_eq!(by_prost(&raw), Some(raw), "{}", name(case));
    }
}

#[test]
fn blocks_held_against_a_state() {
    for case in &group("block_validation")[1..] {
        let raw = segments(&case["segments"]);
        let undecodable = case["error"]
            .as_str()
            .is_some_and(|e| e.starts_with("does not decode"));
        let found = decode::block_from_bytes(&Bytes::copy_from_slice(&raw));
        let passes = found.as_ref().is_ok_and(|b| b.check_basic().is_ok());
        assert_eq!(passes, !undecodable, "{}", name(case));
        assert!(canonical::block(&raw), "{}", name(case));
        assert_eq!(encoded(&found.unwrap()), raw, "{}", name(case));
    }
}

#[test]
fn commits() {
    for case in group("commits") {
        let proto = hex(&case["commit"]["proto"]);
        let found = decode::commit_from_bytes(&proto);
        let passes = found.as_ref().is_ok_and(|c| c.check_basic().is_ok());
        assert_eq!(passes, case["decodes"].as_bool().unwrap(), "{}", name(case));
        assert!(canonical::commit(&proto), "{}", name(case));
        if let Ok(commit) = found {
            assert_eq!(commit_bytes(&commit), proto, "{}", name(case));
        }
    }
    for case in group("commit_hash") {
        let proto = hex(&case["proto"]);
        let commit = decode::commit_from_bytes(&proto).unwrap();
        assert_eq!(Some(commit.hash()), hash(&case["hash"]));
        assert_eq!(commit.height.to_wire(), int(&case["height"]));
        assert_eq!(commit_bytes(&commit), proto);
        assert!(canonical::commit(&proto));
    }
}

#[test]
fn extended_commits() {
    for case in group("extended_commits") {
        let proto = Bytes::from(hex(&case["proto"]));
        let found = decode::extended_commit_from_bytes(&proto);
        let passes = found.as_ref().is_ok_and(|c| c.check_basic().is_ok());
        // The limit of v0.38.25, which made these; v0.38.26 takes longer ones.
        let longer = name(case) == "extension signature of 65 bytes";
        let decodes = case["decodes"].as_bool().unwrap();
        assert_eq!(passes, decodes || longer, "{}", name(case));
        let mut out = Vec::new();
        found.unwrap().encode(&mut out);
        assert_eq!(out, proto, "{}", name(case));
        assert!(canonical::extended_commit(&proto), "{}", name(case));
    }
}

#[test]
fn evidence() {
    for case in group("evidence_lists") {
        let raw = Bytes::from(block_with(&[], &hex(&case["list_proto"])));
        let block = decode::block_from_bytes(&raw).unwrap();
        assert_eq!(block.evidence.len(), list(&case["evidence"]).len());
        assert_eq!(encoded(&block), raw, "{}", name(case));
        assert!(canonical::block(&raw), "{}", name(case));
        for (item, expected) in block.evidence.iter().zip(list(&case["evidence"])) {
            assert_eq!(item.leaf(), hex(&expected["leaf"]), "{}", name(case));
        }
    }
    for case in &group("evidence_checks")[1..] {
        if case["proto"].is_null() {
            continue; // of another case
        }
        let refused = case["stage"] == "decode";
        let found = decode::evidence_from_bytes(&hex(&case["proto"]));
        let passes = found.is_ok_and(|e| e.check_basic().is_ok());
        assert_eq!(passes, !refused, "{}", name(case));
    }
}

#[test]
fn blocksync_messages() {
    let limits = Limits::default();
    for case in group("blocksync_messages") {
        let bytes = Bytes::from(hex(&case["message"]));
        if text(&case["name"]) == "block response without a block" {
            // Legal by itself, but CometBFT refuses it when it decodes the block.
            assert_eq!(guard::peek(&bytes).unwrap().height, None);
            assert!(Message::decode(&bytes).is_err());
            assert!(decode::fetched(&bytes, &limits).is_err());
            continue;
        }
        let found = Message::decode_small(&bytes);
        assert_eq!(found.is_ok(), ok(case), "{}: {found:?}", name(case));
        if let Ok(message) = found {
            let again = message.encode();
            // "block request 0" and "status 0, 0" are empty bodies.
            assert_eq!(again, bytes, "{}", name(case));
            assert_eq!(guard::admit(&bytes, &limits).unwrap().kind, message.kind());
        }
    }
}

#[test]
fn block_response_of_the_appendix() {
    let message = Bytes::from(
        hex::decode(concat!(
            "1a700a6e0a5b0a02080b1803220b088092b8c398feffffff012a0212003a20c4da88e876062aa1543400d50d0eaa0dac88",
            "096057949cfb7bca7f3a48c04bf96a20e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b85512",
            "0d0a0b48656c6c6f20576f726c641a00"
        ))
        .unwrap(),
    );
    let peeked = guard::admit(&message, &Limits::default()).unwrap();
    assert_eq!(peeked.height, Some(Height::new(3)));
    let Ok(Message::Block(response)) = Message::decode(&message) else {
        panic!("not a block");
    };
    assert_eq!(response.encode(), message);
    assert!(canonical::block(&response.block));
    let refused = decode::fetched(&message, &Limits::default()).unwrap_err();
    assert!(
        refused.to_string().contains("proposer_address"),
        "{refused}"
    );
}

#[test]
fn validator_sets() {
    for case in group("validator_sets") {
        let proto = hex(&case["set_proto"]);
        let set: ValidatorSet = convert::set_from_bytes(&proto).unwrap();
        assert_eq!(convert::set_to_bytes(&set), proto, "{}", name(case));
        assert_eq!(Some(set.hash()), hash(&case["hash"]), "{}", name(case));
        assert_eq!(set.len(), list(&case["validators"]).len());
    }
}

#[test]
fn params() {
    for case in group("params_valid") {
        let proto = hex(&case["params"]["proto"]);
        let params = convert::params_from_bytes(&proto).unwrap();
        assert_eq!(params, crate::chain::testing::params(&case["params"]));
        let bytes = |rules: Rules| convert::params_to_bytes(&params, &rules);
        assert_eq!(bytes(Rules::COMET_038), proto, "{}", name(case));
        // 0.37 has no `abci`; 0.34 sends no version either.
        let older = types::ConsensusParams {
            abci: None,
            ..types::ConsensusParams::decode(&proto[..]).unwrap()
        };
        assert_eq!(bytes(Rules::COMET_037), older.encode_to_vec());
        let oldest = types::ConsensusParams {
            version: None,
            ..older
        };
        assert_eq!(bytes(Rules::COMET_034), oldest.encode_to_vec());
        // From 0.39 on the authority group is always there, empty or not.
        let with_authority = [&proto[..], &[0x32, 0x00]].concat();
        for rules in [Rules::COMET_039, Rules::COMET_040] {
            assert_eq!(bytes(rules), with_authority, "{}", name(case));
        }
    }
}
