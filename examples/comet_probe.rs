//! Fetches blocks from a node and looks at none of them: proves the transport, and measures it.
//!
//! `cargo run --example comet_probe -- ID@HOST:PORT CHAIN_ID [BLOCKS] [WINDOW] [packets]
//! [expect=FILE]`
//!
//! With `expect=FILE` every block is compared with a recorded chain (`blocks.bin`). With
//! `seed:ID@HOST:PORT` it asks for peers there, waits for two connections and fetches from the
//! second.

use std::time::Instant;

use anyhow::{Context, bail};
use blocksync::link::{Inbound, Link};
use blocksync::p2p::{Config, NodeKey, PeerAddr, Switch};
use blocksync::wire::proto::blocksync::message::Sum;
use blocksync::wire::proto::blocksync::{BlockRequest, Message, StatusRequest, StatusResponse};
use bytes::Bytes;
use prost::Message as _;
use prost::encoding::decode_varint;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let level = std::env::var("RUST_LOG").unwrap_or("info".to_owned());
    tracing_subscriber::fmt()
        .with_env_filter(level)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [peer, chain_id, rest @ ..] = &args[..] else {
        bail!("usage: comet_probe ID@HOST:PORT CHAIN_ID [BLOCKS] [WINDOW] [packets] [expect=FILE]");
    };
    let number = |i: usize, default: i64| rest.get(i).map_or(Ok(default), |n| n.parse());
    let (count, window) = (number(0, 10)?, number(1, 16)?);

    let mut config = Config::new(NodeKey::generate(), chain_id);
    let seed = peer.strip_prefix("seed:");
    match seed {
        Some(seed) => config.seeds.push(seed.parse::<PeerAddr>()?),
        None => config.peers.push(peer.parse()?),
    }
    config.allow_private = true;
    config.allow_v1 = true;
    config.length_prefixed = !rest.iter().any(|a| a == "packets");
    let expect = rest.iter().find_map(|a| a.strip_prefix("expect="));
    let expect = expect.map(std::fs::read).transpose()?.map(Bytes::from);
    let (links, mut come) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let switch = Switch::start(config, links, stop.clone()).await?;
    let connected = tokio::time::timeout(std::time::Duration::from_secs(10), come.recv()).await;
    let mut link = connected
        .context("no connection within 10 s")?
        .context("stopped")?;
    if seed.is_some() {
        println!("connected to the seed {} at {}", link.peer, link.address);
        let found = tokio::time::timeout(std::time::Duration::from_secs(60), come.recv()).await;
        link = found
            .context("no peer within a minute")?
            .context("stopped")?;
    }
    let outcome = fetch(link, count, window, expect).await;
    if outcome.is_err() {
        let reasons = switch.counters().reasons();
        for (reason, n) in reasons.into_iter().filter(|(_, n)| *n > 0) {
            println!("ended: {reason} {n}");
        }
    }
    stop.cancel();
    switch.stopped().await;
    outcome
}

async fn fetch(
    mut link: Link,
    count: i64,
    window: i64,
    mut expect: Option<Bytes>,
) -> anyhow::Result<()> {
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
            (message, Sum::BlockResponse(_)) => {
                bytes += message.len();
                if let Some(expect) = &mut expect {
                    compare(&message, expect).with_context(|| format!("block {got}"))?;
                }
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

/// The next block of a recorded chain, answered in order, must be what has come: the message is its
/// tag, its length and the block.
fn compare(message: &Bytes, expect: &mut Bytes) -> anyhow::Result<()> {
    let mut recorded = expect.clone();
    let length = usize::try_from(decode_varint(&mut recorded)?)?;
    let with_length = expect.split_to(expect.len() - recorded.len() + length);
    if message.get(1..) != Some(&with_length[..]) {
        bail!("not the bytes that are recorded");
    }
    Ok(())
}

async fn send(link: &Link, sum: Sum) -> anyhow::Result<()> {
    let message = Message { sum: Some(sum) }.encode_to_vec();
    link.outbox
        .send(message.into())
        .await
        .context("the connection has ended")
}

async fn receive(link: &mut Link) -> anyhow::Result<(Bytes, Sum)> {
    loop {
        let came =
            tokio::time::timeout(std::time::Duration::from_secs(30), link.inbox.recv()).await;
        match came
            .context("nothing came for 30 s")?
            .context("the connection has ended")?
        {
            Inbound::Message(bytes) => {
                let sum = Message::decode(bytes.clone())?
                    .sum
                    .context("an empty message")?;
                return Ok((bytes, sum));
            }
            Inbound::Closed(why) | Inbound::Broken(why) => bail!("connection closed: {why}"),
            _ => {}
        }
    }
}
