//! `fuzz/seeds`: what the fuzz targets begin with, and every input that once broke one. Here each
//! is run once, without libFuzzer.

#[path = "../fuzz/fuzz_targets/pool_ops_body.rs"]
mod pool_ops_body;

use std::path::{Path, PathBuf};

use blocksync::chain::height_proof::HeightProof;
use blocksync::ids::{Hash, Height, PeerId};
use blocksync::p2p::NodeKey;
use blocksync::p2p::node_info::NodeInfo;
use blocksync::wire::{
    Advertisement, AdvertisementRequest, Audience, Cancel, ChainIdentity, Claim, Message, Signer,
};
use blocksync::{p2p, wire};
use serde_json::Value;

type Body = fn(&[u8]);

/// Each target with what it runs, as in `fuzz/fuzz_targets`.
const TARGETS: [(&str, Body); 9] = [
    ("handshake", p2p::fuzzing::handshake),
    ("frame", |data| {
        wire::fuzzing::frame(data);
        p2p::fuzzing::frames(data);
    }),
    ("packet", p2p::fuzzing::packets),
    ("node_info", p2p::fuzzing::node_info),
    ("pex", p2p::fuzzing::peer_exchange),
    ("secret_frame", p2p::fuzzing::secret_frames),
    ("message", wire::fuzzing::message),
    ("canonical", wire::fuzzing::canonical),
    ("pool_ops", pool_ops_body::run),
];

fn seeds() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds")
}

#[test]
fn every_seed_passes() {
    for (target, body) in TARGETS {
        let mut n = 0;
        for entry in std::fs::read_dir(seeds().join(target)).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display()); // the last one printed is the one that broke
            body(&std::fs::read(path).unwrap());
            n += 1;
        }
        assert!(n > 0, "no seeds of {target}");
    }
}

/// The fields that only nodes of ours know are in no vector of CometBFT: without seeds a fuzzer
/// would hardly come to them.
#[test]
fn some_seeds_have_our_fields() {
    let files = std::fs::read_dir(seeds().join("message")).unwrap();
    let seeds: Vec<_> = files
        .map(|f| std::fs::read(f.unwrap().path()).unwrap())
        .collect();
    let has = |reads: fn(&[u8]) -> bool| seeds.iter().any(|seed| reads(seed));
    let proven =
        |m: &[u8]| Advertisement::read(m).is_ok_and(|a| a.is_some_and(|a| a.proof.is_some()));
    assert!(has(proven), "a proven status");
    let wish = |m: &[u8]| AdvertisementRequest::read(m).is_ok_and(|w| w.is_some());
    assert!(has(wish), "a wish for one");
    let chain = |m: &[u8]| ChainIdentity::read(m).is_ok_and(|c| c.is_some());
    assert!(has(chain), "a chain");
    assert!(
        has(|m| Cancel::read(m).is_ok_and(|c| c.is_some())),
        "a request taken back"
    );
}

/// A tool and no check: it writes `fuzz/seeds` anew from the vectors, after a change of theirs or
/// of a target's format.
///
/// `cargo test --test fuzz_seeds -- --ignored`
#[test]
#[ignore = "a tool that writes into the source tree: fuzz/seeds"]
fn write_the_seeds() {
    write("node_info", &node_infos());
    write("handshake", &handshakes());
    write("packet", &packets());
    write("frame", &frames());
    write("pex", &exchanges());
    write("secret_frame", &sealed());
    write("message", &messages());
    write("canonical", &canonical());
    write("pool_ops", &operations());
}

fn write(target: &str, inputs: &[Vec<u8>]) {
    let dir = seeds().join(target);
    std::fs::create_dir_all(&dir).unwrap();
    for (n, input) in inputs.iter().enumerate().filter(|(_, i)| i.len() <= 4096) {
        std::fs::write(dir.join(format!("{n:02}")), input).unwrap();
    }
}

