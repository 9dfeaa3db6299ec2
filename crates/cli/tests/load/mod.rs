//! One server and many clients, all of them processes: the small form of `cargo bench --bench
//! serving`.

use std::io::{Read, Write};
use std::net::TcpStream;

use blocksync::ids::Height;
use blocksync::varint;
use blocksync::wire::Message;

use crate::process::{HANG, Place, serve};
use crate::{CHAIN, FIRST, LAST, has_everything, sync};

/// Nodes that sync at once.
const NODES: usize = 4;
/// Requests of the peer that repeats.
const REPEATS: u64 = 300;

/// A connection to a server, over which this many requests for a block have been sent.
fn asks(at: &str, requests: u64) -> TcpStream {
    let address = at.strip_prefix("plain://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(HANG)).unwrap();
    let (height, count) = (Height::new(FIRST), 0);
    let request = Message::BlockRequest { height, count }.encode();
    let mut frame = Vec::new();
    varint::put(request.len() as u64, &mut frame);
    frame.extend_from_slice(&request);
    for _ in 0..requests {
        stream.write_all(&frame).unwrap();
    }
    stream
}

/// Reads until this number of requests are answered; gives the number of blocks among the answers.
fn answers(stream: &mut TcpStream, requests: u64) -> u64 {
    let (mut held, mut chunk) = (Vec::new(), vec![0; 64 << 10]);
    let (mut blocks, mut others) = (0, 0);
    while blocks + others < requests {
        let read = stream.read(&mut chunk).unwrap();
        assert!(read > 0, "hung up after {blocks} blocks");
        held.extend_from_slice(&chunk[..read]);
        while let varint::Read::Value(length, head) = varint::read(&held) {
            let end = head + length as usize;
            if held.len() < end {
                break;
            }
            let message: Vec<u8> = held.drain(..end).skip(head).collect();
            match Message::decode(&message.into()) {
                Ok(Message::Block(_)) => blocks += 1,
                Ok(Message::NoBlock { .. }) => others += 1,
                _ => {}
            }
        }
    }
    blocks
}

/// Nodes that sync at the same time all get everything, beside a peer that asks for one block again
/// and again, and gets an answer to each request, and one that asks and never reads.
#[test]
fn several_nodes_sync_at_once_beside_peers_that_only_cost() {
    let place = Place::new();
    let source = place.imported("source", CHAIN);
    let (server, at) = serve(&source, &[]);
    let deaf = asks(&at, 1500);
    let mut repeats = asks(&at, REPEATS);
    let homes: Vec<_> = (0..NODES).map(|n| place.at(&format!("node-{n}"))).collect();
    let nodes: Vec<_> = homes.iter().map(|home| sync(home, &[&at], &[])).collect();
    for (node, home) in nodes.into_iter().zip(&homes) {
        let report = node.wait().ended(0).json();
        assert_eq!(report["blocks"], LAST - FIRST + 1, "{report}");
        has_everything(home);
    }
    assert_eq!(answers(&mut repeats, REPEATS), REPEATS);
    // The one that does not read is still there, and so is the server.
    deaf.set_nonblocking(true).unwrap();
    let there = deaf.peek(&mut [0]).unwrap();
    assert_eq!(there, 1);
    server.signal("TERM");
    server.wait().ended(0);
}
