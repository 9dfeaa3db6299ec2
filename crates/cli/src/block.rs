//! `blocksync block`: one stored block, and lines of them for `export --json`.

use std::io::Write as _;

use blocksync::ids::Height;
use blocksync::store::{BlockRecord, Store};
use blocksync::wire::decode;
use blocksync_http::json::{self, Json};

use crate::args::Block;
use crate::failure::{Exit, Failure};
use crate::home::Home;

/// Shows it.
///
/// # Errors
/// When it is not stored, or damaged.
pub(crate) fn run(args: &Block) -> Result<Exit, Failure> {
    let store = Home::at(&args.home.home).open_to_read()?;
    let span = store.span()?;
    // A block above may be stored and not executed yet: nothing is shown that is not applied.
    let found = if args.height <= span.applied {
        store.block(args.height)?
    } else {
        None
    };
    let Some(record) = found else {
        return Err(Failure::failed(format!(
            "block {} is not there: the store holds {} to {}",
            args.height, span.base, span.applied
        )));
    };
    let text = if args.json {
        line(&store, &record)?
    } else {
        summary(&store, &record)?.into_bytes()
    };
    let mut out = std::io::stdout().lock();
    // A reader that has seen enough closes the pipe.
    let _ = out.write_all(&text).and_then(|()| out.write_all(b"\n"));
    Ok(Exit::Reached)
}

/// A block with its id and, where they are kept, its results, as one JSON object in the form of
/// CometBFT's RPC.
///
/// # Errors
/// When it does not decode.
pub(crate) fn line(store: &dyn Store, record: &BlockRecord) -> Result<Vec<u8>, Failure> {
    // Stored bytes were proven, and the record's checksum is checked as it is read.
    let block = decode::block_from_bytes(&record.raw).map_err(|e| damaged(record.height, &e))?;
    let mut out = Json::new();
    out.raw("{\"block_id\":");
    json::block_id(&mut out, &record.id);
    out.raw(",\"block\":");
    json::block(&mut out, &block);
    out.raw(",\"results\":");
    match store.results_at(record.height)? {
        // Results may lie there for fewer heights than blocks: `--retain-results`
        // is a setting of its own.
        Some(response) => json::block_results(&mut out, record.height, response)
            .map_err(|e| damaged(record.height, &e))?,
        None => {
            out.raw("null");
        }
    }
    out.raw("}");
    Ok(out.into_bytes())
}

fn damaged(height: Height, why: &dyn std::fmt::Display) -> Failure {
    Failure::failed(format!("block {height}: {why}"))
}

fn summary(store: &dyn Store, record: &BlockRecord) -> Result<String, Failure> {
    let block = decode::block_from_bytes(&record.raw).map_err(|e| damaged(record.height, &e))?;
    let header = &block.header;
    let hash = record.id.hash.map_or_else(String::new, |h| h.to_string());
    let results = match store.results_at(record.height)? {
        Some(response) => format!("kept, {} bytes", response.len()),
        None => "not kept".to_owned(),
    };
    let lines = [
        (
            "chain_id",
            String::from_utf8_lossy(&header.chain_id).into_owned(),
        ),
        ("height", header.height.to_string()),
        ("hash", hash),
        ("time", header.time.to_string()),
        ("proposer", header.proposer_address.to_string()),
        ("app_hash_before", hex::encode(&header.app_hash)),
        ("bytes", record.raw.len().to_string()),
        ("transactions", block.txs.len().to_string()),
        ("evidence", block.evidence.len().to_string()),
        ("signatures", block.last_commit.signatures.len().to_string()),
        ("results", results),
    ];
    let lines = lines.map(|(name, value)| format!("{name:20}  {value}"));
    Ok(lines.join("\n"))
}
