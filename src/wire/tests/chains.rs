//! The chains in `tests/chains`, made by CometBFT: every block decodes, is canonical, encodes to
//! itself and has the id that CometBFT computed.

use std::fs;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use prost_0_13::Message as _;
use tendermint_proto::v0_38::types as oracle;
use tokio_util::codec::Decoder;

use super::super::codec::{Codec, Frame};
use super::super::message::BlockResponse;
use super::super::{Limits, Message, canonical, decode, guard};
use super::{by_prost, encoded};

/// The messages of a chain's file.
pub(super) fn messages(chain: &str) -> Vec<Bytes> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chains");
    let file = fs::read(path.join(chain).join("blocks.bin")).unwrap();
    let (mut codec, mut stream) = (
        Codec::for_file(Limits::default()),
        BytesMut::from(&file[..]),
    );
    let mut found = Vec::new();
    while let Some(frame) = codec.decode_eof(&mut stream).unwrap() {
        match frame {
            Frame::Message(_, message) => found.push(message),
            Frame::Alive => panic!("an empty record"),
        }
    }
    found
}

fn check(chain: &str, first: u64, extensions_from: u64) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chains");
    let expected = fs::read_to_string(path.join(chain).join("expected.jsonl")).unwrap();
    let expected: Vec<serde_json::Value> = expected
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let messages = messages(chain);
    assert_eq!(messages.len(), expected.len(), "{chain}");
    for (i, (message, expected)) in messages.iter().zip(&expected).enumerate() {
        let height = first + i as u64;
        let fetched = decode::fetched_response(message, &Limits::default()).unwrap();
        assert_eq!(fetched.height().get(), height);
        assert_eq!(height, expected["height"].as_u64().unwrap());
        assert!(fetched.canonical, "{chain} {height}");
        fetched.block.check_body().unwrap();
        assert_eq!(encoded(&fetched.block), fetched.raw, "{chain} {height}");
        let hashes = (fetched.id.hash.unwrap(), fetched.id.parts.hash.unwrap());
        assert_eq!(hashes.0.to_string(), expected["block_hash"]);
        assert_eq!(hashes.1.to_string(), expected["parts_hash"]);
        assert_eq!(fetched.id.parts.total, expected["parts_total"]);
        assert_eq!(fetched.raw.len(), expected["block_bytes"]);
        assert_eq!(fetched.block.evidence.len(), expected["evidence"]);
        check_extended(&fetched, height >= extensions_from);
        let theirs = oracle::Block::decode(&fetched.raw[..]).unwrap();
        assert_eq!(theirs.encode_to_vec(), fetched.raw, "{chain} {height}");
        assert_eq!(by_prost(&fetched.raw).unwrap(), fetched.raw);
        check_envelope(message, &fetched);
    }
    let tip = fs::read(path.join(chain).join("tip_commit.bin")).unwrap();
    let commit = decode::commit_from_bytes(&tip).unwrap();
    commit.check_basic().unwrap();
    assert!(canonical::commit(&tip));
    assert_eq!(commit.height.get(), first + messages.len() as u64 - 1);
}

fn check_extended(fetched: &crate::chain::Fetched, enabled: bool) {
    assert_eq!(fetched.ext_commit.is_some(), enabled);
    assert_eq!(fetched.ext_raw.is_some(), enabled);
    if let (Some(commit), Some(raw)) = (&fetched.ext_commit, &fetched.ext_raw) {
        let mut out = Vec::new();
        commit.encode(&mut out);
        assert_eq!(&out, raw);
        assert!(canonical::extended_commit(raw));
        let theirs = oracle::ExtendedCommit::decode(&raw[..]).unwrap();
        assert_eq!(&theirs.encode_to_vec(), raw);
        assert_eq!(commit.block_id, fetched.id);
    }
}

/// The response built from the stored parts is the one that came, and the guard sees the same block
/// in it.
fn check_envelope(message: &Bytes, fetched: &crate::chain::Fetched) {
    let response = BlockResponse {
        block: fetched.raw.clone(),
        ext_commit: fetched.ext_raw.clone(),
        seen_commit: None,
    };
    let whole = Message::Block(response.clone()).encode();
    assert!(whole.ends_with(message));
    assert_eq!(whole.len(), response.encoded_len());
    let mut behind = vec![7];
    response.encode_to(&mut behind);
    assert_eq!(behind[1..], whole, "appended to what is there");
    let peeked = guard::admit(&whole, &Limits::default()).unwrap();
    assert_eq!(peeked.height, Some(fetched.height()));
    let again = decode::fetched(&whole, &Limits::default()).unwrap();
    assert_eq!((again.id, &again.block), (fetched.id, &fetched.block));
}

#[test]
fn one() {
    check("one", 1, u64::MAX);
}

#[test]
fn four() {
    check("four", 1, u64::MAX);
}

#[test]
fn full_038() {
    check("full-038", 7, 60);
}

#[test]
fn full_040() {
    check("full-040", 7, 60);
}

#[test]
fn churn() {
    check("churn", 1, u64::MAX);
}
