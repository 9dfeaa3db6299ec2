//! Allocations that foreign bytes and their senders can cause: rows P25, P26, P27 and P35 of
//! `faults.md` (b), counted by the allocator.
#![allow(unsafe_code)] // an allocator that counts cannot be written without

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use blocksync::fault::CloseReason;
use blocksync::ids::{ConnId, Height, PeerId};
use blocksync::pool::{Effect, Input, Pool, PoolConfig, Tick};
use blocksync::wire::codec::Codec;
use blocksync::wire::{BlockResponse, Limits, Message, decode, guard};
use bytes::{Bytes, BytesMut};
use tokio_util::codec::Decoder;

struct Counting;

thread_local! {
    /// Bytes that this thread holds, and the most it has held since `peak_of` began.
    static HELD: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

fn count(change: impl Fn(usize) -> usize) {
    // A thread that is being torn down has no counter any more.
    let _ = HELD.try_with(|held| {
        let now = change(held.get().0);
        held.set((now, held.get().1.max(now)));
    });
}

// SAFETY: hands every call to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(|held| held + layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(|held| held.saturating_sub(layout.size()));
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that `work` holds at one time, above what was held before.
fn peak_of<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = HELD.get().0;
    HELD.set((before, before));
    let result = work();
    (HELD.get().1 - before, result)
}

fn varint(value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    blocksync::varint::put(value as u64, &mut out);
    out
}

fn field(number: u8, body: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2][..], &varint(body.len()), body].concat()
}

/// A response with a block of these fields, after a header of height 7.
fn message(block: &[u8]) -> Bytes {
    let response = BlockResponse {
        block: [field(1, &[0x18, 0x07]), block.to_vec()].concat().into(),
        ..BlockResponse::default()
    };
    response.encode()
}

#[test]
fn p25_garbage_costs_next_to_nothing() {
    let limits = Limits::default();
    let mut random = 0x9e37_79b9_u32;
    let mut noise = || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 24) as u8
    };
    let mut most = 0;
    for round in 0..2_000 {
        let mut bytes: Vec<u8> = (0..round % 300).map(|_| noise()).collect();
        if round % 2 == 0 {
            bytes = message(&bytes).to_vec();
        }
        let bytes = Bytes::from(bytes);
        let (peak, _) = peak_of(|| {
            let _ = guard::peek(&bytes);
            let _ = guard::admit(&bytes, &limits);
            let _ = Message::decode(&bytes);
            let _ = Message::decode_small(&bytes);
            let _ = decode::fetched(&bytes, &limits);
        });
        assert!(peak <= 4096, "{peak} bytes for {bytes:?}");
        most = most.max(peak);
    }
    println!("P25: measured {most} bytes allowed 4096");
}

#[test]
fn p26_a_length_prefix_allocates_nothing() {
    for length in [104_857_606, u32::MAX as usize, 70_000] {
        let mut stream = BytesMut::from(&[&varint(length)[..], &[0x2a]].concat()[..]);
        let (peak, refused) = peak_of(|| Codec::new(Limits::default()).decode(&mut stream));
        assert!(refused.is_err());
        assert!(peak < 4096, "{peak}");
    }
    // One that is legal allocates its first step, however long it says the message will be.
    let mut stream = BytesMut::from(&[&varint(100_000_000)[..], &[0x1a]].concat()[..]);
    let mut codec = Codec::new(Limits::default());
    let (peak, _) = peak_of(|| codec.decode(&mut stream));
    println!("P26, a legal prefix: measured {peak} bytes allowed 65536");
    assert!(peak <= 65_536, "{peak}");
}

#[test]
fn p26_a_million_signatures_are_refused_without_memory() {
    let limits = Limits::default();
    let commit = field(4, &[0x22, 0x02, 0x08, 0x01].repeat(1_000_000));
    for bytes in [
        message(&commit),
        message(&field(4, &[0x22, 0x00].repeat(1_000_000))),
    ] {
        let (peak, refused) = peak_of(|| guard::admit(&bytes, &limits));
        assert!(refused.is_err());
        assert!(peak < 1024, "{peak}");
        let (peak, refused) = peak_of(|| decode::fetched(&bytes, &limits));
        assert!(refused.is_err());
        // The block is copied out of its message only where that is a quarter larger.
        println!("P26, a million signatures: measured {peak} bytes allowed 65536");
        assert!(peak < 65_536, "{peak}");
    }
}

