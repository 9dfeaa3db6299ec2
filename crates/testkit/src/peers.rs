//! Scripted peers over in-memory links, honest or not.

use std::sync::Arc;
use std::time::Duration;

use blocksync::ids::Height;
use blocksync::link::{Inbound, Link, LinkEnd};
use blocksync::wire::message::Kind;
use blocksync::wire::{self, Message};
use bytes::Bytes;

use crate::recorded::{Recorded, id, wrap};

/// How a scripted peer behaves.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Serves everything it has.
    Honest,
    /// Serves everything, with the commit for the last block beside it.
    ProvesTip,
    /// Serves this many blocks, half of the next one's bytes, and is gone.
    DiesAfter(usize),
    /// Says what it has and never answers.
    Silent,
    /// Never says anything.
    Mute,
    /// Alters a byte of a transaction in the block of this height.
    LiesInTransaction(u64),
    /// Alters a signature of the last commit carried by the block of this height.
    LiesInSignature(u64),
    /// Answers this height and those above with a block from far above.
    LiesInHeight(u64),
    /// Makes the last commit of the block of this height name another round.
    LiesInCommit(u64),
    /// Claims this height and serves what it has.
    Claims(u64),
    /// Claims this height and never answers.
    ClaimsOnly(u64),
    /// Answers "no block" to everything.
    NoBlocks,
    /// Answers each request only after this time.
    Slow(Duration),
    /// Sends bytes that are no message.
    Garbage,
    /// Sends a block that nobody asked for.
    Unasked,
    /// Leaves out every extended commit.
    NoExtensions,
    /// Alters every extended commit.
    BadExtensions,
}

/// Links a scripted peer to a service. The delay is that of one way over the link.
pub fn scripted(chain: &Arc<Recorded>, n: u8, behaviour: Behaviour, delay: Duration) -> Link {
    let (link, end) = Link::pair(id(n), format!("{behaviour:?}"));
    tokio::spawn(serve(chain.clone(), end, behaviour, delay));
    link
}

async fn serve(chain: Arc<Recorded>, mut end: LinkEnd, behaviour: Behaviour, delay: Duration) {
    if matches!(behaviour, Behaviour::Mute) {
        end.hangup.cancelled().await;
        return;
    }
    let claim = match behaviour {
        Behaviour::Claims(h) | Behaviour::ClaimsOnly(h) => Height::new(h),
        _ => chain.tip(),
    };
    let status = Message::Status {
        height: claim,
        base: chain.initial,
        // Like a CometBFT node, which answers one height a request.
        max_range: 1,
    }
    .encode();
    if send(&end, status.clone()).await.is_err() {
        return;
    }
    if matches!(behaviour, Behaviour::Garbage) {
        let _ = send(&end, Bytes::from_static(b"\xff\xff\xff\xff garbage")).await;
    }
    if matches!(behaviour, Behaviour::Unasked) {
        let _ = send(&end, chain.message(chain.initial.plus(100), false).unwrap()).await;
    }
    let mut served = 0;
    loop {
        let request = tokio::select! {
            biased;
            () = end.hangup.cancelled() => return,
            request = end.outbox.recv() => request,
        };
        let Some(request) = request else { return };
        // `decode_small` is not for blocks, and a scripted peer has asked for none.
        if wire::guard::peek(&request).map(|p| p.kind).ok() == Some(Kind::Block) {
            continue;
        }
        match Message::decode_small(&request) {
            Ok(Message::StatusRequest) if send(&end, status.clone()).await.is_err() => return,
            Ok(Message::BlockRequest { height, .. }) => {
                tokio::time::sleep(delay).await;
                if let Behaviour::Slow(by) = behaviour {
                    tokio::time::sleep(by).await;
                }
                if let Behaviour::DiesAfter(n) = behaviour
                    && served == n
                {
                    // A transport's report of a message that will never be whole.
                    let _ = end.inbox.send(Inbound::Progress(512)).await;
                    let _ = end
                        .inbox
                        .send(Inbound::Closed("connection reset".into()))
                        .await;
                    return;
                }
                let Some(answer) = answer(&chain, &behaviour, height) else {
                    continue;
                };
                served += 1;
                if send(&end, answer).await.is_err() {
                    return;
                }
            }
            _ => {}
        }
    }
}

