//! The demonstration's servers: honest ones, and one that lies.

use std::sync::Arc;

use blocksync::link::Link;
use blocksync::service::{Offload, ServeConfig, Server};
use blocksync::store::Store;
use blocksync::wire::message::BlockResponse;
use blocksync::wire::{Message, decode};
use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use crate::failure::Failure;
use crate::serve;

/// Answers all who come, from the store.
///
/// # Errors
/// When the store cannot be read.
pub(crate) fn start(
    store: Arc<dyn Store>,
    come: mpsc::Receiver<Link>,
    honest: bool,
) -> Result<(), Failure> {
    let (_, served) = watch::channel(serve::served(store.span()?));
    // One thread a server: they share the machine with the node that is shown.
    let offload = Offload::threads(1).map_err(|e| Failure::failed(e.to_string()))?;
    let server = Server::new(store, served, ServeConfig::default(), offload);
    if honest {
        tokio::spawn(serve::answer_all(come, server));
        return Ok(());
    }
    let (altered, to_answer) = mpsc::channel(1);
    tokio::spawn(serve::answer_all(to_answer, server));
    tokio::spawn(alter_all(come, altered));
    Ok(())
}

/// Puts a liar between the server and everyone who comes.
async fn alter_all(mut come: mpsc::Receiver<Link>, to: mpsc::Sender<Link>) {
    while let Some(link) = come.recv().await {
        let (through, answers) = between(link);
        tokio::spawn(answers);
        if to.send(through).await.is_err() {
            return;
        }
    }
}

/// A link whose outgoing blocks are altered on their way into `link`.
fn between(link: Link) -> (Link, impl Future<Output = ()>) {
    // Only what the server sends passes here; requests go their way unchanged.
    let (outbox, mut from_server) = mpsc::channel::<Bytes>(4);
    let to_peer = link.outbox.clone();
    let through = Link { outbox, ..link };
    let answers = async move {
        while let Some(message) = from_server.recv().await {
            if to_peer.send(altered(message)).await.is_err() {
                return;
            }
        }
    };
    (through, answers)
}

/// A block with another last byte in one of its transactions; anything else as it is.
fn altered(message: Bytes) -> Bytes {
    let Ok(Message::Block(response)) = Message::decode(&message) else {
        return message;
    };
    let some = decode::block_from_bytes(&response.block)
        .ok()
        .and_then(|block| block.txs.iter().find(|tx| !tx.is_empty()));
    let place = some.and_then(|tx| {
        // A transaction's bytes stand in the block as they are, so searching finds where.
        let at = response
            .block
            .windows(tx.len())
            .position(|window| window == tx);
        at.map(|at| at + tx.len() - 1)
    });
    let Some(place) = place else { return message };
    let mut block = response.block.to_vec();
    // The block still decodes: only its hashes tell.
    block[place] ^= 1;
    BlockResponse {
        block: block.into(),
        ..response
    }
    .encode()
}
