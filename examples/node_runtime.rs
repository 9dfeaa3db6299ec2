//! A node runtime in small: an async node whose toy consensus takes the hand-over, falls behind,
//! goes back into block sync without a restart, and takes it again. Peers are served throughout.
//! `cargo run --example node_runtime`; a test runs the same.
//!
//! Three nodes. The *producer* has half the power, so it is handed over at once, and its consensus
//! makes the blocks of a prepared chain. The *node*, a validator with a quarter of the power, syncs
//! from it, runs consensus for a while, misses what the producer makes meanwhile, and re-enters;
//! then the same once more. The *follower* knows only the node.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use blocksync::app::{App, KvStore};
use blocksync::chain::{FinalizeBlock, Rules};
use blocksync::ids::{Address, Height, PeerId};
use blocksync::link::{Inbound, Link, LinkEnd};
use blocksync::pool::Outcome;
use blocksync::service::{AfterCaughtUp, BlockSync, Config, HandOver, Handle};
use blocksync::store::{Batch, BlockRecord, MemStore};
use blocksync_testkit::chain::TestChain;

/// Results of the run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// Heights at which the node's consensus began: first, and after each time that it had fallen
    /// behind.
    pub handed_over_at: Vec<Height>,
    /// Where the follower ended, that knows the node alone.
    pub follower_at: Height,
}

/// A node: the service, and consensus' half when it has it.
struct Node {
    service: Handle<KvStore>,
    consensus: Option<HandOver<KvStore>>,
}

impl Node {
    async fn start(chain: &TestChain, validator: Option<Address>) -> anyhow::Result<Self> {
        let mut config = Config::default();
        config.after = AfterCaughtUp::HandOver;
        config.local_validator = validator;
        let sync = BlockSync::builder(
            Arc::new(MemStore::new()),
            KvStore::new(),
            chain.genesis.clone(),
        );
        let service = sync.config(config).spawn().await?;
        Ok(Node {
            service,
            consensus: None,
        })
    }

    /// Waits until block sync has reached `height`, and takes the store's only writer.
    async fn take_over(&mut self, height: Height) -> anyhow::Result<Height> {
        let done = |o: &Outcome| matches!(o, Outcome::CaughtUp { height: at } if *at >= height);
        self.service.outcome(done).await?;
        let hand_over = self.service.hand_over().await?;
        let at = hand_over.state.last_height;
        self.consensus = Some(hand_over);
        Ok(at)
    }

    /// Toy consensus: decides the chain's next blocks up to `height`, one by one, each durable
    /// before the next.
    async fn decide(&mut self, chain: &TestChain, height: Height) -> anyhow::Result<()> {
        let own = self
            .consensus
            .as_mut()
            .context("consensus has not been handed over")?;
        while own.state.last_height < height {
            let block = chain.at(own.state.next_height());
            let fetched = &block.fetched;
            let last = own.state.last_validators.as_deref();
            let request = FinalizeBlock::from_block(
                &fetched.block,
                fetched.id,
                last,
                own.state.initial_height,
            )?;
            let response = own.app.finalize_block(request).await?;
            let state = Arc::new(own.state.advance(
                &fetched.block,
                fetched.id,
                &response,
                &Rules::COMET_038,
            )?);
            let mut commit = Vec::new();
            block.commit.encode(&mut commit);
            let record = BlockRecord {
                height: fetched.height(),
                id: fetched.id,
                raw: fetched.raw.clone(),
                ext_raw: fetched.ext_raw.clone(),
            };
            own.writer.commit(Batch {
                blocks: vec![record],
                seen_commit: Some((fetched.height(), commit.into())),
                state: Some(state.clone()),
                app: own.app.take_writes(),
                ..Batch::default()
            })?;
            own.app.commit().await?;
            own.state = state;
        }
        Ok(())
    }

    /// Gives the writer back: block sync goes on from consensus' last state, and peers hear of it.
    async fn re_enter(&mut self) -> anyhow::Result<()> {
        let own = self
            .consensus
            .take()
            .context("consensus has not been handed over")?;
        Ok(self.service.resume(own).await?)
    }
}

/// Carries messages one way; ends with either side.
async fn carry(
    mut from: LinkEnd,
    to: tokio::sync::mpsc::Sender<Inbound>,
    off: tokio_util::sync::CancellationToken,
) {
    loop {
        let message = tokio::select! {
            biased;
            () = off.cancelled() => break,
            () = from.hangup.cancelled() => break,
            message = from.outbox.recv() => message,
        };
        let Some(message) = message else { break };
        if to.send(Inbound::Message(message)).await.is_err() {
            break;
        }
    }
    from.hangup.cancel();
    off.cancel();
}

/// Connects two nodes; in production this is a socket.
async fn connect(a: &Node, b: &Node, ids: [u8; 2]) -> anyhow::Result<()> {
    let (to_b, end_a) = Link::pair(PeerId([ids[1]; 20]), "b");
    let (to_a, end_b) = Link::pair(PeerId([ids[0]; 20]), "a");
    let (inbox_a, inbox_b) = (end_a.inbox.clone(), end_b.inbox.clone());
    let (off_a, off_b) = (end_a.hangup.clone(), end_b.hangup.clone());
    tokio::spawn(carry(end_a, inbox_b, off_b));
    tokio::spawn(carry(end_b, inbox_a, off_a));
    a.service.add_peer(to_b).await?;
    b.service.add_peer(to_a).await?;
    Ok(())
}

/// The whole story.
pub(crate) async fn run() -> anyhow::Result<Report> {
    let chain = TestChain::builder(7)
        .powers(&[20, 10, 10])
        .heights(90)
        .build();
    let (first, last) = (Height::new(30), Height::new(90));
    // Half of the power: nobody makes a block without the first validator.
    let validator = |n| chain.initial.validators.get(n).map(|v| v.address);
    let mut producer = Node::start(&chain, validator(0)).await?;
    anyhow::ensure!(producer.take_over(Height::ZERO).await? == Height::ZERO);
    producer.decide(&chain, first).await?;
    producer.re_enter().await?;

    let mut node = Node::start(&chain, validator(2)).await?;
    let follower = Node::start(&chain, None).await?;
    connect(&node, &producer, [1, 2]).await?;
    connect(&follower, &node, [3, 1]).await?;
    let mut handed_over_at = vec![node.take_over(first).await?];

    // The producer goes on; the node's consensus hears nothing of it, and its own clock says that
    // nothing moves.
    let mut from = first;
    for to in [Height::new(60), last] {
        producer.take_over(from).await?;
        producer.decide(&chain, to).await?;
        producer.re_enter().await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        node.re_enter().await?;
        handed_over_at.push(node.take_over(to).await?);
        from = to;
    }
    node.re_enter().await?;

    let done = |o: &Outcome| matches!(o, Outcome::CaughtUp { height } if *height >= last);
    let follower_at = follower.service.outcome(done).await?.applied;
    for node in [producer, node, follower] {
        node.service.stop().await;
    }
    Ok(Report {
        handed_over_at,
        follower_at,
    })
}

// `tests/it/node_runtime.rs` includes this file and calls `run`: there `main` has no caller.
#[allow(dead_code, reason = "unused where a test includes this file")]
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    println!("{:?}", run().await?);
    Ok(())
}
