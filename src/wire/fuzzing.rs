//! Properties of decoding any bytes. The fuzz targets in `fuzz/` check these, and so do ordinary
//! tests.

use bytes::{Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use super::codec::{Codec, CodecError, Frame};
use super::message::Kind;
use super::{
    Advertisement, AdvertisementRequest, Cancel, ChainIdentity, Limits, Message, canonical, decode,
    guard,
};
use crate::ids::BlockId;

/// A whole `Message`: guard and decoder agree, and what decodes encodes to what decodes to the
/// same.
///
/// # Panics
/// When it does not hold.
pub fn message(data: &[u8]) {
    let (bytes, limits) = (Bytes::copy_from_slice(data), Limits::default());
    let peeked = guard::peek(data);
    if let Ok(admitted) = guard::admit(data, &limits) {
        assert_eq!(Ok(admitted), peeked);
    }
    if let Ok(message) = Message::decode(&bytes) {
        assert_eq!(Message::decode(&message.encode()), Ok(message.clone()));
        if let Message::Block(response) = &message {
            assert_eq!(response.encoded_len(), message.encode().len());
        } else {
            assert_eq!(Message::decode_small(data), Ok(message.clone()));
        }
        if let Ok(peeked) = &peeked {
            assert_eq!(peeked.kind, message.kind());
        }
    }
    our_fields(data);
    if let Ok(fetched) = decode::fetched(&bytes, &limits) {
        if let Ok(peeked) = peeked {
            assert_eq!(peeked.kind, Kind::Block);
            assert_eq!(peeked.height, Some(fetched.height()));
        }
        assert_eq!(decode::block_from_bytes(&fetched.raw), Ok(fetched.block));
        canonical(&fetched.raw);
    }
}

/// Fields of ours beside a status or a request for one: what is read is written as it was read.
fn our_fields(data: &[u8]) {
    if let Ok(Some(request)) = AdvertisementRequest::read(data) {
        let again = AdvertisementRequest::read(&request.encode());
        assert_eq!(again, Ok(Some(request)));
    }
    if let Ok(Some(signed)) = Advertisement::read(data)
        && let Ok(status) = Message::decode_small(data)
    {
        let again = Advertisement::read(&signed.beside(&status));
        assert_eq!(again, Ok(Some(signed)));
    }
    if let Ok(Some(cancel)) = Cancel::read(data) {
        assert_eq!(Cancel::read(&cancel.encode()), Ok(Some(cancel)));
    }
    if let Ok(Some(chain)) = ChainIdentity::read(data)
        && let Ok(message) = Message::decode_small(data)
    {
        let again = ChainIdentity::read(&chain.beside(&message));
        assert_eq!(again, Ok(Some(chain)));
    }
}

/// An encoded block or commit: it is canonical exactly when its encoding is what came.
///
/// # Panics
/// When it does not hold.
pub fn canonical(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let mut out = Vec::new();
    if let Ok(block) = decode::block_from_bytes(&bytes) {
        block.encode(&mut out);
        assert_eq!(canonical::block(data), out == data, "as a block");
        let stored = decode::stored_block(bytes.clone(), None, BlockId::ZERO);
        assert!(stored.is_ok_and(|stored| stored.canonical == (out == data)));
        assert_eq!(decode::block_from_bytes(&out.clone().into()), Ok(block));
        assert!(canonical::block(&out));
    }
    if let Ok(commit) = decode::commit_from_bytes(data) {
        out.clear();
        commit.encode(&mut out);
        assert_eq!(canonical::commit(data), out == data, "as a commit");
        assert_eq!(decode::commit_from_bytes(&out), Ok(commit));
    }
    if let Ok(commit) = decode::extended_commit_from_bytes(&bytes) {
        out.clear();
        commit.encode(&mut out);
        let found = canonical::extended_commit(data);
        assert_eq!(found, out == data, "as an extended commit");
    }
}

/// A stream of frames: cut anywhere, it gives the same messages, and the messages give the stream
/// again. The first byte says how it is cut.
///
/// # Panics
/// When it does not hold.
pub fn frame(data: &[u8]) {
    let Some((&step, stream)) = data.split_first() else {
        return;
    };
    let whole = read(stream, stream.len().max(1));
    let pieces = read(stream, usize::from(step) + 1);
    assert_eq!(whole, pieces);
    let (messages, _) = whole;
    let mut out = BytesMut::new();
    for message in &messages {
        let mut codec = Codec::new(Limits::default());
        codec
            .encode((0, message.clone()), &mut out)
            .expect("encoding does not fail");
    }
    assert_eq!(read(&out, 7).0, messages);
}

/// The messages of a stream that comes in pieces, and whether it ended in order.
fn read(stream: &[u8], piece: usize) -> (Vec<Bytes>, bool) {
    let limits = Limits {
        block_message: 1 << 16,
        ..Limits::default()
    };
    let (mut codec, mut buffer) = (Codec::new(limits), BytesMut::new());
    let mut messages = Vec::new();
    let mut take = |frame: Result<Option<Frame>, CodecError>| match frame {
        Ok(Some(Frame::Message(_, message))) => {
            messages.push(message);
            Some(true)
        }
        Ok(Some(Frame::Alive)) => Some(true),
        Ok(None) => Some(false),
        Err(_) => None,
    };
    for piece in stream.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            match take(codec.decode(&mut buffer)) {
                Some(true) => {}
                Some(false) => break,
                None => return (messages, false),
            }
        }
    }
    let end = take(codec.decode_eof(&mut buffer));
    (messages, end == Some(false))
}
