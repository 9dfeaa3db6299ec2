//! `blocksync verify --repair`: damaged blocks are fetched again, by what the store still knows of
//! them, and put back where they lay.

use std::time::Duration;

use blocksync::chain::Genesis;
use blocksync::ids::Height;
use blocksync::link::{Inbound, Link};
use blocksync::p2p::{self, PeerAddr, Switch};
use blocksync::store::LmdbStore;
use blocksync::wire::message::BlockResponse;
use blocksync::wire::{Limits, Message, decode};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::console::say;
use crate::failure::{Exit, Failure};
use crate::home::Home;
use crate::verify::Damage;

/// Links that wait to be asked.
const LINKS: usize = 16;
/// How long one peer has for one block.
const ANSWER: Duration = Duration::from_secs(15);
/// How long we wait for a peer that was not asked yet.
const COMING: Duration = Duration::from_secs(10);

/// Repairs what can be repaired, and says of each height whether it was.
///
/// # Errors
/// When the home is in use, or no peer comes at all.
pub(crate) fn run(
    home: &Home,
    genesis: &Genesis,
    peers: &[PeerAddr],
    damages: &[Damage],
) -> Result<(), Failure> {
    let store = home.open_again()?.store;
    let mut config = p2p::Config::new(home.node_key()?, &genesis.chain_id);
    config.peers = peers.to_vec();
    // A block that can be read and is not the chain's was stored so: its bytes would be put back.
    let heights: Vec<Height> = damages
        .iter()
        .filter(|d| d.failure.exit == Exit::Failed)
        .map(|d| d.height)
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("cannot start the runtime: {e}")))?;
    runtime.block_on(fetch_all(&store, config, heights))
}

async fn fetch_all(
    store: &LmdbStore,
    config: p2p::Config,
    mut left: Vec<Height>,
) -> Result<(), Failure> {
    let off = CancellationToken::new();
    let (links, mut come) = mpsc::channel(LINKS);
    let switch = Switch::start(config, links, off.clone())
        .await
        .map_err(|e| Failure::failed(e.to_string()))?;
    let mut asked = 0;
    while !left.is_empty() {
        // Peers one after another: repairs are few, and each block needs one good answer only.
        let Ok(Some(mut link)) = tokio::time::timeout(COMING, come.recv()).await else {
            break;
        };
        asked += 1;
        let mut still = Vec::new();
        for height in left {
            match fetch(&mut link, store, height).await {
                Ok(()) => say(&format!(
                    "block {height} is repaired, from {}",
                    link.address
                )),
                Err(why) => {
                    say(&format!(
                        "block {height} is not repaired, from {}: {why}",
                        link.address
                    ));
                    still.push(height);
                }
            }
        }
        left = still;
        link.hangup.cancel();
        // Those who were asked are dialled again: each is asked once.
        if asked >= switch.contacts().len() {
            break;
        }
    }
    let contacts = switch.contacts();
    off.cancel();
    switch.stopped().await;
    if asked > 0 {
        return Ok(());
    }
    let why: Vec<_> = contacts
        .iter()
        .map(|c| {
            format!(
                "{}: {}",
                c.peer,
                c.last_error.as_deref().unwrap_or("no answer")
            )
        })
        .collect();
    Err(Failure {
        exit: Exit::NoPeers,
        message: format!("no peer to repair from; {}", why.join("; ")),
    })
}

/// Asks one peer for one block, and puts it back if it is the one that was stored.
async fn fetch(link: &mut Link, store: &LmdbStore, height: Height) -> Result<(), String> {
    // A count of 0 is CometBFT's own request, which every peer answers.
    let request = Message::BlockRequest { height, count: 0 }.encode();
    link.outbox
        .send(request)
        .await
        .map_err(|_| "it is gone".to_owned())?;
    let answer = tokio::time::timeout(ANSWER, answer(link, height)).await;
    let response = answer.map_err(|_| format!("no answer within {ANSWER:?}"))??;
    store
        .repair(height, &response.block, response.ext_commit.as_ref())
        .map_err(|e| e.to_string())
}

/// The answer to a request, among whatever else comes.
async fn answer(link: &mut Link, height: Height) -> Result<BlockResponse, String> {
    loop {
        match link.inbox.recv().await {
            Some(Inbound::Message(bytes)) => match Message::decode(&bytes) {
                Ok(Message::Block(response)) => {
                    let block = decode::fetched(&response.encode(), &Limits::default());
                    // Another height is an answer to a request that ran into its time-out.
                    if block.is_ok_and(|b| b.height() == height) {
                        return Ok(response);
                    }
                }
                Ok(Message::NoBlock { height: of }) if of == height => {
                    return Err("it does not have the block".to_owned());
                }
                // Statuses and requests: this process serves nothing.
                _ => {}
            },
            Some(Inbound::Closed(why) | Inbound::Broken(why)) => return Err(why),
            Some(_) => {}
            None => return Err("it is gone".to_owned()),
        }
    }
}
