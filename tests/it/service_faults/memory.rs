//! Cost of (f) 10: peers that begin messages of the largest size and do not end them. Resident
//! memory can be measured of a whole process only, so the test runs itself in one of its own.

use std::process::Command;
use std::time::Duration;

use blocksync::p2p::plain;
use blocksync::wire::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::service_faults::peers::{Log, Script};
use crate::service_faults::{GUARD, KvStore, made, peers, start};
use blocksync_testkit::recorded::{Recorded, config, id};

const ALLOWED: u64 = 512 << 20;
const CHILD: &str = "BLOCKSYNC_TEST_F10";

/// The most memory that this process ever had, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    let kilobytes = line.split_whitespace().nth(1).unwrap();
    kilobytes.parse::<u64>().unwrap() << 10
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    blocksync::varint::put(message.len() as u64, &mut out);
    out.extend_from_slice(message);
    out
}

/// Says that it has everything, and to whatever it is asked begins a block of 100 MiB.
async fn fills(stream: DuplexStream, tip: blocksync::ids::Height) {
    let (mut from, mut to) = tokio::io::split(stream);
    tokio::spawn(async move {
        let mut sink = vec![0; 1 << 16];
        while from.read(&mut sink).await.is_ok_and(|n| n > 0) {}
    });
    let status = Message::Status {
        height: tip,
        base: blocksync::ids::Height::new(1),
        max_range: 1,
    };
    if to.write_all(&framed(&status.encode())).await.is_err() {
        return;
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    let mut begun = Vec::new();
    blocksync::varint::put(104_857_600, &mut begun);
    begun.push(0x1a);
    let mut written = to.write_all(&begun).await;
    let piece = vec![0x5a; 1 << 16];
    for _ in 0..1599 {
        if written.is_err() {
            return;
        }
        written = to.write_all(&piece).await;
    }
    std::future::pending::<()>().await;
}

async fn child() {
    let chain = Recorded::of(&made(1, 120));
    let (handle, _store) = start(&chain, config(10), KvStore::new()).await;
    for n in 1..=3 {
        let (peers, tip) = (handle.peers(), chain.tip());
        tokio::spawn(async move {
            loop {
                let (ours, theirs) = tokio::io::duplex(1 << 18);
                let (link, ended) = plain::link(ours, id(n), "fills");
                if peers.add(link).await.is_err() {
                    return;
                }
                tokio::select! {
                    () = fills(theirs, tip) => {}
                    _ = ended => {}
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }
    // They come first, and are asked first.
    tokio::time::sleep(Duration::from_millis(50)).await;
    peers::keep(&handle, 4, Script::honest(&chain), &Log::new());
    let mut watch = handle.status();
    let last = chain.tip().prev();
    let done = watch.wait_for(|s| s.applied == last);
    tokio::time::timeout(GUARD, done).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(120)).await;
    let honest = |s: &blocksync::service::Status| s.dropped.iter().any(|d| d.peer == id(4));
    assert!(!honest(&handle.status().borrow()), "the honest peer stays");
    handle.stop().await;
    println!("peak {}", peak());
}

#[tokio::test(start_paused = true)]
async fn f10_memory_while_three_peers_fill_their_connections() {
    if std::env::var_os(CHILD).is_some() {
        return child().await;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("service_faults::memory::f10_memory_while_three_peers_fill_their_connections")
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    let found = text.lines().find_map(|l| l.split_once("peak "));
    let measured: u64 = found.expect("the child says").1.trim().parse().unwrap();
    println!(
        "f10: measured {} MiB resident at most, allowed {} MiB",
        measured >> 20,
        ALLOWED >> 20
    );
    assert!(measured <= ALLOWED);
}
