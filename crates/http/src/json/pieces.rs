//! JSON on its way out, piece by piece: a block's transactions are encoded when their turn comes.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blocksync::chain::Txs;
use bytes::Bytes;

/// Bytes of a piece, as long as no single item needs more.
pub(super) const PIECE: usize = 64 << 10;

type TxIter = <&'static Txs as IntoIterator>::IntoIter;

/// A part of a JSON text.
#[derive(Clone, Debug)]
pub(super) enum Part {
    /// Text as it goes out.
    Text(Bytes),
    /// A list that is not written yet.
    Txs(TxList),
}

/// A list of transactions as base64, of which as much is text at a time as one piece has room for.
#[derive(Clone, Debug)]
pub(super) struct TxList {
    rest: TxIter,
    /// The part of the transaction in hand that is not encoded yet.
    begun: Bytes,
    /// Byte that comes before the next transaction; `None` once the list is closed.
    before: Option<u8>,
    len: usize,
}

impl TxList {
    /// A list of one transaction or more.
    pub(super) fn new(txs: &Txs) -> Self {
        // Known before anything is encoded: HTTP's Content-Length is sent first.
        let strings = txs.iter().map(|tx| 2 + tx.len().div_ceil(3) * 4);
        TxList {
            rest: txs.iter(),
            begun: Bytes::new(),
            before: Some(b'['),
            // A bracket or a comma before each, and the bracket at the end.
            len: strings.sum::<usize>() + txs.len() + 1,
        }
    }

    /// Bytes of the text.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn piece(&mut self) -> Option<Bytes> {
        // Eight more than a piece: quotes and a comma may come on top.
        let mut out = Vec::with_capacity(PIECE + 8);
        while out.len() < PIECE {
            if !self.begun.is_empty() {
                self.encode(&mut out);
            } else if !self.begin(&mut out) {
                break;
            }
        }
        (!out.is_empty()).then(|| out.into())
    }

    /// Begins the next transaction, or ends the list; `false` when it has ended.
    fn begin(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(before) = self.before else {
            return false;
        };
        match self.rest.next() {
            Some(tx) => {
                out.extend([before, b'"']);
                // Nothing will be encoded, so nothing else would close its quotes.
                if tx.is_empty() {
                    out.push(b'"');
                }
                (self.begun, self.before) = (tx, Some(b','));
            }
            None => {
                out.push(b']');
                self.before = None;
            }
        }
        true
    }

    /// Encodes as much of the transaction as there is room for: in threes, so that what follows
    /// fits on.
    fn encode(&mut self, out: &mut Vec<u8>) {
        let room = (PIECE.saturating_sub(out.len()) / 4 * 3).max(3);
        let now = self.begun.split_to(room.min(self.begun.len()));
        out.extend_from_slice(STANDARD.encode(&now).as_bytes());
        if self.begun.is_empty() {
            out.push(b'"');
        }
    }
}

/// The pieces of a text, in order.
#[derive(Debug)]
pub(crate) struct Pieces(pub(super) VecDeque<Part>);

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        loop {
            match self.0.front_mut()? {
                // `None` is the end of this list, not of the text.
                Part::Txs(list) => {
                    if let Some(piece) = list.piece() {
                        return Some(piece);
                    }
                    self.0.pop_front();
                }
                Part::Text(text) => {
                    let text = std::mem::take(text);
                    self.0.pop_front();
                    return Some(text);
                }
            }
        }
    }
}
