//! Properties of reading any bytes from a stranger. The fuzz targets in `fuzz/` check these, and so
//! do ordinary tests.

use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use tokio::io::{duplex, sink};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::config::Config;
use super::drive::{blocksync_channel, pex_channel};
use super::frame::{self, put_frame};
use super::key::NodeKey;
use super::node_info::NodeInfo;
use super::packet::{Packet, Piece, Reassembly, parse};
use super::pex::{Acquaintance, Exchange};
use super::secret::{
    Agreement, CHUNK, FRAME, Opener, Sealer, agree, ephemeral_public, handshake as secret_handshake,
};
use super::stream::{EMPTY_FRAMES, StreamReader, StreamWriter, delimited, read_length};
use super::upgrade::{Deadlines, Terms, upgrade};
use crate::ids::PeerId;
use crate::wire::codec::Frame;

/// A message's capacity on the block-sync channel here.
const CAPACITY: usize = 2000;

thread_local! {
    /// Made once a thread: it costs more than most inputs do.
    static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime of one thread needs nothing of the system");
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    RUNTIME.with(|runtime| runtime.block_on(work))
}

fn our_info(key: &NodeKey) -> NodeInfo {
    NodeInfo::new(key.id(), "chain", "us", "tcp://127.0.0.1:1", &[0x40, 0])
}

/// A whole handshake, with the bytes in one of three places: in the clear from the start, sealed in
/// place of the proof of identity, and in place of the NodeInfo of a peer that has proven its own.
/// The first byte chooses.
///
/// # Panics
/// When a stranger without a key becomes a peer, or anything panics.
pub fn handshake(data: &[u8]) {
    let Some((place, data)) = data.split_first() else {
        return;
    };
    let (key, peer) = (NodeKey::from_seed([1; 32]), NodeKey::from_seed([2; 32]));
    let ours = our_info(&key);
    let terms = Terms {
        key: &key,
        ours: &ours,
        dialled: None,
        allow_v1: place & 0x80 != 0,
        deadlines: Deadlines::default(),
    };
    block_on(async {
        if place % 3 == 0 {
            let up = upgrade(data, sink(), &terms, |_| Ok(())).await;
            assert!(
                up.is_err(),
                "bytes that were chosen before our key was known have passed"
            );
            return;
        }
        let (here, there) = duplex(1 << 20);
        let (reader, writer) = tokio::io::split(here);
        let stranger = async {
            let (reader, writer) = tokio::io::split(there);
            let (mut reader, mut writer) = (StreamReader::new(reader), StreamWriter::new(writer));
            if place % 3 == 1 {
                exchange_keys(&mut reader, &mut writer).await;
            } else {
                let _ = secret_handshake(&mut reader, &mut writer, &peer).await;
            }
            let _ = writer.put(data);
            let _ = writer.finish();
            let _ = writer.flush().await;
        };
        let (up, ()) = tokio::join!(upgrade(reader, writer, &terms, |_| Ok(())), stranger);
        if let Ok(up) = up {
            assert_eq!(
                (place % 3, up.id),
                (2, peer.id()),
                "nobody has proven an identity"
            );
            assert_eq!(ours.check(&up.info, up.id, terms.allow_v1), Ok(()));
        }
    });
}

/// The part of the handshake that needs no identity.
async fn exchange_keys<R, W>(reader: &mut StreamReader<R>, writer: &mut StreamWriter<W>)
where
    R: tokio::io::AsyncRead + Unpin,
    W: tokio::io::AsyncWrite + Unpin,
{
    let secret = [3; 32];
    let _ = writer.put(&delimited(&ephemeral_public(secret).to_vec()));
    let _ = writer.flush().await;
    let Ok(theirs) = reader.read_delimited(1024).await else {
        return;
    };
    let theirs = <Vec<u8> as prost::Message>::decode(&theirs[..]);
    let Some(theirs) = theirs.ok().and_then(|t| <[u8; 32]>::try_from(t).ok()) else {
        return;
    };
    if let Ok(Agreement { sealer, .. }) = agree(secret, theirs) {
        writer.set_sealer(sealer);
    }
}

/// A sealed stream: nothing that was not sealed opens; what was sealed opens to the same, and to
/// nothing else when a byte of it has changed. A peer that has the keys chooses each frame's length
/// and its padding: it is read up to the first length that is none.
///
/// # Panics
/// When it does not hold.
pub fn secret_frames(data: &[u8]) {
    block_on(async {
        let mut reader = StreamReader::new(data);
        let _ = reader.set_opener(Opener::new(&[3; 32]));
        while reader.fill(usize::MAX).await.is_ok() {}
        assert!(reader.window().is_empty(), "what nobody sealed was opened");

        let sealed = seal(data).await;
        assert_eq!(open(&sealed, data.len()).await, data);
        if let Some(&first) = data.first() {
            let mut bytes = sealed;
            let at = usize::from(first) * 7 % bytes.len();
            bytes[at] ^= 1 << (first & 7);
            let opened = open(&bytes, data.len()).await;
            assert!(opened.len() < data.len() && data.starts_with(&opened));
        }
        let (sealed, expected) = seal_frames_of_choice(data);
        assert_eq!(open(&sealed, expected.len()).await, expected);
    });
}

