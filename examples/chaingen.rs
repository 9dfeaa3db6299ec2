//! Makes a chain: `cargo run --release --example chaingen -- DIR --validators 100 --heights 3000`.

use std::path::PathBuf;

use blocksync::chaingen::{Options, write};
use clap::Parser;

/// Makes a chain that CometBFT accepts
#[derive(Parser)]
struct Args {
    /// Where to: genesis.json, blocks.bin, tip_commit.bin, expected.jsonl
    dir: PathBuf,
    #[command(flatten)]
    options: Options,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let start = std::time::Instant::now();
    let made = write(&args.options, &args.dir, |_| {})?;
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{}: heights {}..{}, {} bytes of blocks, app hash {}, {seconds:.1} s",
        args.options.chain_id, made.first, made.last, made.block_bytes, made.app_hash
    );
    Ok(())
}
