//! Anything at all as input: nothing panics, and nothing is held that was only announced.

use proptest::collection::vec;
use proptest::prelude::*;

use super::drive::{blocksync_channel, pex_channel};
use super::frame;
use super::node_info::NodeInfo;
use super::packet::{Packet, Reassembly, parse};
use super::secret::{SEALED, agree, ephemeral_public};
use super::stream::{StreamReader, read_length};
use super::{ListenAddr, NodeKey, PeerAddr};

/// Bytes that often look like packets.
fn wire() -> impl Strategy<Value = Vec<u8>> {
    let interesting = prop_oneof![
        Just(0u8),
        Just(0x08),
        Just(0x0a),
        Just(0x10),
        Just(0x12),
        Just(0x1a),
        Just(0x40),
        Just(0x80),
        Just(0xff),
        any::<u8>()
    ];
    vec(interesting, 0..3000)
}

proptest! {
    #[test]
    fn packets(bytes in wire()) {
        let mut reassembly = Reassembly::new(&[blocksync_channel(2000), pex_channel()]);
        let mut at = 0;
        while let Ok(Some((n, packet))) = parse(&bytes[at..]) {
            prop_assert!(n > 0);
            at += n;
            if let Packet::Piece { channel, last, data } = packet {
                prop_assert!(data.len() <= n);
                if reassembly.add(channel, last, &data).is_err() {
                    break;
                }
                prop_assert!(reassembly.partial(0x40) <= 2000);
            }
        }
    }

    #[test]
    fn a_piece_is_read_the_same_however_it_is_encoded(channel in 0u8..0x80, last: bool, data in vec(any::<u8>(), 0..1024)) {
        // canonical by hand, the others by prost with the data doubled in front of it
        use crate::wire::proto::p2p::{Packet as Wire, PacketMsg, packet::Sum};
        use prost::Message;
        let message = PacketMsg { channel_id: channel.into(), eof: last, data: data.clone().into() };
        let canonical = Wire { sum: Some(Sum::PacketMsg(message.clone())) }.encode_length_delimited_to_vec();
        let expected = Packet::Piece { channel: channel.into(), last, data: data.into() };
        prop_assert_eq!(parse(&canonical), Ok(Some((canonical.len(), expected.clone()))));
        let mut inner = vec![0x1a, 0];
        inner.extend(message.encode_to_vec());
        let mut odd = vec![0x1a];
        crate::varint::put(inner.len() as u64, &mut odd);
        odd.extend(inner);
        let mut wire = Vec::new();
        crate::varint::put(odd.len() as u64, &mut wire);
        wire.extend(odd);
        if wire.len() <= 1034 {
            prop_assert_eq!(parse(&wire), Ok(Some((wire.len(), expected))));
        }
    }

    #[test]
    fn frames(bytes in wire(), marked: bool, step in 1usize..200) {
        let mut reader = frame::reader(&[blocksync_channel(100_000), pex_channel()], marked);
        let (mut from, mut to) = (0, 0);
        'all: while to < bytes.len() {
            to = bytes.len().min(to + step);
            loop {
                match reader.take(&bytes[from..to]) {
                    Ok((0, None)) => break,
                    Ok((n, _)) => from += n,
                    Err(_) => break 'all,
                }
            }
        }
    }

    #[test]
    fn lengths_and_node_infos(bytes in wire()) {
        let _ = read_length(&bytes, 1000);
        if let Ok(info) = NodeInfo::decode(&bytes) {
            let _ = info.validate();
        }
    }

    #[test]
    fn addresses_and_keys(text in "\\PC{0,60}", id in "[0-9a-fA-F]{38,42}", rest in "[@:/a-z0-9.\\[\\]]{0,20}") {
        let _ = text.parse::<PeerAddr>();
        let _ = text.parse::<ListenAddr>();
        let _ = NodeKey::from_json(&text);
        if let Ok(peer) = format!("{id}@{rest}").parse::<PeerAddr>() {
            prop_assert_eq!(peer.to_string().parse::<PeerAddr>(), Ok(peer));
        }
    }

    #[test]
    fn sealed_streams(garbage in vec(any::<u8>(), 0..3 * SEALED), secret: [u8; 32], theirs: [u8; 32]) {
        let Ok(agreement) = agree(secret, theirs) else { return Ok(()) };
        let _ = ephemeral_public(secret);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut reader = StreamReader::new(&garbage[..]);
            reader.set_opener(agreement.opener).unwrap();
            while reader.fill(usize::MAX).await.is_ok() {}
            assert!(reader.window().is_empty());
        });
    }
}
