//! The clients: processes of their own, each with one connection.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use blocksync::ids::{Height, PeerId};
use blocksync::varint;
use blocksync::wire::{
    Advertisement, AdvertisementRequest, Audience, ChainIdentity, Claim, Message, Signer,
};
use blocksync_testkit::recorded::clock;
use bytes::Bytes;

use super::{Crowd, RANGE, chain};

/// Requests that a greedy client has open.
const OPEN: u64 = 8;
/// The same of the greediest, which is less than a server queues for one peer: what is above that
/// is answered at once, and would be asked for again at once.
const OPEN_GREEDIEST: u64 = 256;
/// Longest message that is kept as it comes: only a block is longer, or the proof of a height.
const SMALL: usize = 1024;
/// Pushed messages of a flood leave this often.
const BEAT: Duration = Duration::from_millis(10);

/// First bytes of messages: the tags of CometBFT's oneof.
const NO_BLOCK: u8 = 0x12;
const BLOCK: u8 = 0x1a;
const STATUS_REQUEST: u8 = 0x22;

/// Answers that have come, by their kind.
#[derive(Default)]
pub(super) struct Counted {
    pub(super) blocks: u64,
    pub(super) no_blocks: u64,
    pub(super) bytes: u64,
}

/// Takes a stream of frames apart, and keeps none of the long ones.
#[derive(Default)]
struct Frames {
    /// A head that is not whole yet, or a small message that is not.
    held: Vec<u8>,
    /// Bytes that are left of a long message.
    skip: usize,
}

impl Frames {
    /// Counts what came; gives the small messages.
    fn take(&mut self, mut bytes: &[u8], counted: &mut Counted) -> Vec<Bytes> {
        counted.bytes += bytes.len() as u64;
        let mut small = Vec::new();
        while let Some((first, rest)) = bytes.split_first() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                bytes = &bytes[skipped..];
                self.skip -= skipped;
                counted.blocks += u64::from(self.skip == 0);
                continue;
            }
            self.held.push(*first);
            bytes = rest;
            let varint::Read::Value(length, head) = varint::read(&self.held) else {
                continue;
            };
            let length = usize::try_from(length).expect("a length");
            if length > SMALL {
                self.skip = length;
                self.held.clear();
            } else if self.held.len() == head + length {
                let message = self.held.split_off(head);
                self.held.clear();
                match message.first() {
                    Some(&NO_BLOCK) => counted.no_blocks += 1,
                    Some(&BLOCK) => counted.blocks += 1,
                    _ => small.push(message.into()),
                }
            }
        }
        small
    }
}

/// One client's connection.
struct Client {
    stream: TcpStream,
    frames: Frames,
    counted: Counted,
    buffer: Vec<u8>,
}

impl Client {
    fn send(&mut self, message: &[u8]) -> std::io::Result<()> {
        let mut frame = Vec::with_capacity(message.len() + 4);
        varint::put(message.len() as u64, &mut frame);
        frame.extend_from_slice(message);
        self.stream.write_all(&frame)
    }

    /// Hears what has come. `None` when the server has hung up.
    fn hear(&mut self) -> Option<Vec<Bytes>> {
        match self.stream.read(&mut self.buffer) {
            Ok(0) => None,
            Ok(n) => Some(self.frames.take(&self.buffer[..n], &mut self.counted)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Some(Vec::new()),
            Err(error) if error.kind() == ErrorKind::TimedOut => Some(Vec::new()),
            Err(_) => None,
        }
    }

    fn answers(&self) -> u64 {
        self.counted.blocks + self.counted.no_blocks
    }
}

/// Kinds of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Asks for nothing, and reads all that comes.
    Sink,
    /// Has a few ranges open at all times.
    Greedy,
    /// Has many times as many open as the greedy ones.
    Greediest,
    /// Asks for the same blocks again and again.
    Repeats,
    /// Asks, and reads nothing.
    Deaf,
    /// Pushes this many signed statuses a second, and proves a height when it is asked to.
    Floods(u64),
}

impl Kind {
    pub(super) fn name(self) -> String {
        match self {
            Kind::Floods(rate) => format!("floods:{rate}"),
            other => format!("{other:?}").to_lowercase(),
        }
    }

    fn parse(name: &str) -> Self {
        match name.split_once(':') {
            Some((_, rate)) => Kind::Floods(rate.parse().expect("a rate")),
            None => [
                Kind::Sink,
                Kind::Greedy,
                Kind::Greediest,
                Kind::Repeats,
                Kind::Deaf,
            ]
            .into_iter()
            .find(|kind| kind.name() == name)
            .expect("a kind"),
        }
    }
}

