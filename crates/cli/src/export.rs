//! `blocksync export`: stored blocks as a file that `import`, here or elsewhere, takes.

use std::time::Instant;

use blocksync::blockfile;
use blocksync::ids::Height;
use blocksync::store::{BlockRecord, Store};
use blocksync::wire::message::BlockResponse;
use bytes::Bytes;

use crate::args::Export;
use crate::block;
use crate::console::say;
use crate::failure::{Exit, Failure};
use crate::home::{Home, Temporary};

/// Blocks that are read at once, …
const BLOCKS: u32 = 256;
/// … and bytes.
const BYTES: usize = 8 << 20;

/// Writes the file; it is there whole or not at all.
///
/// # Errors
/// When a height is not stored, a record is damaged, or the disk is full.
pub(crate) fn run(args: &Export) -> Result<Exit, Failure> {
    let since = Instant::now();
    let file_name = args.file.as_deref().expect("clap asks for it");
    let store = Home::at(&args.home.home).open_to_read()?;
    let (from, to) = range(&store, args)?;
    let mut file = Temporary::beside(file_name)?;
    let (mut next, mut bytes) = (from, 0u64);
    while next <= to {
        let count = u32::try_from(to.above(next) + 1)
            .unwrap_or(BLOCKS)
            .min(BLOCKS);
        let records = store.blocks(next, count, BYTES)?;
        // A node beside us may prune while we read.
        if records.is_empty() {
            return Err(missing(&store, next));
        }
        for record in records {
            next = record.height.next();
            // Every other block's commit stands in the block above it.
            let commit = if record.height == to && !args.json {
                Some(own_commit(&store, to)?)
            } else {
                None
            };
            let record = if args.json {
                let mut line = block::line(&store, &record)?;
                line.push(b'\n');
                line.into()
            } else {
                blockfile::to_record(&response(record, commit))
            };
            bytes += record.len() as u64;
            file.write_all(&record)?;
        }
    }
    // Renamed only now: a file under its name is whole.
    file.keep()?;
    let last = if args.json {
        ""
    } else {
        "; the last one holds its own commit"
    };
    say(&format!(
        "{}: blocks {from} to {to}, {bytes} bytes, in {:.1} s{last}",
        file_name.display(),
        since.elapsed().as_secs_f64()
    ));
    Ok(Exit::Reached)
}

/// The heights to write; only what is executed is given away.
fn range(store: &dyn Store, args: &Export) -> Result<(Height, Height), Failure> {
    let span = store.span()?;
    if span.base == Height::ZERO || span.applied < span.base {
        return Err(Failure::failed("the store holds no block yet"));
    }
    let (from, to) = (
        args.from.unwrap_or(span.base),
        args.to.unwrap_or(span.applied),
    );
    if from > to {
        return Err(Failure::usage(format!("--from {from} is above --to {to}")));
    }
    if from < span.base || to > span.applied {
        return Err(Failure::failed(format!(
            "blocks {from} to {to} were asked for, the store holds {} to {}",
            span.base, span.applied
        )));
    }
    Ok((from, to))
}

/// The fully verified commit for the last block, so that an import of the file
/// can prove that block, too.
fn own_commit(store: &dyn Store, height: Height) -> Result<Bytes, Failure> {
    let commit = store.commit_for(height)?;
    commit.ok_or_else(|| Failure::failed(format!("the store lacks the commit for block {height}")))
}

fn response(record: BlockRecord, seen_commit: Option<Bytes>) -> BlockResponse {
    BlockResponse {
        block: record.raw,
        ext_commit: record.ext_raw,
        seen_commit,
    }
}

fn missing(store: &dyn Store, height: Height) -> Failure {
    let base = store.span().map_or(Height::ZERO, |span| span.base);
    Failure::failed(format!(
        "block {height} is not in the store any more, which begins at {base}: was it pruned meanwhile?"
    ))
}
