//! A rate limit is no fault: a peer that sends as fast as it may is not slow, it is limited (issue
//! 6).

use std::time::Duration;

use blocksync::ids::{Height, PeerId};
use blocksync::link::{Inbound, Link};
use blocksync::p2p::drive::{Carrier, Framing, blocksync_channel, drive};
use blocksync::p2p::plain;
use blocksync::p2p::stream::{StreamReader, StreamWriter};
use blocksync::pool::Outcome;
use blocksync_testkit::chain::{BlockSpec, TestChain};
use blocksync_testkit::peers::{Behaviour, scripted};
use blocksync_testkit::recorded::{Recorded, config, fresh};
use bytes::Bytes;
use tokio::io::{DuplexStream, duplex, split};

fn driven(carrier: Carrier, peer: PeerId, stream: DuplexStream) -> Link {
    let (link, end) = Link::pair(peer, "limited");
    let (reader, writer) = split(stream);
    let (reader, writer) = (StreamReader::new(reader), StreamWriter::new(writer));
    tokio::spawn(drive(reader, writer, carrier, end, None));
    link
}

/// The scripted peer behind a real transport: `send` bytes a second from it, and `receive` at our
/// side; 0 is no limit.
fn behind_a_transport(mut served: Link, framing: Framing, send: u64, receive: u64) -> Link {
    let carrier = |send_rate, recv_rate| Carrier {
        framing,
        channels: vec![blocksync_channel(1 << 20)],
        send_rate,
        recv_rate,
        ..plain::carrier()
    };
    let (here, there) = duplex(1 << 16);
    let mut far = driven(carrier(send, 0), served.peer, there);
    let near = driven(carrier(0, receive), served.peer, here);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                said = served.inbox.recv() => match said {
                    Some(Inbound::Message(message)) => far.outbox.send(message).await.unwrap(),
                    _ => return,
                },
                heard = far.inbox.recv() => match heard {
                    Some(Inbound::Message(message)) => served.outbox.send(message).await.unwrap(),
                    Some(Inbound::Progress(_) | Inbound::Unread) => {}
                    _ => return,
                },
            }
        }
    });
    near
}

/// Blocks of 200 KB at 100 KB a second: CometBFT's 5 MB a second with blocks of 10 MB.
#[tokio::test(start_paused = true)]
async fn a_peer_at_its_limit_is_not_slow() {
    let chain = Recorded::load("four");
    let total: usize = chain.responses.iter().map(|r| r.len()).sum();
    for framing in [Framing::Packets, Framing::Frames { marked: false }] {
        for (send, receive, fast_too) in
            [(100_000, 0, false), (0, 100_000, false), (100_000, 0, true)]
        {
            let (service, _) = fresh(&chain, config(1)).await;
            let begun = tokio::time::Instant::now();
            let honest = |n| scripted(&chain, n, Behaviour::Honest, Duration::from_millis(5));
            let limited = behind_a_transport(honest(1), framing, send, receive);
            service.add_peer(limited).await.unwrap();
            if fast_too {
                let fast = behind_a_transport(honest(2), framing, 0, 0);
                service.add_peer(fast).await.unwrap();
            }
            let caught_up = service.outcome(|o| matches!(o, Outcome::CaughtUp { .. }));
            let status = tokio::time::timeout(Duration::from_secs(120), caught_up)
                .await
                .expect("in the time that the bytes take, more or less")
                .unwrap();
            assert_eq!(
                status.dropped,
                [],
                "{framing:?} {send} {receive} {fast_too}"
            );
            assert!(status.applied >= chain.tip().prev());
            let took = begun.elapsed().as_secs_f64();
            let least = total as f64 / 100_000.0;
            assert!(
                fast_too || (took >= least * 0.8 && took <= least * 1.5 + 5.0),
                "{took} of {least}"
            );
            service.stop().await;
        }
    }
}

/// A block that consensus allows and that our own limits might not: a million transactions in 3.3
/// MB. It is received, executed, kept, and served to the next node.
#[tokio::test]
async fn a_block_of_a_million_small_transactions_goes_through() {
    let mut made = TestChain::builder(1).heights(2).build();
    let txs = vec![Bytes::from_static(b"="); 1_100_000];
    made.push(&BlockSpec {
        txs,
        ..BlockSpec::default()
    });
    made.grow(2);
    let chain = Recorded::of(&made);
    let large = made.at(Height::new(3)).fetched.raw.len();
    assert!((3_300_000..3_400_000).contains(&large), "{large}");

    let (first, store) = fresh(&chain, config(1)).await;
    let honest = scripted(&chain, 1, Behaviour::Honest, Duration::ZERO);
    first.add_peer(honest).await.unwrap();
    let (second, _) = fresh(&chain, config(2)).await;
    let (here, there) = duplex(1 << 16);
    let (to_second, _task) = plain::link(here, PeerId([2; 20]), "the second");
    let (to_first, _task) = plain::link(there, PeerId([3; 20]), "the first");
    first.add_peer(to_second).await.unwrap();
    second.add_peer(to_first).await.unwrap();
    for service in [&first, &second] {
        // The second may be caught up with what the first has before that has executed the block.
        let mut status = service.status();
        let applied = status.wait_for(|status| status.applied >= chain.tip().prev());
        let status = tokio::time::timeout(Duration::from_secs(120), applied);
        let status = status.await.expect("within two minutes").unwrap().clone();
        assert_eq!(status.dropped, []);
    }
    let kept = store.block(Height::new(3)).unwrap().expect("it is kept");
    assert!(kept.raw == made.at(Height::new(3)).fetched.raw);
    first.stop().await;
    second.stop().await;
}
