//! Embeds block sync with a store, an application and a transport of its own, and without the
//! library's default features. `tests/embedder/check.sh` builds it, runs it and counts its crates.

mod app;
mod store;
mod stream;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use blocksync::chain::Genesis;
use blocksync::pool::Outcome;
use blocksync::service::BlockSync;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, height, app_hash] = args.as_slice() else {
        return Err("usage: embedder CHAIN-DIRECTORY HEIGHT APP-HASH".into());
    };
    let dir = PathBuf::from(dir);
    let genesis = Genesis::parse(&std::fs::read(dir.join("genesis.json"))?)?;
    let chain = stream::Chain::read(&dir.join("blocks.bin"), genesis.initial_height)?;

    let store = Arc::new(store::Counted::default());
    let (app, transactions) = app::Counted::new();
    let service = BlockSync::builder(store.clone(), app, genesis)
        .spawn()
        .await?;
    service.peers().add(stream::serve(chain)).await?;

    // The file has no commit for its last block, so the block below it is the last proven one.
    let caught_up = |outcome: &Outcome| matches!(outcome, Outcome::CaughtUp { .. });
    let status = service.outcome(caught_up).await?;
    service.stop().await;

    let applied = format!("{} {}", status.applied, hex(&status.app_hash));
    let expected = format!("{height} {app_hash}");
    if applied != expected {
        return Err(format!("applied {applied}, expected {expected}").into());
    }
    // Every call went through the embedder's own store and application.
    let (commits, transactions) = (store.commits(), transactions.load(Relaxed));
    if commits == 0 || transactions == 0 {
        return Err(format!("{commits} commits, {transactions} transactions").into());
    }
    println!("applied {applied}: {transactions} transactions, {commits} commits of the store");
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
