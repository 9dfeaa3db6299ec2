//! Connections under time that stands still: what a hostile or broken peer can do to one.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::budget::{Budget, FREE, LEASE};
use super::counters::Reason;
use super::drive::*;
use super::frame::put_frame;
use super::packet::{MAX_PACKET, PING, PONG, put_packet};
use super::plain;
use super::stream::{StreamReader, StreamWriter};
use crate::ids::PeerId;
use crate::link::gate::INBOX_BYTES;
use crate::link::{Inbound, Link};

fn packets() -> Carrier {
    Carrier {
        framing: Framing::Packets,
        channels: vec![blocksync_channel(MAX_MESSAGE), pex_channel()],
        ..plain::carrier()
    }
}

/// A driven connection and the raw other end.
fn connection(carrier: Carrier, pipe: usize) -> (Link, JoinHandle<ConnError>, DuplexStream) {
    let (ours, theirs) = duplex(pipe);
    let (link, end) = Link::pair(PeerId([1; 20]), "test");
    let (r, w) = split(ours);
    let (r, w) = (StreamReader::new(r), StreamWriter::new(w));
    (link, tokio::spawn(drive(r, w, carrier, end, None)), theirs)
}

/// Two driven connections, one into the other.
fn pair(carrier: &Carrier, pipe: usize) -> (Link, Link) {
    let (a, b) = duplex(pipe);
    let drive_one = |io: DuplexStream| {
        let (link, end) = Link::pair(PeerId([1; 20]), "test");
        let (r, w) = split(io);
        tokio::spawn(drive(
            StreamReader::new(r),
            StreamWriter::new(w),
            carrier.clone(),
            end,
            None,
        ));
        link
    };
    (drive_one(a), drive_one(b))
}