/// Of both directions, so that no key has to be agreed on.
const KEY: [u8; 32] = [1; 32];

/// Frames whose length is four of the bytes, whose data begin with the next ten and are filled up
/// with the last of these; and what may be read of them.
fn seal_frames_of_choice(data: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut sealed, mut expected, mut sound) = (Vec::new(), Vec::new(), true);
    let mut sealer = Sealer::new(&KEY);
    let mut empty = 0;
    for piece in data.chunks(14) {
        let (length, body) = piece.split_at(piece.len().min(4));
        let (mut four, start) = ([0; 4], sealed.len());
        four[..length.len()].copy_from_slice(length);
        sealed.extend_from_slice(&four);
        sealed.extend_from_slice(body);
        sealed.resize(start + FRAME, body.last().copied().unwrap_or(0));
        let length = u32::from_le_bytes(four) as usize;
        empty = if length == 0 { empty + 1 } else { 0 };
        sound = sound && length <= CHUNK && empty <= EMPTY_FRAMES;
        if sound {
            expected.extend_from_slice(&sealed[start + 4..start + 4 + length]);
        }
        sealer
            .seal_as_is(&mut sealed, start)
            .expect("few frames were sealed");
    }
    (sealed, expected)
}

/// A stream of length-prefixed frames, marked or not by the first byte: cut anywhere it gives the
/// same, nothing beyond a channel's capacity, and what it gave is a stream that gives it again.
///
/// # Panics
/// When it does not hold.
pub fn frames(data: &[u8]) {
    let Some((&how, stream)) = data.split_first() else {
        return;
    };
    let marked = how & 1 != 0;
    let whole = read_frames(stream, marked, stream.len().max(1));
    assert_eq!(
        whole,
        read_frames(stream, marked, 1 + usize::from(how >> 1))
    );
    let again = block_on(async {
        let mut bytes = Vec::new();
        let mut writer = StreamWriter::new(&mut bytes);
        for frame in &whole {
            let Frame::Message(channel, message) = frame else {
                writer.put(&[0]).expect("it is not sealed");
                continue;
            };
            let piece = Piece {
                channel: *channel,
                data: message.clone(),
                first: true,
                last: true,
                total: message.len(),
            };
            put_frame(piece, marked, &mut writer).expect("it is not sealed");
        }
        writer.flush().await.expect("a vector takes everything");
        bytes
    });
    assert_eq!(read_frames(&again, marked, again.len().max(1)), whole);
}

fn read_frames(stream: &[u8], marked: bool, step: usize) -> Vec<Frame> {
    let mut reader = frame::reader(&[blocksync_channel(CAPACITY), pex_channel()], marked);
    let (mut out, mut from, mut to) = (Vec::new(), 0, 0);
    while to < stream.len() {
        to = stream.len().min(to + step);
        loop {
            let Ok((taken, frame)) = reader.take(&stream[from..to]) else {
                return out;
            };
            assert!(taken <= to - from && reader.partial(0x40) <= CAPACITY);
            from += taken;
            out.extend(frame);
            if taken == 0 {
                break;
            }
        }
    }
    out
}

async fn seal(data: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::new();
    let mut writer = StreamWriter::new(&mut sealed);
    writer.set_sealer(Sealer::new(&KEY));
    for piece in data.chunks(700) {
        writer.put(piece).expect("few frames were sealed");
    }
    writer.flush().await.expect("a vector takes everything");
    sealed
}

async fn open(sealed: &[u8], expected: usize) -> Vec<u8> {
    let mut reader = StreamReader::new(sealed);
    let _ = reader.set_opener(Opener::new(&KEY));
    let mut opened = Vec::with_capacity(expected);
    loop {
        let more = reader.fill(301).await.is_ok();
        opened.extend_from_slice(reader.window());
        reader.consume(reader.window().len());
        if !more {
            return opened;
        }
    }
}

/// A stream of packets, put together: progress with each, nothing beyond a channel's capacity, the
/// same however it is cut.
///
/// # Panics
/// When it does not hold.
pub fn packets(data: &[u8]) {
    let mut reassembly = Reassembly::new(&[blocksync_channel(CAPACITY), pex_channel()]);
    let mut rest = data;
    while let Ok(Some((n, packet))) = parse(rest) {
        assert!(n > 0 && n <= rest.len());
        for cut in [0, n / 2, n - 1] {
            assert_eq!(
                parse(&rest[..cut]),
                Ok(None),
                "a part of a packet was taken for one"
            );
        }
        rest = &rest[n..];
        let Packet::Piece {
            channel,
            last,
            data,
        } = packet
        else {
            continue;
        };
        assert!(data.len() < n);
        match reassembly.add(channel, last, &data) {
            Ok(Some((_, message))) => assert!(last && message.len() >= data.len()),
            Ok(None) => {}
            Err(_) => break,
        }
        assert!(reassembly.partial(0x40) <= CAPACITY);
    }
}