fn answer(chain: &Recorded, behaviour: &Behaviour, height: Height) -> Option<Bytes> {
    let honest = chain.message(height, matches!(behaviour, Behaviour::ProvesTip));
    let body = || chain.response(height).map(|b| b.to_vec());
    let lie = |h: u64| height == Height::new(h);
    match behaviour {
        Behaviour::Silent | Behaviour::Mute | Behaviour::ClaimsOnly(_) => None,
        Behaviour::NoBlocks => Some(Message::NoBlock { height }.encode()),
        Behaviour::LiesInTransaction(h) if lie(*h) => body().map(|b| wrap(&alter::transaction(&b))),
        Behaviour::LiesInSignature(h) if lie(*h) => body().map(|b| wrap(&alter::signature(&b))),
        Behaviour::LiesInCommit(h) if lie(*h) => body().map(|b| wrap(&alter::round(&b))),
        Behaviour::LiesInHeight(h) if height.get() >= *h => chain.message(height.plus(150), false),
        Behaviour::NoExtensions => body().map(|b| wrap(&alter::without_extensions(&b))),
        Behaviour::BadExtensions => body().map(|b| wrap(&alter::extension(&b))),
        _ => honest.or_else(|| Some(Message::NoBlock { height }.encode())),
    }
}

/// Changes to an encoded `BlockResponse` that keep it a well-formed message.
pub mod alter {
    use blocksync::wire::proto::blocksync::BlockResponse;
    use bytes::Bytes;
    use prost::Message;

    fn change(body: &[u8], with: impl FnOnce(&mut BlockResponse)) -> Vec<u8> {
        let mut response = BlockResponse::decode(body).unwrap();
        with(&mut response);
        response.encode_to_vec()
    }

    fn flip(bytes: &Bytes) -> Bytes {
        let mut bytes = bytes.to_vec();
        // A byte in place, so that no length and no encoding around it changes.
        if let Some(last) = bytes.last_mut() {
            *last ^= 1;
        }
        bytes.into()
    }

    /// Alters a byte of the first transaction, or adds one.
    pub fn transaction(body: &[u8]) -> Vec<u8> {
        change(body, |r| {
            let block = r.block.as_mut().unwrap();
            let data = block.data.as_mut().unwrap();
            match data.txs.first_mut() {
                Some(tx) => *tx = flip(tx),
                None => data.txs.push(Bytes::from_static(b"forged=1")),
            }
        })
    }

    /// Alters a signature of the last commit. The header's hash of that commit stays as it was.
    pub fn signature(body: &[u8]) -> Vec<u8> {
        change(body, |r| {
            let commit = r.block.as_mut().unwrap().last_commit.as_mut().unwrap();
            let sig = commit
                .signatures
                .iter_mut()
                .find(|s| !s.signature.is_empty())
                .unwrap();
            sig.signature = flip(&sig.signature);
        })
    }

    /// Makes the last commit name another round.
    pub fn round(body: &[u8]) -> Vec<u8> {
        change(body, |r| {
            r.block
                .as_mut()
                .unwrap()
                .last_commit
                .as_mut()
                .unwrap()
                .round += 1;
        })
    }

    /// Leaves out the extended commit.
    pub fn without_extensions(body: &[u8]) -> Vec<u8> {
        change(body, |r| r.ext_commit = None)
    }

    /// Alters every extension signature.
    pub fn extension(body: &[u8]) -> Vec<u8> {
        change(body, |r| {
            if let Some(ext) = r.ext_commit.as_mut() {
                for sig in &mut ext.extended_signatures {
                    if !sig.extension_signature.is_empty() {
                        sig.extension_signature = flip(&sig.extension_signature);
                    }
                }
            }
        })
    }
}

async fn send(end: &LinkEnd, message: Bytes) -> Result<(), ()> {
    tokio::select! {
        biased;
        () = end.hangup.cancelled() => Err(()),
        sent = end.inbox.send(Inbound::Message(message)) => sent.map_err(|_| ()),
    }
}
