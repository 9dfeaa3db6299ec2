//! The embedder's transport: a file of blocks that answers like a peer.

use std::path::Path;

use blocksync::ids::{Height, PeerId};
use blocksync::link::{Inbound, Link};
use blocksync::wire::Message;
use bytes::Bytes;

/// Recorded blocks, each an encoded `BlockResponse`.
pub struct Chain {
    initial: Height,
    blocks: Vec<Vec<u8>>,
}

impl Chain {
    /// Reads a file of length-prefixed `BlockResponse` messages.
    pub fn read(file: &Path, initial: Height) -> std::io::Result<Self> {
        let bytes = std::fs::read(file)?;
        let (mut blocks, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let (length, prefix) = varint(&bytes[at..]);
            at += prefix;
            blocks.push(bytes[at..at + length].to_vec());
            at += length;
        }
        Ok(Chain { initial, blocks })
    }

    pub fn tip(&self) -> Height {
        self.initial.plus(self.blocks.len() as u64 - 1)
    }

    fn answer(&self, height: Height) -> Bytes {
        let index = (height >= self.initial).then(|| height.above(self.initial) as usize);
        let Some(body) = index.and_then(|n| self.blocks.get(n)) else {
            return Message::NoBlock { height }.encode();
        };
        // Field 3 of `Message`, length-delimited.
        let mut message = vec![3 << 3 | 2];
        let mut length = body.len();
        while length >= 0x80 {
            message.push(length as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(body);
        message.into()
    }
}

fn varint(bytes: &[u8]) -> (usize, usize) {
    let mut value = 0;
    for (n, byte) in bytes.iter().enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * n);
        if *byte < 0x80 {
            return (value, n + 1);
        }
    }
    (value, bytes.len())
}

/// A link to the service whose other end answers from the file.
pub fn serve(chain: Chain) -> Link {
    let (link, mut end) = Link::pair(PeerId([1; 20]), "file");
    tokio::spawn(async move {
        let status = Message::Status {
            height: chain.tip(),
            base: chain.initial,
            max_range: 1,
        };
        let _ = end.inbox.send(Inbound::Message(status.encode())).await;
        while let Some(request) = end.outbox.recv().await {
            let answer = match Message::decode_small(&request) {
                Ok(Message::StatusRequest) => status.encode(),
                Ok(Message::BlockRequest { height, .. }) => chain.answer(height),
                _ => continue,
            };
            if end.inbox.send(Inbound::Message(answer)).await.is_err() {
                return;
            }
        }
    });
    link
}