#[test]
fn p27_lists_of_little_items_are_bounded() {
    let mut tight = Limits::default();
    tight.decoded_floor = 1 << 16;
    let empty_txs = field(2, &[0x0a, 0x00].repeat(100_000));
    let bytes = message(&empty_txs);
    let (peak, refused) = peak_of(|| decode::fetched(&bytes, &tight));
    // Transactions stay in the block's bytes and take no memory of their own: such a block is
    // refused for other reasons.
    assert!(!refused.unwrap_err().to_string().contains("transactions"));
    assert!(
        peak <= 4 * bytes.len() + (1 << 16),
        "{peak} for {}",
        bytes.len()
    );

    // Evidence and validators in it.
    let validator = field(3, &field(2, &field(1, &[1; 32])));
    let attack = field(1, &field(2, &validator.repeat(10_000)));
    let bytes = message(&field(3, &attack));
    let (peak, refused) = peak_of(|| decode::fetched(&bytes, &tight));
    assert!(refused.is_err());
    assert!(peak <= 6 * bytes.len(), "{peak} for {}", bytes.len());
    let vote = field(6, &[1; 20]);
    let votes = field(1, &[field(1, &vote), field(2, &vote)].concat());
    let bytes = message(&field(3, &field(1, &votes).repeat(10_000)));
    let (peak, refused) = peak_of(|| decode::fetched(&bytes, &tight));
    assert!(refused.unwrap_err().to_string().contains("evidence"));
    assert!(peak <= 6 * bytes.len(), "{peak} for {}", bytes.len());
}

#[test]
fn p27_absent_signatures_are_the_largest_growth_and_bounded() {
    let mut tight = Limits::default();
    tight.decoded_floor = 0;
    let absent = [0x22, 0x02, 0x08, 0x01];
    let bytes = message(&field(4, &absent.repeat(10_000)));
    let (peak, refused) = peak_of(|| decode::fetched(&bytes, &tight));
    assert!(refused.is_err());
    let allowed = 4 * bytes.len() + 4096;
    println!("P27: measured {peak} bytes allowed {allowed}");
    assert!(peak <= allowed, "{peak} for {}", bytes.len());
    let (peak, _) = peak_of(|| decode::fetched(&bytes, &Limits::default()));
    assert!(peak <= 2 << 20, "10 000 signatures are a megabyte: {peak}");
}

/// The n-th of many peers tells the pool something.
fn from_peer(pool: &mut Pool<()>, n: u64, now: u64, input: impl Fn(ConnId, PeerId) -> Input<()>) {
    let mut peer = [0; 20];
    peer[..8].copy_from_slice(&n.to_be_bytes());
    let mut out = Vec::new();
    pool.handle(input(ConnId(n), PeerId(peer)), Tick(now), &mut out);
}

const PEERS: u64 = 10_000;

fn status(height: u64) -> impl Fn(ConnId, PeerId) -> Input<()> {
    move |conn, _| Input::Status {
        conn,
        base: Height::new(1),
        height: Height::new(height),
        max_range: 1,
    }
}

/// Ten thousand peers that have all there is, and the bytes that were held before they came.
fn crowd(window: u32) -> (Pool<()>, usize) {
    let mut config = PoolConfig::default();
    config.window = window;
    let mut pool = Pool::new(config, Height::ZERO, Height::new(1), Tick(0));
    let before = HELD.get().0;
    for n in 0..PEERS {
        from_peer(&mut pool, n, n, |conn, peer| Input::Up { conn, peer });
        from_peer(&mut pool, n, n, status(1 << 20));
    }
    (pool, before)
}

#[test]
fn p35_ten_thousand_peers_take_two_kibibytes_each() {
    let (mut pool, before) = crowd(PoolConfig::default().window);
    let each = (HELD.get().0 - before) / PEERS as usize;
    println!("P35, with a window of as many heights: measured {each} bytes a peer allowed 2048");
    assert!(each <= 2048);
    // A churn of statuses leaves nothing behind.
    let settled = HELD.get().0;
    for round in 0..5u64 {
        for n in 0..PEERS {
            from_peer(&mut pool, n, PEERS + n, status((1 << 20) + round * n));
        }
    }
    let grown = HELD.get().0.saturating_sub(settled) / PEERS as usize;
    println!("P35, five statuses more of each: measured {grown} bytes a peer more allowed 256");
    assert!(grown <= 256);
}

#[test]
fn p35_those_who_go_leave_nothing() {
    let (mut pool, before) = crowd(16);
    let mut out = Vec::new();
    let (conn, peer) = (ConnId(PEERS), PeerId([0xff; 20]));
    pool.handle(Input::Up { conn, peer }, Tick(3 * PEERS), &mut out);
    let refused = |e: &Effect<()>| {
        let Effect::Drop { reason, .. } = e else {
            return false;
        };
        *reason == CloseReason::TooMany
    };
    assert!(
        out.iter().any(refused),
        "one more than there may be: {out:?}"
    );
    drop(out);
    for n in 0..PEERS {
        from_peer(&mut pool, n, 3 * PEERS, |conn, _| Input::Down { conn });
    }
    let left = HELD.get().0.saturating_sub(before) / PEERS as usize;
    println!("P35, all gone: measured {left} bytes a peer left allowed 64");
    assert!(left <= 64);
}