/// A NodeInfo: what is accepted is accepted again when it is encoded again, and says who it is.
///
/// # Panics
/// When it does not hold.
pub fn node_info(data: &[u8]) {
    let _ = read_length(data, 1000);
    let Ok(info) = NodeInfo::decode(data) else {
        return;
    };
    let key = NodeKey::from_seed([1; 32]);
    let accepted = our_info(&key).check(&info, PeerId([9; 20]), true);
    assert_ne!(
        our_info(&key).check(&info, key.id(), true),
        Ok(()),
        "we are not our own peer"
    );
    let again = NodeInfo::decode(&info.encode());
    assert_eq!(again.as_ref().map(NodeInfo::validate), Ok(info.validate()));
    if accepted.is_ok() {
        assert_eq!(info.validate(), Ok(()));
        assert!(info.channels().len() <= 16);
        assert!(info.net_address().is_ok());
    }
}

/// A peer's part in peer exchange, message by message (each behind a length of two bytes): the book
/// stays bounded and takes no address that is not routed.
///
/// # Panics
/// When it does not hold.
pub fn peer_exchange(data: &[u8]) {
    let mut config = Config::new(NodeKey::from_seed([1; 32]), "chain");
    config.pex = true;
    let exchange = Exchange::new(&config);
    block_on(async {
        let (inbox, from) = mpsc::channel(1 << 10);
        let (to, _outbox) = mpsc::channel(4);
        let mut rest = data;
        while let Some((&[high, low], after)) = rest.split_first_chunk() {
            let n = usize::from(u16::from_be_bytes([high, low])).min(after.len());
            let (message, after) = after.split_at(n);
            if inbox.try_send(Bytes::copy_from_slice(message)).is_err() {
                break;
            }
            rest = after;
        }
        drop(inbox);
        let who = Acquaintance {
            id: PeerId([7; 20]),
            ip: IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8)),
            listens: Some(26656),
            dialled: true,
        };
        let _ = exchange.speak(who, from, to).await;
    });
    let book = exchange.book();
    assert!(
        book.len() <= 1 + 250 * 3,
        "{} addresses of one peer",
        book.len()
    );
    for address in book.selection(250) {
        assert!(super::place::is_routable(address.ip), "{address:?}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Bytes that often look like encoded messages.
    fn wire() -> impl Strategy<Value = Vec<u8>> {
        let common = prop::sample::select(vec![0u8, 2, 8, 10, 16, 18, 26, 34, 64, 128, 255]);
        vec(prop_oneof![2 => common, 1 => any::<u8>()], 0..3000)
    }

    /// A NodeInfo that would pass, with some bytes changed.
    fn nearly_an_info() -> impl Strategy<Value = Vec<u8>> {
        let good = our_info(&NodeKey::from_seed([2; 32])).encode();
        let changes = vec((0..good.len(), any::<u8>()), 0..3);
        changes.prop_map(move |changes| {
            let mut bytes = good.clone();
            for (at, to) in changes {
                bytes[at] = to;
            }
            bytes
        })
    }

    /// For `handshake`, in the place of a NodeInfo.
    fn behind_an_identity(info: &[u8]) -> Vec<u8> {
        let mut data = vec![2];
        crate::varint::put(info.len() as u64, &mut data);
        data.extend(info);
        data
    }

    #[test]
    fn the_body_of_the_handshake_reaches_its_end() {
        let info = our_info(&NodeKey::from_seed([2; 32])).encode();
        handshake(&behind_an_identity(&info)); // its assertions are made only of a peer that has passed
        let key = NodeKey::from_seed([1; 32]);
        let parsed = NodeInfo::decode(&info).unwrap();
        let id = NodeKey::from_seed([2; 32]).id();
        assert_eq!(our_info(&key).check(&parsed, id, false), Ok(()));
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in wire(), length in any::<u16>()) {
            handshake(&bytes);
            secret_frames(&bytes);
            packets(&bytes);
            frames(&bytes);
            node_info(&bytes);
            peer_exchange(&bytes);
            let mut one = length.to_be_bytes().to_vec();
            one.extend(&bytes);
            peer_exchange(&one);
        }

        #[test]
        fn nearly_right(info in nearly_an_info()) {
            node_info(&info);
            handshake(&behind_an_identity(&info));
        }
    }
}