/// Runs one client to its end: `KIND NUMBER ADDRESS SECONDS TOP PROOF`.
pub(super) fn run(args: &[String]) {
    let [kind, number, address, seconds, top, proof] = args else {
        panic!("six arguments");
    };
    let [n, seconds, top] =
        [number, seconds, top].map(|text| text.parse::<u64>().expect("a number"));
    let stream = TcpStream::connect(address).expect("a server");
    stream
        .set_read_timeout(Some(Duration::from_millis(5)))
        .expect("a timeout");
    let mut client = Client {
        stream,
        frames: Frames::default(),
        counted: Counted::default(),
        buffer: vec![0; 256 << 10],
    };
    Crowd::ready_and_wait();
    let until = Instant::now() + Duration::from_secs(seconds);
    match Kind::parse(kind) {
        Kind::Sink => while Instant::now() < until && client.hear().is_some() {},
        Kind::Greedy => asks(&mut client, until, OPEN, heights(n, top)),
        Kind::Greediest => asks(&mut client, until, OPEN_GREEDIEST, heights(n, top)),
        Kind::Repeats => asks(&mut client, until, OPEN, std::iter::repeat(1)),
        Kind::Deaf => {
            for height in heights(n, top).take(64) {
                let _ = client.send(&range(height));
            }
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
        }
        Kind::Floods(rate) => flood(&mut client, until, (n, rate), Path::new(proof)),
    }
    let Counted {
        blocks,
        no_blocks,
        bytes,
    } = client.counted;
    println!("{blocks} {no_blocks} {bytes}");
}

/// First heights of the ranges of a client that goes through the chain up to `top` as a node does
/// that syncs: from a place of its own, and from the beginning again at the end.
pub(super) fn heights(n: u64, top: u64) -> impl Iterator<Item = u64> {
    let ranges = top / RANGE;
    let first = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    (first..).map(move |k| 1 + k % ranges * RANGE)
}

fn range(height: u64) -> Bytes {
    let (height, count) = (Height::new(height), RANGE as u32);
    Message::BlockRequest { height, count }.encode()
}

/// Asks for ranges, this many open at all times.
fn asks(client: &mut Client, until: Instant, open: u64, mut heights: impl Iterator<Item = u64>) {
    let mut asked = 0;
    while Instant::now() < until {
        while asked < client.answers() / RANGE + open {
            let height = heights.next().expect("without an end");
            if client.send(&range(height)).is_err() {
                return;
            }
            asked += 1;
        }
        if client.hear().is_none() {
            return;
        }
    }
}

/// Pushes signed statuses, and answers what it is asked.
fn flood(client: &mut Client, until: Instant, (n, rate): (u64, u64), proof: &Path) {
    let proven = std::fs::read(proof).expect("a proof");
    let proven = Advertisement::read(&proven).expect("whole").expect("there");
    let chain = ChainIdentity::of(&chain(1).genesis);
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&n.to_le_bytes());
    let (signer, mut sequence) = (Signer::from_seed(seed), 0);
    let (base, height) = (Height::new(1), proven.claim.height);
    let status = Message::Status {
        height,
        base,
        max_range: 1,
    };
    let mut sign = |nonce, proof| {
        sequence += 1;
        let claim = Claim {
            base,
            height,
            sequence,
            time: clock().seconds,
            nonce,
        };
        let audience = Audience {
            chain: &chain,
            receiver: PeerId([0; 20]),
        };
        signer.sign(claim, proof, audience).beside(&status)
    };
    let (begun, mut sent, mut signed) = (Instant::now(), 0, 0);
    let mut pushed = sign(None, None);
    while Instant::now() < until {
        let seconds = begun.elapsed().as_secs_f64();
        // Those of half a second are the same: signing each would cost the flood more than us. The
        // sequence that we have seen last must rise, and one a second is looked at.
        if (seconds * 2.0) as u64 > signed {
            signed = (seconds * 2.0) as u64;
            pushed = sign(None, None);
        }
        while (sent as f64) < seconds * rate as f64 {
            if client.send(&pushed).is_err() {
                return;
            }
            sent += 1;
        }
        let Some(messages) = client.hear() else {
            return;
        };
        for message in messages
            .iter()
            .filter(|m| m.first() == Some(&STATUS_REQUEST))
        {
            if let Ok(Some(asked)) = AdvertisementRequest::read(message) {
                let proof = asked.prove_above.and(proven.proof.clone());
                if client.send(&sign(Some(asked.nonce), proof)).is_err() {
                    return;
                }
                pushed = sign(None, None);
            }
        }
        std::thread::sleep(BEAT);
    }
}
