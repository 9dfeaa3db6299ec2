//! The length-prefixed codec and the guard.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use tokio_util::codec::{Decoder, Encoder};

use super::super::codec::{Codec, CodecError, Frame, FrameError, LengthError, head};
use super::super::error::Problem;
use super::super::message::BlockResponse;
use super::super::{Limits, decode, fuzzing, guard};
use super::chains::messages;
use super::fetch;
use crate::fault::Fault;
use crate::varint;

fn field(number: u8, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::from(&[number << 3 | 2][..]);
    varint::put(body.len() as u64, &mut out);
    out.extend_from_slice(body);
    out.to_vec()
}

fn limit_of(error: &CodecError) -> Option<usize> {
    match error {
        CodecError::Frame(FrameError::Length(LengthError::TooLong { limit, .. })) => Some(*limit),
        _ => None,
    }
}

fn prefix(length: usize) -> Bytes {
    head(length, None)
}

#[test]
fn a_long_message_is_buffered_only_as_it_comes() {
    let body = [&[0x1a][..], &vec![7; 1_000_000]].concat();
    let mut codec = Codec::new(Limits::default());
    let mut stream = BytesMut::new();
    stream.extend_from_slice(&prefix(body.len()));
    let mut come = 0;
    for piece in body.chunks(1000) {
        stream.extend_from_slice(piece);
        come += piece.len();
        match codec.decode(&mut stream).unwrap() {
            Some(Frame::Message(_, message)) => {
                assert_eq!(come, body.len());
                assert_eq!(message, body);
                assert_eq!(codec.held(), 0);
            }
            Some(Frame::Alive) => panic!("no frame is empty"),
            None => assert_eq!((codec.held(), codec.partial(0)), (come, come)),
        }
        assert!(stream.is_empty());
        let bound = (2 * come).max(64 << 10);
        assert!(codec.reserved() <= bound, "{} for {come}", codec.reserved());
    }
    assert_eq!(come, body.len());
}

#[test]
fn only_a_block_may_be_long() {
    let limits = Limits {
        block_message: 100_000,
        ..Limits::default()
    };
    let read = |length: usize, first: u8| {
        let mut stream = BytesMut::from(&[&prefix(length)[..], &[first]].concat()[..]);
        Codec::new(limits).decode(&mut stream)
    };
    assert!(read(100_000, 0x1a).unwrap().is_none());
    assert_eq!(limit_of(&read(100_001, 0x1a).unwrap_err()), Some(100_000));
    let most = limits.status_message;
    assert!(read(most, 0x2a).unwrap().is_none());
    assert_eq!(limit_of(&read(most + 1, 0x2a).unwrap_err()), Some(most));
    // Nothing is judged by a first byte that has not come.
    let mut stream = BytesMut::from(&prefix(90_000)[..]);
    assert!(Codec::new(limits).decode(&mut stream).unwrap().is_none());
}

#[test]
fn impossible_lengths_are_refused() {
    for bytes in [&[0xff; 10][..], &[0xff, 0xff, 0xff, 0xff, 0x7f, 0x1a]] {
        let error = Codec::new(Limits::default())
            .decode(&mut BytesMut::from(bytes))
            .unwrap_err();
        assert!(matches!(error, CodecError::Frame(_)), "{error}");
    }
}

#[test]
fn a_stream_that_ends_within_a_message_is_an_error() {
    for end in [&[0x80][..], &[0x03, 0x0a], &[0x03]] {
        let mut codec = Codec::new(Limits::default());
        let error = codec.decode_eof(&mut BytesMut::from(end)).unwrap_err();
        assert!(matches!(error, CodecError::Io(_)), "{error}");
    }
    let mut empty = BytesMut::new();
    let end = Codec::new(Limits::default()).decode_eof(&mut empty);
    assert!(end.unwrap().is_none());
}

proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(300))]

    #[test]
    fn frames_survive_any_cut(
        sizes in proptest::collection::vec(prop_oneof![0..40usize, 1000..1100usize, 60_000..65_000usize], 1..6),
        step in any::<u8>(),
    ) {
        let mut stream = BytesMut::from(&[step][..]);
        let mut codec = Codec::new(Limits::default());
        for size in sizes {
            let mut message = vec![0x1a; size.max(1)];
            message.iter_mut().skip(1).enumerate().for_each(|(i, b)| *b = i as u8);
            codec.encode((0, message.into()), &mut stream).unwrap();
        }
        fuzzing::frame(&stream);
    }
}