fn cases(name: &str) -> Vec<Value> {
    let text = include_str!("data/vectors.json");
    let all: Value = serde_json::from_str(text).unwrap();
    all[name]["cases"].as_array().unwrap().clone()
}

fn bytes(case: &Value, name: &str) -> Vec<u8> {
    hex::decode(case[name].as_str().unwrap()).unwrap()
}

fn segments(list: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for part in list.as_array().unwrap() {
        if let Some(text) = part["hex"].as_str() {
            out.extend(hex::decode(text).unwrap());
        } else if let (Some(fill), Some(len)) = (part["fill"].as_str(), part["len"].as_u64()) {
            let len = usize::try_from(len).unwrap();
            out.resize(out.len() + len, hex::decode(fill).unwrap()[0]);
        }
    }
    out
}

/// Behind its length.
fn delimited(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    blocksync::varint::put(message.len() as u64, &mut out);
    out.extend(message);
    out
}

/// Id of a good peer in the bodies.
fn info_of(id: PeerId) -> NodeInfo {
    NodeInfo::new(id, "chain", "peer", "tcp://127.0.0.1:2", &[0x40, 0])
}

fn node_infos() -> Vec<Vec<u8>> {
    let mut out = vec![info_of(PeerId([9; 20])).encode()];
    for case in cases("node_info") {
        let theirs = bytes(&case, "theirs");
        let head = theirs.iter().take_while(|b| **b >= 0x80).count() + 1;
        out.push(theirs[head.min(theirs.len())..].to_vec());
    }
    out
}

fn handshakes() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let mut add = |place: u8, data: &[u8]| out.push([&[place], data].concat());
    for case in cases("secret_connection") {
        let party = &case["a"];
        let mut clear = vec![0x22, 0x0a, 0x20];
        clear.extend(bytes(party, "ephemeral_pub"));
        for frame in party["frames"].as_array().unwrap().iter().take(2) {
            clear.extend(bytes(frame, "sealed"));
        }
        add(0, &clear);
        let (key, signature) = (NodeKey::from_seed([2; 32]), [7; 64]);
        let auth = [
            &[0x66, 0x0a, 0x22, 0x0a, 0x20][..],
            &key.public(),
            &[0x12, 0x40],
            &signature,
        ];
        add(1, &auth.concat());
    }
    let good = info_of(NodeKey::from_seed([2; 32]).id());
    let mut v1 = good.clone();
    if let Some(version) = &mut v1.wire.protocol_version {
        version.p2p = 9;
    }
    add(2, &delimited(&good.encode()));
    add(2, &delimited(&v1.encode()));
    add(0x80 | 2, &delimited(&v1.encode())); // 0x82 is 1 modulo 3
    add(0x80 | 3, &delimited(&v1.encode())); // 0x83 is 2 modulo 3: allowed
    out
}

fn packets() -> Vec<Vec<u8>> {
    let wire = |case: Value| segments(&case["wire"]);
    cases("packets").into_iter().map(wire).collect()
}

fn frames() -> Vec<Vec<u8>> {
    let messages = cases("blocksync_messages");
    let messages: Vec<_> = messages.iter().map(|c| bytes(c, "message")).collect();
    let stream: Vec<u8> = messages.iter().flat_map(|m| delimited(m)).collect();
    let mark = |m: &Vec<u8>| delimited(&[&[0x40], &m[..]].concat());
    let marked: Vec<u8> = messages.iter().flat_map(mark).collect();
    let long = [delimited(&[0x1a; 1500]), delimited(&[2; 1999])].concat();
    let mut out = Vec::new();
    for step in [0, 12, 254] {
        out.push([&[step], &stream[..]].concat());
        out.push([&[step | 1], &marked[..]].concat());
        out.push([&[step], &long[..]].concat());
    }
    out
}

