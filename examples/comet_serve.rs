//! Serves the blocks of a file to whoever connects, from memory: proves the transport, and measures
//! it.
//!
//! `cargo run --example comet_serve -- BLOCKS_FILE BASE CHAIN_ID LISTEN… [lie=MODE]`, where
//! `LISTEN` is `comet://IP:PORT` or `plain://IP:PORT`. With `lie=MODE` it misbehaves, under another
//! node id: `alter` changes a transaction in every block, `garbage` answers with what does not
//! decode, `unasked` sends a block that nobody asked for, `high` claims a height that it does not
//! have, and has nothing.

use std::sync::Arc;

use anyhow::{Context, bail};
use blocksync::link::{Inbound, Link};
use blocksync::p2p::{Config, NodeKey, Switch};
use blocksync::wire::proto::blocksync::message::Sum;
use blocksync::wire::proto::blocksync::{Message, NoBlockResponse, StatusResponse};
use bytes::Bytes;
use prost::Message as _;
use prost::encoding::{decode_varint, encode_varint};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Whole messages, ready to be sent.
struct Chain {
    base: i64,
    blocks: Vec<Bytes>,
    lie: Option<Lie>,
}

#[derive(Clone, Copy)]
enum Lie {
    Alter,
    Garbage,
    Unasked,
    High,
}

impl Lie {
    fn parse(name: &str) -> anyhow::Result<Self> {
        Ok(match name {
            "alter" => Lie::Alter,
            "garbage" => Lie::Garbage,
            "unasked" => Lie::Unasked,
            "high" => Lie::High,
            _ => bail!("no such lie: {name}"),
        })
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let level = std::env::var("RUST_LOG").unwrap_or("info".to_owned());
    tracing_subscriber::fmt()
        .with_env_filter(level)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [file, base, chain_id, listen @ ..] = &args[..] else {
        bail!("usage: comet_serve BLOCKS_FILE BASE CHAIN_ID LISTEN…");
    };
    let lie = listen.iter().find_map(|a| a.strip_prefix("lie="));
    let lie = lie.map(Lie::parse).transpose()?;
    let chain = Arc::new(Chain {
        base: base.parse()?,
        blocks: read(file)?,
        lie,
    });
    let seed = lie.map_or(42, |lie| lie as u8);
    let mut config = Config::new(NodeKey::from_seed([seed; 32]), chain_id);
    config.allow_v1 = true;
    for at in listen.iter().filter(|at| !at.starts_with("lie=")) {
        config.listen.push(at.parse()?);
    }
    let (links, mut come) = mpsc::channel(16);
    let stop = CancellationToken::new();
    let switch = Switch::start(config, links, stop.clone()).await?;
    for at in switch.listening() {
        println!("{} {at}", switch.id());
    }
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        stop.cancel();
    });
    loop {
        tokio::select! {
            link = come.recv() => match link {
                Some(link) => drop(tokio::spawn(serve(link, chain.clone()))),
                None => break,
            },
            () = switch.stopped() => break,
        }
    }
    println!("ended: {:?}", switch.counters().reasons());
    Ok(())
}

fn read(file: &str) -> anyhow::Result<Vec<Bytes>> {
    let mut bytes = Bytes::from(std::fs::read(file).context(file.to_owned())?);
    let mut blocks = Vec::new();
    while !bytes.is_empty() {
        let length = usize::try_from(decode_varint(&mut bytes)?)?;
        // a BlockResponse is member 3 of the message
        let mut message = vec![0x1a];
        encode_varint(length as u64, &mut message);
        message.extend_from_slice(&bytes.split_to(length));
        blocks.push(message.into());
    }
    Ok(blocks)
}

/// The block with another digit in its first transaction `key=digits`; as it is when it has none.
fn altered(block: &Bytes) -> Bytes {
    let mut bytes = block.to_vec();
    let is_tx = |w: &[u8]| w[0].is_ascii_digit() && w[1] == b'=' && w[2].is_ascii_hexdigit();
    if let Some(at) = bytes.windows(3).position(is_tx) {
        bytes[at + 2] = if bytes[at + 2] == b'0' { b'1' } else { b'0' };
    }
    bytes.into()
}

/// Message sent for an honest answer.
fn told(answer: Bytes, chain: &Chain) -> Vec<Bytes> {
    match chain.lie {
        None | Some(Lie::High) => vec![answer],
        Some(Lie::Alter) => vec![altered(&answer)],
        Some(Lie::Garbage) => vec![answer.slice(..answer.len() / 2)],
        Some(Lie::Unasked) => vec![answer.clone(), answer],
    }
}

async fn serve(mut link: Link, chain: Arc<Chain>) -> anyhow::Result<()> {
    let more = if matches!(chain.lie, Some(Lie::High)) {
        1_000_000
    } else {
        0
    };
    let status = Sum::StatusResponse(StatusResponse {
        base: chain.base,
        height: chain.base - 1 + i64::try_from(chain.blocks.len())? + more,
        ..Default::default()
    });
    let status = Bytes::from(Message { sum: Some(status) }.encode_to_vec());
    link.outbox.send(status.clone()).await?;
    let mut served = 0;
    while let Some(come) = link.inbox.recv().await {
        let bytes = match come {
            Inbound::Message(bytes) => bytes,
            Inbound::Closed(why) | Inbound::Broken(why) => {
                println!(
                    "{} at {}: {why}, after {served} blocks",
                    link.peer, link.address
                );
                break;
            }
            _ => continue,
        };
        match Message::decode(bytes)?.sum {
            Some(Sum::StatusRequest(_)) => link.outbox.send(status.clone()).await?,
            Some(Sum::BlockRequest(r)) => {
                let at = usize::try_from(r.height - chain.base).ok();
                let none = || {
                    let sum = Some(Sum::NoBlockResponse(NoBlockResponse { height: r.height }));
                    Message { sum }.encode_to_vec().into()
                };
                let has_it = !matches!(chain.lie, Some(Lie::High));
                let at = at.filter(|_| has_it);
                let block = at.and_then(|i| chain.blocks.get(i)).cloned();
                served += 1;
                for message in block.map_or_else(|| vec![none()], |b| told(b, &chain)) {
                    link.outbox.send(message).await?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}