/// A block message with a number of signatures of two bytes in each of its last commits, and in its
/// extended commit.
fn signatures(last: usize, commits: usize, extended: usize) -> Bytes {
    let header = field(1, &[0x18, 0x07]);
    let commit = field(4, &[0x22, 0x00].repeat(last));
    let response = BlockResponse {
        block: [header, commit.repeat(commits)].concat().into(),
        ext_commit: Some([0x22, 0x00].repeat(extended).into()),
        seen_commit: None,
    };
    response.encode()
}

#[test]
fn signatures_are_counted_before_anything_is_decoded() {
    let limits = Limits::default();
    let found = guard::admit(&signatures(10_000, 1, 10_000), &limits).unwrap();
    assert_eq!(found.height.unwrap().get(), 7);
    for (last, commits, extended) in [
        (10_001, 1, 0),
        (1_000_000, 1, 0),
        (5_001, 2, 0),
        (0, 1, 10_001),
        (200, 60, 0),
    ] {
        let message = signatures(last, commits, extended);
        let error = guard::admit(&message, &limits).unwrap_err();
        assert!(
            matches!(error.problem, Problem::Limit { limit: 10_000, .. }),
            "{error}"
        );
        assert!(decode::fetched(&message, &limits).is_err());
        guard::peek(&message).unwrap();
    }
}

#[test]
fn envelopes_that_say_two_things_are_refused() {
    let block = field(1, &[0x0a, 0x00]);
    for message in [
        [field(1, &[]), field(4, &[])].concat(),
        [field(4, &[]), field(4, &[])].concat(),
        field(3, &block.repeat(2)),
        [&[0x78, 0x00].repeat(65)[..], &field(4, &[])].concat(),
        vec![0x78, 0x00],
        vec![],
    ] {
        assert!(
            guard::admit(&message, &Limits::default()).is_err(),
            "{message:?}"
        );
        assert!(guard::peek(&message).is_err(), "{message:?}");
    }
    // Fields that a later version may add are passed over.
    let message = [field(4, &[0x08, 0x05]), vec![0x78, 0x01]].concat();
    assert!(guard::admit(&message, &Limits::default()).is_ok());
}

#[test]
fn what_is_kept_of_a_message_keeps_little_else() {
    let raw = decode::fetched_response(&messages("full-038")[80], &Limits::default())
        .unwrap()
        .raw;
    let padded = |pad: usize| {
        let response = BlockResponse {
            block: raw.clone(),
            ..BlockResponse::default()
        };
        let unknown = [vec![0x72], prefix(pad).to_vec(), vec![0; pad]].concat();
        let body = [&response.encode()[3..], &unknown[..]].concat();
        Bytes::from(field(3, &body))
    };
    let inside = |message: &Bytes| {
        let fetched = decode::fetched(message, &Limits::default()).unwrap();
        let within = message.as_ptr_range().contains(&fetched.raw.as_ptr());
        let tx = fetched.block.txs.iter().find(|tx| !tx.is_empty()).unwrap();
        assert!(fetched.raw.as_ptr_range().contains(&tx.as_ptr()), "no copy");
        within
    };
    assert!(inside(&padded(10)));
    assert!(!inside(&padded(raw.len())));
}

#[test]
fn refusals_name_the_block_and_what_was_found() {
    let raw = decode::fetched_response(&messages("four")[20], &Limits::default())
        .unwrap()
        .raw;
    let mut block = decode::block_from_bytes(&raw).unwrap();
    block.last_commit.height = block.header.height;
    let error = fetch(&super::encoded(&block)).unwrap_err();
    assert_eq!(error.height, Some(block.header.height));
    assert!(error.to_string().starts_with("block 21: "), "{error}");
    assert!(matches!(Fault::from(error), Fault::Malformed(_)));
    let status = super::super::Message::decode_small(&[0x2a, 0x04, 0x08, 0x04, 0x10, 0x05]);
    assert_eq!(Fault::from(status.unwrap_err()), Fault::BadRange);
}

#[test]
fn a_block_becomes_a_message_where_it_lies() {
    let lengths = [
        0, 1, 120, 123, 124, 127, 128, 16_380, 16_383, 16_384, 70_000,
    ];
    for block in lengths {
        for ext_commit in lengths.map(Some).into_iter().chain([None]) {
            let response = BlockResponse {
                block: vec![1; block].into(),
                ext_commit: ext_commit.map(|length| vec![2; length].into()),
                ..BlockResponse::default()
            };
            let [first, second] = BlockResponse::gaps(block, ext_commit);
            let mut message = vec![9; first];
            message.extend_from_slice(&response.block);
            message.extend(std::iter::repeat_n(9, second));
            message.extend_from_slice(&response.ext_commit.clone().unwrap_or_default());
            BlockResponse::fill_gaps(&mut message, block, ext_commit);
            assert!(message == response.encode(), "{block} {ext_commit:?}");
        }
    }
}
