//! A chain as files: the layout of `tests/data/chains`, which CometBFT's own generator writes too.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::json;

use super::{ChaingenError, Generator, Made, Options};
use blocksync::chain::{ChainState, Genesis, encode};
use blocksync::ids::{Hash, Height};

/// Bytes that are written to a file at once.
const BUFFER: usize = 1 << 20;

/// Files that were written.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The first height.
    pub first: Height,
    /// The last height.
    pub last: Height,
    /// Bytes of encoded blocks, without framing and extended commits.
    pub block_bytes: u64,
    /// The application's hash after the last block.
    pub app_hash: String,
}

/// A line of `expected.jsonl`: the block, and what the state is after it.
#[derive(Serialize)]
struct Expected {
    height: u64,
    block_hash: String,
    parts_total: u32,
    parts_hash: String,
    block_bytes: usize,
    validators: usize,
    evidence: usize,
    app_hash_after: String,
    last_results_hash_after: String,
    next_validators_hash_after: String,
}

/// Makes a chain of `options.heights` blocks and writes `genesis.json`, `blocks.bin`,
/// `tip_commit.bin` and `expected.jsonl` into `dir`, which is made if it is not there. `progress`
/// is told how many blocks are done.
///
/// # Errors
/// When the options contradict each other or a file cannot be written.
pub fn write(
    options: &Options,
    dir: &Path,
    mut progress: impl FnMut(u64),
) -> Result<Summary, ChaingenError> {
    let mut generator = Generator::new(options.clone())?;
    fs::create_dir_all(dir).map_err(failed(dir))?;
    let genesis = dir.join("genesis.json");
    fs::write(&genesis, genesis_json(generator.genesis())).map_err(failed(&genesis))?;
    let (blocks, expected) = (dir.join("blocks.bin"), dir.join("expected.jsonl"));
    let mut blocks_out = create(&blocks)?;
    let mut expected_out = create(&expected)?;
    let mut summary = Summary {
        first: generator.state().initial_height,
        last: Height::ZERO,
        block_bytes: 0,
        app_hash: String::new(),
    };
    let mut tip = Vec::new();
    for done in 1..=options.heights {
        let signers = generator.state().validators.len();
        let made = generator.make()?;
        write_response(&made, &mut blocks_out).map_err(failed(&blocks))?;
        let line = Expected::new(&made, signers, generator.state());
        write_line(&line, &mut expected_out).map_err(failed(&expected))?;
        summary.last = made.block.header.height;
        summary.block_bytes += made.raw.len() as u64;
        if done == options.heights {
            made.commit.to_commit().encode(&mut tip);
        }
        progress(done);
    }
    blocks_out.flush().map_err(failed(&blocks))?;
    expected_out.flush().map_err(failed(&expected))?;
    let path = dir.join("tip_commit.bin");
    fs::write(&path, &tip).map_err(failed(&path))?;
    summary.app_hash = hex::encode(&generator.state().app_hash);
    Ok(summary)
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> ChaingenError {
    let path = path.display().to_string();
    move |error| ChaingenError::File(path, error)
}

fn create(path: &Path) -> Result<BufWriter<File>, ChaingenError> {
    let file = File::create(path).map_err(failed(path))?;
    Ok(BufWriter::with_capacity(BUFFER, file))
}

/// A length and a `BlockResponse`: block 1, ext_commit 2.
fn write_response(made: &Made, out: &mut impl Write) -> io::Result<()> {
    let mut extended = Vec::new();
    if made.extensions {
        encode::message(2, &mut extended, |out| {
            made.commit.encode(out);
        });
    }
    let length = encode::element_len(made.raw.len()) + extended.len();
    let mut head = Vec::with_capacity(24);
    encode::uvarint(length as u64, &mut head);
    head.push(1 << 3 | 2); // field 1, bytes
    encode::uvarint(made.raw.len() as u64, &mut head);
    out.write_all(&head)?;
    out.write_all(&made.raw)?;
    out.write_all(&extended)
}

fn write_line(line: &Expected, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

impl Expected {
    fn new(made: &Made, signers: usize, after: &ChainState) -> Self {
        Expected {
            height: made.block.header.height.get(),
            block_hash: show(made.id.hash),
            parts_total: made.id.parts.total,
            parts_hash: show(made.id.parts.hash),
            block_bytes: made.raw.len(),
            validators: signers,
            evidence: made.block.evidence.len(),
            app_hash_after: hex::encode(&after.app_hash),
            last_results_hash_after: after.last_results_hash.to_string(),
            next_validators_hash_after: after.next_validators.hash().to_string(),
        }
    }
}

fn show(hash: Option<Hash>) -> String {
    hash.map_or_else(String::new, |hash| hash.to_string())
}

/// A genesis document as CometBFT writes one: 64-bit integers in strings.
#[must_use]
pub fn genesis_json(genesis: &Genesis) -> String {
    let text = |n: i64| n.to_string();
    let params = &genesis.params;
    let validators = genesis.validators.iter().enumerate().map(|(i, v)| {
        let kind = v.key.key_type().json_name();
        json!({
            "address": v.address.to_string().to_uppercase(),
            "pub_key": {"type": kind, "value": STANDARD.encode(v.key.as_bytes())},
            "power": text(v.power),
            "name": format!("v{i}"),
        })
    });
    let document = json!({
        "genesis_time": genesis.genesis_time.map(|time| time.to_string()),
        "chain_id": genesis.chain_id,
        "initial_height": genesis.initial_height.to_string(),
        "consensus_params": {
            "block": {
                "max_bytes": text(params.block_max_bytes),
                "max_gas": text(params.block_max_gas),
                "time_iota_ms": "1000", // only 0.34 reads it, and wants it
            },
            "evidence": {
                "max_age_num_blocks": text(params.evidence_max_age_num_blocks),
                "max_age_duration": text(params.evidence_max_age_duration),
                "max_bytes": text(params.evidence_max_bytes),
            },
            "validator": {"pub_key_types": params.pub_key_types},
            "version": {"app": params.version_app.to_string()},
            "abci": {"vote_extensions_enable_height": text(params.vote_extensions_enable_height)},
        },
        "validators": validators.collect::<Vec<_>>(),
        "app_hash": hex::encode(&genesis.app_hash),
    });
    format!("{document:#}\n")
}
