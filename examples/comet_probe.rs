//! Fetches blocks from a node and looks at none of them: proves the transport, and measures it.
//!
//! `cargo run --example comet_probe -- ID@HOST:PORT CHAIN_ID [BLOCKS] [WINDOW] [packets]`

use std::time::Instant;

use anyhow::{Context, bail};
use blocksync::link::{Inbound, Link};
use blocksync::p2p::{Config, NodeKey, PeerAddr, Switch};
use blocksync::wire::proto::blocksync::message::Sum;
use blocksync::wire::proto::blocksync::{BlockRequest, Message, StatusRequest, StatusResponse};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let level = std::env::var("RUST_LOG").unwrap_or("info".to_owned());
    tracing_subscriber::fmt()
        .with_env_filter(level)
        .with_writer(std::io::stderr)
        .init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [peer, chain_id, rest @ ..] = &args[..] else {
        bail!("usage: comet_probe ID@HOST:PORT CHAIN_ID [BLOCKS] [WINDOW] [packets]");
    };
    let peer: PeerAddr = peer.parse()?;
    let number = |i: usize, default: i64| rest.get(i).map_or(Ok(default), |n| n.parse());
    let (count, window) = (number(0, 10)?, number(1, 16)?);

    let mut config = Config::new(NodeKey::generate(), chain_id);
    config.peers.push(peer);
    config.length_prefixed = !rest.iter().any(|a| a == "packets");
    let (links, mut come) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let switch = Switch::start(config, links, stop.clone()).await?;
    let connected = tokio::time::timeout(std::time::Duration::from_secs(10), come.recv()).await;
    let link = connected
        .context("no connection within 10 s")?
        .context("stopped")?;
    let outcome = fetch(link, count, window).await;
    for (reason, n) in switch
        .counters()
        .reasons()
        .into_iter()
        .filter(|(_, n)| *n > 0)
    {
        println!("ended: {reason} {n}");
    }
    stop.cancel();
    switch.stopped().await;
    outcome
}

async fn fetch(mut link: Link, count: i64, window: i64) -> anyhow::Result<()> {
    println!("connected to {} at {}", link.peer, link.address);
    send(&link, Sum::StatusRequest(StatusRequest {})).await?;
    let status = loop {
        if let Sum::StatusResponse(s) = receive(&mut link).await?.1 {
            break s;
        }
    };
    let StatusResponse { base, height, .. } = status;
    println!("status: base {base}, height {height}");
    let last = height.min(base + count - 1);
    let (mut asked, mut got, mut bytes) = (base, base, 0);
    let begun = Instant::now();
    while got <= last {
        while asked <= last && asked < got + window {
            send(
                &link,
                Sum::BlockRequest(BlockRequest {
                    height: asked,
                    ..Default::default()
                }),
            )
            .await?;
            asked += 1;
        }
        match receive(&mut link).await? {
            (n, Sum::BlockResponse(_)) => {
                bytes += n;
                got += 1;
            }
            (_, Sum::NoBlockResponse(b)) => bail!("no block {}", b.height),
            _ => {}
        }
    }
    let (blocks, seconds) = (last - base + 1, begun.elapsed().as_secs_f64());
    #[allow(clippy::cast_precision_loss)] // figures for people
    let (rate, mib) = (
        blocks as f64 / seconds,
        bytes as f64 / seconds / f64::from(1 << 20),
    );
    println!(
        "{blocks} blocks, {bytes} bytes in {seconds:.3} s: {rate:.0} blocks/s, {mib:.1} MiB/s"
    );
    Ok(())
}

async fn send(link: &Link, sum: Sum) -> anyhow::Result<()> {
    let message = Message { sum: Some(sum) }.encode_to_vec();
    link.outbox
        .send(message.into())
        .await
        .context("the connection has ended")
}

async fn receive(link: &mut Link) -> anyhow::Result<(usize, Sum)> {
    loop {
        let came =
            tokio::time::timeout(std::time::Duration::from_secs(30), link.inbox.recv()).await;
        match came
            .context("nothing came for 30 s")?
            .context("the connection has ended")?
        {
            Inbound::Message(bytes) => {
                let n = bytes.len();
                let sum = Message::decode(bytes)?.sum.context("an empty message")?;
                return Ok((n, sum));
            }
            Inbound::Progress(_) => {}
            Inbound::Closed(why) => bail!("connection closed: {why}"),
        }
    }
}