async fn wire(framing: Framing, messages: &[(u8, usize)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::new(&mut bytes);
    for (channel, total) in messages {
        let data = Bytes::from(vec![7; *total]);
        let mut out = super::packet::Outgoing::new(&[blocksync_channel(0), pex_channel()]);
        out.push(*channel, data);
        let payload = if framing == Framing::Packets {
            1024
        } else {
            usize::MAX
        };
        while let Some(piece) = out.next(payload) {
            match framing {
                Framing::Packets => put_packet(&piece, &mut writer).unwrap(),
                Framing::Frames { marked } => put_frame(piece, marked, &mut writer).unwrap(),
            }
        }
    }
    writer.flush().await.unwrap();
    bytes
}

async fn message(link: &mut Link) -> Bytes {
    loop {
        match link.inbox.recv().await {
            Some(Inbound::Message(m)) => return m,
            Some(Inbound::Progress(_) | Inbound::Unread) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn closed(link: &mut Link) -> String {
    loop {
        match link.inbox.recv().await {
            Some(Inbound::Closed(why) | Inbound::Broken(why)) => return why,
            Some(_) => {}
            None => panic!("no reason was given"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn messages_of_all_sizes_pass_in_order() {
    for carrier in [packets(), plain::carrier()] {
        let (link, mut other) = pair(&carrier, 70_000);
        let sizes = [1, 1023, 1024, 1025, 5_000_000, 3, 300_000, 64];
        let outbox = link.outbox.clone();
        tokio::spawn(async move {
            for (i, n) in sizes.iter().enumerate() {
                let fill = u8::try_from(i).unwrap();
                outbox.send(vec![fill; *n].into()).await.unwrap();
            }
        });
        for (i, n) in sizes.iter().enumerate() {
            let got = message(&mut other).await;
            assert!(
                got.len() == *n && got.iter().all(|b| usize::from(*b) == i),
                "{n}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_byte_at_a_time_is_as_good() {
    for framing in [Framing::Packets, Framing::Frames { marked: false }] {
        let carrier = Carrier {
            framing,
            ..packets()
        };
        let (mut link, _task, mut peer) = connection(carrier, 1);
        let bytes = wire(framing, &[(0x40, 3000), (0x40, 1)]).await;
        tokio::spawn(async move {
            for b in bytes {
                peer.write_all(&[b]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            std::future::pending::<()>().await;
        });
        assert_eq!(message(&mut link).await.len(), 3000);
        assert_eq!(message(&mut link).await.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn pings_are_answered_also_while_the_service_takes_nothing() {
    let (link, _task, mut peer) = connection(packets(), 1 << 20);
    peer.write_all(&PING.repeat(1000)).await.unwrap();
    let mut pong = [0; 3];
    peer.read_exact(&mut pong).await.unwrap();
    assert_eq!(pong, PONG);

    // fill the link; from here on the reader is blocked and cannot see a ping
    let message = wire(Framing::Packets, &[(0x40, INBOX_BYTES / 2)]).await;
    let (mut peer_in, mut peer_out) = split(peer);
    tokio::spawn(async move { while peer_out.write_all(&message).await.is_ok() {} });
    let start = Instant::now();
    for _ in 0..5 {
        peer_in.read_exact(&mut pong).await.unwrap();
    }
    let each = start.elapsed() / 5;
    assert!(each < Duration::from_secs(20), "a pong every {each:?}");
    assert!(link.inbox.len() <= 64 + 2);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_nobody_reads_bounds_what_is_taken_from_the_socket() {
    let (link, _task, mut peer) = connection(plain::carrier(), 1000);
    let frame = wire(Framing::Frames { marked: false }, &[(0x40, 1 << 20)]).await;
    let mut taken = 0;
    while tokio::time::timeout(Duration::from_secs(1), peer.write_all(&frame))
        .await
        .is_ok()
    {
        taken += frame.len();
    }
    assert!(taken <= INBOX_BYTES + (3 << 20), "{taken}");
    drop(link);
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_dropped_and_one_that_pongs_stays() {
    let (mut link, task, mut peer) = connection(packets(), 1 << 16);
    for _ in 0..3 {
        let start = Instant::now();
        let mut ping = [0; 3];
        peer.read_exact(&mut ping).await.unwrap();
        assert_eq!((ping, start.elapsed().as_secs()), (PING, 60));
        peer.write_all(&PONG).await.unwrap();
    }
    let start = Instant::now();
    assert!(closed(&mut link).await.contains("silent"));
    assert_eq!(start.elapsed().as_secs(), 105);
    assert!(!link.hangup.is_cancelled());
    assert_eq!(task.await.unwrap().reason(), Reason::Silent);
}

#[tokio::test(start_paused = true)]
async fn plain_peers_keep_each_other_alive_and_strangers_need_not() {
    let (mut a, b) = pair(&plain::carrier(), 1 << 16);
    sleep(Duration::from_secs(3600)).await;
    b.outbox.send(Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(message(&mut a).await, "x");
    // one that never says it is alive is not expected to
    let (mut link, _task, mut peer) = connection(plain::carrier(), 1 << 16);
    sleep(Duration::from_secs(3600)).await;
    peer.write_all(&[1, 9]).await.unwrap();
    assert_eq!(message(&mut link).await, &[9][..]);
    // one that does is missed
    peer.write_all(&[0]).await.unwrap();
    assert!(closed(&mut link).await.contains("silent"));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_stops_reading_is_dropped() {
    for carrier in [packets(), plain::carrier()] {
        let (mut link, task, peer) = connection(carrier, 10_000);
        link.outbox.send(vec![1; 1_000_000].into()).await.unwrap();
        let start = Instant::now();
        let why = closed(&mut link).await;
        assert!(why.contains("has not read"), "{why}");
        assert!(start.elapsed() <= Duration::from_secs(61));
        assert_eq!(task.await.unwrap().reason(), Reason::Stalled);
        drop(peer);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_delays_only_itself() {
    let (mut link, mut other) = pair(&plain::carrier(), 1000);
    for _ in 0..8 {
        link.outbox.send(vec![1; 1 << 20].into()).await.unwrap();
    }
    // `other` reads nothing, and what it sends arrives
    other
        .outbox
        .send(Bytes::from_static(b"status"))
        .await
        .unwrap();
    assert_eq!(message(&mut link).await, "status");
    for _ in 0..8 {
        assert_eq!(message(&mut other).await.len(), 1 << 20);
    }
}

#[tokio::test(start_paused = true)]
async fn what_breaks_the_protocol_ends_the_connection() {
    let oversize = {
        let mut bytes = vec![0x8b, 0x08];
        bytes.resize(MAX_PACKET + 3, 0);
        bytes
    };
    let unknown_channel = wire(Framing::Packets, &[(0x00, 1)]).await;
    let cases: [(&[u8], &str); 6] = [
        (&oversize, "1035 bytes"),
        (&[0xff; 11], "no varint"),
        (&[0], "no kind"),
        (&[3, 0xff, 0xff, 0xff], "undecodable"),
        (
            &[9, 0x1a, 7, 8, 0x41, 0x10, 1, 0x1a, 1, 0x78],
            "unknown channel 0x41",
        ),
        (&unknown_channel, "unknown channel 0x0"),
    ];
    for (bytes, expected) in cases {
        let carrier = Carrier {
            channels: vec![blocksync_channel(3000)],
            ..packets()
        };
        let (mut link, task, mut peer) = connection(carrier, 1 << 16);
        peer.write_all(bytes).await.unwrap();
        let why = closed(&mut link).await;
        assert!(why.contains(expected), "{why}");
        assert_eq!(task.await.unwrap().reason(), Reason::Protocol);
    }
}

#[tokio::test(start_paused = true)]
async fn messages_above_the_limit_are_refused_before_they_are_whole() {
    for framing in [Framing::Packets, Framing::Frames { marked: false }] {
        let carrier = Carrier {
            framing,
            channels: vec![blocksync_channel(100_000)],
            ..packets()
        };
        let (mut link, _task, mut peer) = connection(carrier, 1 << 20);
        let bytes = wire(framing, &[(0x40, 100_000), (0x40, 100_001)]).await;
        peer.write_all(&bytes).await.unwrap();
        assert_eq!(message(&mut link).await.len(), 100_000);
        assert!(closed(&mut link).await.contains("100000 is the limit"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_message_is_not_delivered() {
    for framing in [Framing::Packets, Framing::Frames { marked: false }] {
        let carrier = Carrier {
            framing,
            ..packets()
        };
        let (mut link, task, mut peer) = connection(carrier, 1 << 20);
        let bytes = wire(framing, &[(0x40, 5000)]).await;
        peer.write_all(&bytes[..bytes.len() - 1]).await.unwrap();
        drop(peer);
        assert!(matches!(link.inbox.recv().await, Some(Inbound::Closed(_))));
        assert_eq!(task.await.unwrap().reason(), Reason::Disconnected);
    }
}

#[tokio::test(start_paused = true)]
async fn progress_of_a_long_message_is_told() {
    for framing in [Framing::Packets, Framing::Frames { marked: false }] {
        let carrier = Carrier {
            framing,
            ..packets()
        };
        let (mut link, _task, mut peer) = connection(carrier, 1 << 16);
        let bytes = wire(framing, &[(0x40, 1_000_000), (0x40, 70_000)]).await;
        tokio::spawn(async move {
            for chunk in bytes.chunks(10_000) {
                peer.write_all(chunk).await.unwrap();
                sleep(Duration::from_millis(1)).await;
            }
            std::future::pending::<()>().await;
        });
        let mut told = Vec::new();
        loop {
            match link.inbox.recv().await.unwrap() {
                Inbound::Progress(n) => told.push(n),
                Inbound::Unread => panic!("there is memory enough"),
                Inbound::Message(m) => {
                    assert_eq!(m.len(), 1_000_000);
                    break;
                }
                Inbound::Closed(why) | Inbound::Broken(why) => panic!("{why}"),
            }
        }
        assert!((10..=16).contains(&told.len()), "{told:?}");
        assert!(told.windows(2).all(|w| w[0] < w[1]));
        assert_eq!(message(&mut link).await.len(), 70_000);
    }
}

#[tokio::test(start_paused = true)]
async fn progress_of_a_slow_message_is_told_every_second() {
    for framing in [Framing::Packets, Framing::Frames { marked: false }] {
        let carrier = Carrier {
            framing,
            ..packets()
        };
        let (mut link, _task, mut peer) = connection(carrier, 1 << 16);
        let bytes = wire(framing, &[(0x40, 20_000)]).await;
        tokio::spawn(async move {
            for chunk in bytes.chunks(1_100) {
                peer.write_all(chunk).await.unwrap();
                sleep(Duration::from_millis(550)).await;
            }
            std::future::pending::<()>().await;
        });
        let (mut told, mut at) = (0, Instant::now());
        while let Inbound::Progress(n) = link.inbox.recv().await.unwrap() {
            // It sends in pieces, of which a packet may take more than one.
            assert!(at.elapsed() < Duration::from_secs(3), "{:?}", at.elapsed());
            assert!(told == 0 || at.elapsed() >= Duration::from_secs(1));
            assert!(n > told);
            (told, at) = (n, Instant::now());
        }
        assert!(told > 15_000, "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn rates_hold_in_both_directions() {
    for (send_rate, recv_rate) in [(1_000_000, 0), (0, 1_000_000)] {
        let carrier = Carrier {
            send_rate,
            recv_rate,
            ..packets()
        };
        let (link, mut other) = pair(&carrier, 10_000);
        let start = Instant::now();
        tokio::spawn(async move {
            for _ in 0..10 {
                link.outbox.send(vec![1; 1_000_000].into()).await.unwrap();
            }
            link.hangup.cancelled().await;
        });
        for _ in 0..10 {
            message(&mut other).await;
        }
        let took = start.elapsed().as_secs_f64();
        assert!((9.5..11.0).contains(&took), "{took}");
    }
}

#[tokio::test(start_paused = true)]
async fn either_side_can_hang_up() {
    let (link, task, mut peer) = connection(packets(), 1 << 16);
    link.hangup.cancel();
    assert_eq!(task.await.unwrap().reason(), Reason::Local);
    assert_eq!(peer.read(&mut [0; 1]).await.unwrap(), 0);

    let (link, task, _peer) = connection(packets(), 1 << 16);
    drop(link);
    assert_eq!(task.await.unwrap().reason(), Reason::Local);

    let (mut link, task, peer) = connection(packets(), 1 << 16);
    drop(peer);
    assert!(closed(&mut link).await.contains("hung up"));
    assert_eq!(task.await.unwrap().reason(), Reason::Disconnected);
}

#[tokio::test(start_paused = true)]
async fn side_messages_that_nobody_takes_are_dropped() {
    let (ours, mut peer) = duplex(1 << 20);
    let (mut link, end) = Link::pair(PeerId([1; 20]), "test");
    let (r, w) = split(ours);
    let (inbox, mut side_messages) = tokio::sync::mpsc::channel(2);
    let (_to, outbox) = tokio::sync::mpsc::channel(2);
    let (r, w) = (StreamReader::new(r), StreamWriter::new(w));
    let talk = Box::pin(std::future::pending());
    let side = Side {
        inbox,
        outbox,
        talk,
    };
    tokio::spawn(drive(r, w, packets(), end, Some(side)));
    let mut messages = vec![(0x00, 100); 50];
    messages.push((0x40, 5));
    peer.write_all(&wire(Framing::Packets, &messages).await)
        .await
        .unwrap();
    assert_eq!(message(&mut link).await.len(), 5);
    assert_eq!(side_messages.recv().await.unwrap().len(), 100);
    assert_eq!(side_messages.recv().await.unwrap().len(), 100);
    assert!(side_messages.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn what_came_before_the_end_is_not_lost() {
    for framing in [Framing::Packets, Framing::Frames { marked: false }] {
        let carrier = Carrier {
            framing,
            ..packets()
        };
        let (mut link, task, mut peer) = connection(carrier, 1 << 20);
        let messages = [(0x40, 1000); 100];
        peer.write_all(&wire(framing, &messages).await)
            .await
            .unwrap();
        drop(peer);
        let outbox = link.outbox.clone();
        let _ = outbox.send(Bytes::from_static(b"into the void")).await;
        sleep(Duration::from_secs(3)).await;
        for _ in &messages {
            assert_eq!(message(&mut link).await.len(), 1000);
        }
        assert!(!link.hangup.is_cancelled());
        closed(&mut link).await;
        assert_eq!(task.await.unwrap().reason(), Reason::Disconnected);
        assert!(link.inbox.recv().await.is_none());
    }
}

/// Connections that share a budget, each with the wire that feeds it.
fn crowd(carrier: &Carrier, n: usize) -> Vec<(Link, JoinHandle<ConnError>, DuplexStream)> {
    let one = |_| connection(carrier.clone(), 1 << 16);
    (0..n).map(one).collect()
}

/// Feeds a wire with `bytes` until it takes no more for a while; gives how many it took.
async fn feed(wire: &mut DuplexStream, bytes: &[u8]) -> usize {
    let mut taken = 0;
    while taken < bytes.len() {
        let step = tokio::time::timeout(Duration::from_millis(100), wire.write(&bytes[taken..]));
        let Ok(Ok(n)) = step.await else { break };
        taken += n;
    }
    taken
}

#[tokio::test(start_paused = true)]
async fn unfinished_messages_of_all_connections_are_bounded_together() {
    for framing in [Framing::Packets, Framing::Frames { marked: false }] {
        let total = 4 << 20;
        let carrier = Carrier {
            framing,
            budget: Budget::new(total),
            ..packets()
        };
        // every message stops a kilobyte before its end
        let bytes = wire(framing, &[(0x40, 3 << 20)]).await;
        let most = bytes.len() - 1000;
        let mut peers = crowd(&carrier, 12);
        let mut taken = Vec::new();
        for (_, _, wire) in &mut peers {
            taken.push(feed(wire, &bytes[..most]).await);
        }
        // the budget, one message beyond it, and what every connection may have in its buffers
        let slack = 12 * (FREE + (256 << 10) + (1 << 16));
        let all: usize = taken.iter().sum();
        assert!(all <= total + most + slack, "{all}");
        sleep(Duration::from_secs(2)).await;
        let excused = peers.iter_mut().filter_map(|(link, _, _)| {
            let mut said = std::iter::from_fn(|| link.inbox.try_recv().ok());
            said.find(|m| *m == Inbound::Unread)
        });
        assert!(
            excused.count() >= 8,
            "who waits is known not to be to blame"
        );

        // whoever can finish lets the others finish: all are there in the end
        let mut links = Vec::new();
        for ((link, _, mut wire), from) in peers.into_iter().zip(taken) {
            let rest = bytes[from..].to_vec();
            tokio::spawn(async move {
                wire.write_all(&rest).await.unwrap();
                std::future::pending::<()>().await;
            });
            links.push(link);
        }
        for link in &mut links {
            assert_eq!(message(link).await.len(), 3 << 20);
        }
        assert_eq!(carrier.budget.used(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn who_keeps_the_last_memory_from_others_is_closed() {
    let carrier = Carrier {
        budget: Budget::new(1 << 20),
        ..packets()
    };
    let bytes = wire(Framing::Packets, &[(0x40, 2 << 20)]).await;
    let mut peers = crowd(&carrier, 2);
    let (mut honest, _honest_task, mut honest_wire) = peers.remove(1);
    let (mut drip, task, mut wire) = peers.remove(0);
    let half = feed(&mut wire, &bytes[..bytes.len() / 2 + (1 << 19)]).await;
    assert!(half > 1 << 20, "it has gone beyond the budget: {half}");
    tokio::spawn(async move {
        for byte in &bytes[half..half + 1000] {
            sleep(Duration::from_secs(1)).await;
            if wire.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
    });
    let rest = super::drive_tests::wire(Framing::Packets, &[(0x40, 2 << 20)]).await;
    let begun = Instant::now();
    tokio::spawn(async move {
        honest_wire.write_all(&rest).await.unwrap();
        std::future::pending::<()>().await;
    });
    assert_eq!(message(&mut honest).await.len(), 2 << 20);
    let waited = begun.elapsed();
    assert!(waited <= LEASE + Duration::from_secs(2), "{waited:?}");
    assert!(closed(&mut drip).await.contains("others wait"));
    assert_eq!(task.await.unwrap().reason(), Reason::Memory);
}

/// Floods of frames without content, each with the framing that has them. Sealed or not makes no
/// difference here.
fn floods() -> Vec<(&'static str, Framing, Vec<u8>)> {
    let piece = |data: &[u8]| {
        let mut inner = vec![0x08, 0x40, 0x1a, u8::try_from(data.len()).unwrap()];
        inner.extend_from_slice(data);
        let length = u8::try_from(inner.len()).unwrap();
        [&[length + 2, 0x1a, length], &inner[..]].concat()
    };
    let frames = Framing::Frames { marked: false };
    vec![
        ("alive", frames, vec![0]),
        ("marked alive", Framing::Frames { marked: true }, vec![0]),
        ("ping", Framing::Packets, PING.to_vec()),
        ("pong", Framing::Packets, PONG.to_vec()),
        ("empty piece", Framing::Packets, piece(b"")),
        ("crumb", Framing::Packets, piece(b"x")),
    ]
}

#[tokio::test]
async fn a_flood_of_control_frames_ends_the_connection() {
    for (name, framing, frame) in floods() {
        let carrier = Carrier {
            framing,
            ..packets()
        };
        let (mut link, task, mut wire) = connection(carrier, 1 << 18);
        let flood = frame.repeat((1 << 18) / frame.len());
        let _ = wire.write_all(&flood).await;
        assert!(closed(&mut link).await.contains("signs of life"), "{name}");
        assert_eq!(task.await.unwrap().reason(), Reason::Flood, "{name}");
    }
}

#[tokio::test]
async fn the_runtime_gets_its_thread_back_within_a_flood() {
    // a flood that breaks no rule: full messages of one byte, of which the service takes all
    let carrier = Carrier {
        framing: Framing::Frames { marked: false },
        ..packets()
    };
    let (mut link, _task, mut wire) = connection(carrier, 1 << 18);
    let most = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = most.clone();
    let beside = tokio::spawn(async move {
        loop {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    let messages = 50_000;
    let sending = tokio::spawn(async move {
        wire.write_all(&[1, 7].repeat(messages)).await.unwrap();
        wire
    });
    for _ in 0..messages {
        message(&mut link).await;
    }
    let turns = most.load(std::sync::atomic::Ordering::Relaxed);
    assert!(turns as usize >= messages / 128, "{turns} turns");
    beside.abort();
    drop(sending.await);
}

#[tokio::test(start_paused = true)]
async fn hours_of_signs_of_life_are_no_flood() {
    for (name, framing, frame) in floods() {
        let carrier = Carrier {
            framing,
            ..packets()
        };
        let (mut link, _task, mut wire) = connection(carrier, 1 << 18);
        for _ in 0..2000 {
            sleep(Duration::from_secs(5)).await;
            wire.write_all(&frame).await.unwrap();
        }
        assert!(!link.hangup.is_cancelled(), "{name}");
        let mut said = std::iter::from_fn(|| link.inbox.try_recv().ok());
        assert!(
            !said.any(|m| matches!(m, Inbound::Broken(_) | Inbound::Closed(_))),
            "{name}"
        );
    }
}