fn exchanges() -> Vec<Vec<u8>> {
    let address = |n: u8| {
        let id = [b'a' + n % 6; 40];
        let ip = format!("8.8.{n}.8");
        let fields = [&[0x0a, 40], &id[..], &[0x12], &delimited(ip.as_bytes())].concat();
        let address = [&fields[..], &[0x18, 0x90, 0x4e]].concat();
        [&[0x0a], &delimited(&address)[..]].concat()
    };
    let list: Vec<u8> = (0..5).flat_map(address).collect();
    let list = [&[0x12], &delimited(&list)[..]].concat();
    let behind = |m: &[u8]| {
        let length = u16::try_from(m.len()).unwrap().to_be_bytes();
        [&length, m].concat()
    };
    let request = behind(&[0x0a, 0]);
    vec![
        behind(&list),
        request.clone(),
        [&request[..], &behind(&list)].concat(),
        request.repeat(4),
        behind(&list).repeat(2),
    ]
}

fn sealed() -> Vec<Vec<u8>> {
    let frame = |length: u32, fill: u8| [&length.to_le_bytes()[..], &[fill; 10]].concat();
    vec![
        vec![5; 1],
        (0..=255).collect(),
        vec![9; 3000],
        [frame(1024, 1), frame(0, 2), frame(3, 3)].concat(),
        [frame(1, 1), frame(1025, 2), frame(3, 3)].concat(),
    ]
}

fn messages() -> Vec<Vec<u8>> {
    let mut out: Vec<_> = cases("blocksync_messages")
        .iter()
        .map(|c| bytes(c, "message"))
        .collect();
    let block = |case: &Value| [&[0x0a], &delimited(&segments(&case["segments"]))[..]].concat();
    let response = |body: &[u8]| [&[0x1a], &delimited(body)[..]].concat();
    let blocks = cases("blocks");
    out.extend(blocks.iter().map(|c| response(&block(c))));
    let extended = bytes(&cases("extended_commits")[0], "proto");
    let extended = [&[0x12], &delimited(&extended)[..]].concat();
    out.push(response(&[block(&blocks[3]), extended].concat()));
    let header = wire::decode::header_of_block(&segments(&blocks[3]["segments"])).unwrap();
    let commit = wire::decode::commit_from_bytes(&bytes(&cases("commit_hash")[0], "proto"));
    let commit = commit.unwrap();
    out.extend(our_fields(HeightProof { header, commit }));
    out
}

/// Fields of ours beside a status or a request for one.
fn our_fields(proof: HeightProof) -> [Vec<u8>; 4] {
    let (base, height) = (Height::new(3), Height::new(70_000));
    let chain = ChainIdentity {
        chain_id: "a-chain".into(),
        genesis: Hash([6; 32]),
    };
    let claim = Claim {
        base,
        height,
        sequence: 1 << 50,
        time: 1_700_000_000,
        nonce: Some([9; 16]),
    };
    let audience = Audience {
        chain: &chain,
        receiver: PeerId([8; 20]),
    };
    let signed = Signer::from_seed([4; 32]).sign(claim, Some(proof), audience);
    let wish = AdvertisementRequest {
        takes: 60 << 10,
        nonce: [7; 16],
        prove_above: Some(base),
    };
    let status = Message::Status {
        height,
        base,
        max_range: 64,
    };
    let cancel = Cancel {
        from: base,
        count: 64,
    };
    [
        signed.beside(&status),
        chain.beside(&status),
        wish.encode(),
        cancel.encode(),
    ]
    .map(|message| message.to_vec())
}

fn canonical() -> Vec<Vec<u8>> {
    let mut out: Vec<_> = cases("blocks")
        .iter()
        .map(|c| segments(&c["segments"]))
        .collect();
    out.extend(cases("commit_hash").iter().map(|c| bytes(c, "proto")));
    out.extend(cases("extended_commits").iter().map(|c| bytes(c, "proto")));
    out
}

/// Nothing that means anything: the bodies make operations of any bytes.
fn operations() -> Vec<Vec<u8>> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut byte = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..20)
        .map(|n| (0..100 * n + 60).map(|_| byte()).collect())
        .collect()
}
