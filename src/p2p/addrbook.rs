//! The address book: where nodes are said to be. Bounded, and sorted into buckets so that no one
//! liar fills it.
//!
//! As in CometBFT and Bitcoin before it: an address that we were only told lies in one of 64 *new*
//! buckets. Which one depends on a secret key, on the network of the address and on the network of
//! its source; addresses from one network of sources reach 8 buckets at most. A node that we have
//! been connected to lies in one of 16 *tried* buckets, and nothing that is only said moves it from
//! there. A bucket holds 16. Time is passed in, in seconds since 1970.
//!
//! An id has one address that is dialled and up to three rivals, each from another network of
//! sources: the first source does not decide. An address that fails gives way to a rival; the word
//! of the node itself, over a connection on which it has proven its id, stands above what others
//! say; and where we have been connected stands above all words until it fails.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use sha2::{Digest, Sha256};

use super::addr::PeerAddr;
use super::place::{is_routable, network};
use crate::ids::PeerId;

const NEW_BUCKETS: u64 = 64;
const NEW_PER_SOURCE: u64 = 8;
const TRIED_BUCKETS: u64 = 16;
const TRIED_PER_GROUP: u64 = 4;
const BUCKET: usize = 16;
/// Further addresses that are remembered of one id.
const RIVALS: usize = 3;
/// Failures in a row after which an address is no longer passed on, and is the first to make room.
const BAD: u32 = 3;
/// The wait after a failure, doubled with each further one …
const RETRY: u64 = 10;
/// … up to this.
const RETRY_MOST: u64 = 3600;

/// A node and where it listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetAddr {
    /// The node's id.
    pub id: PeerId,
    /// Its IP address.
    pub ip: IpAddr,
    /// The TCP port.
    pub port: u16,
}

impl NetAddr {
    /// To dial it.
    #[must_use]
    pub fn peer(&self) -> PeerAddr {
        PeerAddr::Comet {
            id: self.id,
            host: self.ip.to_string(),
            port: self.port,
        }
    }

    /// From an address with an IP in it; a name has no place in the book.
    #[must_use]
    pub fn from_peer(peer: &PeerAddr) -> Option<Self> {
        match peer {
            PeerAddr::Comet { id, host, port } => Some(NetAddr {
                id: *id,
                ip: host.parse().ok()?,
                port: *port,
            }),
            PeerAddr::Plain { .. } => None,
        }
    }
}

/// The book's entry of one node. Times are in seconds since 1970.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub addr: NetAddr,
    pub source: IpAddr,
    pub tried: bool,
    pub bucket: u64,
    pub attempts: u32,
    pub last_try: u64,
    pub last_success: u64,
    pub added: u64,
    /// Other places where it is said to be, the next to be dialled first, each from another network
    /// of sources.
    pub rivals: Vec<(NetAddr, IpAddr)>,
}

impl Known {
    /// Goes to the next rival; the address so far becomes the last of them, unless it is `dropped`.
    fn rotate(&mut self, dropped: bool) -> bool {
        if self.rivals.is_empty() {
            return false;
        }
        let (addr, source) = self.rivals.remove(0);
        let before = std::mem::replace(&mut self.addr, addr);
        let before = (before, std::mem::replace(&mut self.source, source));
        if !dropped {
            self.rivals.push(before);
        }
        self.tried = false;
        true
    }

    /// Notes a further address, at most one from each network of sources.
    fn rival(&mut self, addr: NetAddr, source: IpAddr) -> bool {
        let from = network(source);
        let known = |(a, s): &(NetAddr, IpAddr)| *a == addr || network(*s) == from;
        if self.addr == addr
            || self.rivals.len() >= RIVALS
            || self.rivals.iter().any(known)
            || (network(self.source) == from && !self.tried)
        {
            return false;
        }
        self.rivals.push((addr, source));
        true
    }
}

/// The book.
#[derive(Debug)]
pub struct AddrBook {
    pub(super) secret: [u8; 16],
    us: PeerId,
    allow_private: bool,
    pub(super) known: HashMap<PeerId, Known>,
    /// The file lacks something that is known.
    pub(super) changed: bool,
}

impl AddrBook {
    /// An empty book of the node `us`.
    #[must_use]
    pub fn new(us: PeerId, allow_private: bool) -> Self {
        AddrBook {
            secret: rand::random(),
            us,
            allow_private,
            known: HashMap::new(),
            changed: false,
        }
    }

    /// Addresses in the book.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// `source` says that a node is there. Tells whether the book has changed by it. An address of
    /// a known id becomes a rival of the one that stands in the book.
    pub fn heard(&mut self, addr: NetAddr, source: IpAddr, now: u64) -> bool {
        if addr.port == 0 || !self.is_usable(addr.ip) {
            return false;
        }
        if let Some(known) = self.known.get_mut(&addr.id) {
            return known.rival(addr, source);
        }
        self.insert(Known {
            addr,
            source,
            tried: false,
            bucket: 0,
            attempts: 0,
            last_try: 0,
            last_success: 0,
            added: now,
            rivals: Vec::new(),
        })
    }

    /// The node itself says so, over a connection on which it has proven its id. This corrects
    /// whatever others have said, but not an address where we have been connected, until that
    /// fails.
    pub fn announced(&mut self, addr: NetAddr, now: u64) -> bool {
        let Some(known) = self.known.get(&addr.id) else {
            return self.heard(addr, addr.ip, now);
        };
        if known.addr == addr || (known.tried && known.attempts == 0) {
            return false;
        }
        if addr.port == 0 || !self.is_usable(addr.ip) {
            return false;
        }
        let Some(mut known) = self.known.remove(&addr.id) else {
            return false;
        };
        known.rivals.retain(|(a, _)| *a != addr);
        // It goes in as the next rival, so that the address so far stays as the last of them.
        known.rivals.insert(0, (addr, addr.ip));
        known.rotate(false);
        known.rivals.truncate(RIVALS);
        // The failures were those of the old address.
        (known.attempts, known.last_try) = (0, 0);
        self.insert(known)
    }

    /// The dial of this address has failed. `wrong`: somebody else is there, or nobody who could be
    /// a peer. Goes to the next of the places where the id is said to be, if there is one.
    pub fn failed(&mut self, addr: NetAddr, wrong: bool) {
        let Some(mut known) = self.known.remove(&addr.id) else {
            return;
        };
        let rotated = known.addr == addr && known.rotate(wrong);
        if rotated {
            self.changed = true;
            self.insert(known);
        } else if !wrong || known.addr != addr {
            // The node may be down for now, or the place is not the one in the book any more.
            self.known.insert(addr.id, known);
        } else {
            self.changed = true; // forgotten
        }
    }

    /// We are about to dial it.
    pub fn tried(&mut self, id: PeerId, now: u64) {
        if let Some(known) = self.known.get_mut(&id) {
            known.attempts = known.attempts.saturating_add(1);
            known.last_try = now;
            self.changed = true;
        }
    }

    /// We are connected to it at this address.
    pub fn good(&mut self, addr: NetAddr, now: u64) {
        let before = self.known.remove(&addr.id);
        self.insert(Known {
            addr,
            source: before.as_ref().map_or(addr.ip, |k| k.source),
            tried: true,
            bucket: 0,
            attempts: 0,
            last_try: now,
            last_success: now,
            added: before.as_ref().map_or(now, |k| k.added),
            rivals: before.map_or_else(Vec::new, |k| k.rivals),
        });
    }

    /// Takes over what another book has of nodes that are not known here.
    pub(super) fn merge(&mut self, other: &AddrBook) {
        for known in other.known.values() {
            if !self.known.contains_key(&known.addr.id) {
                self.insert(known.clone());
            }
        }
    }

    /// One to dial now, tried or new with equal chance and then every bucket with equal chance;
    /// none of `except`.
    #[must_use]
    pub fn pick(&self, except: &HashSet<PeerId>, now: u64) -> Option<NetAddr> {
        let due = |k: &&Known| {
            let wait = RETRY
                .checked_shl(k.attempts.min(20))
                .unwrap_or(RETRY_MOST)
                .min(RETRY_MOST);
            (k.attempts == 0 || now >= k.last_try.saturating_add(wait))
                && !except.contains(&k.addr.id)
        };
        // By bucket, not by address: a source that floods the book fills few buckets, and so wins
        // few picks.
        let mut buckets: HashMap<(bool, u64), Vec<&Known>> = HashMap::new();
        for known in self.known.values().filter(due) {
            buckets
                .entry((known.tried, known.bucket))
                .or_default()
                .push(known);
        }
        let wanted: bool = rand::random();
        let of = |tried| {
            let some: Vec<_> = buckets
                .iter()
                .filter(|(k, _)| k.0 == tried)
                .map(|(_, v)| v)
                .collect();
            Some(one_of(one_of(&some)?)?.addr)
        };
        of(wanted).or_else(|| of(!wanted))
    }

    /// Addresses to pass on: at most `most`, a quarter of the book or 32 if that is more, none that
    /// failed of late.
    #[must_use]
    pub fn selection(&self, most: usize) -> Vec<NetAddr> {
        let usable = self.known.values().filter(|k| k.attempts < BAD);
        let mut all: Vec<NetAddr> = usable.map(|k| k.addr).collect();
        let n = (all.len() / 4).max(32).min(all.len()).min(most);
        for i in 0..n {
            let j = rand::random_range(i..all.len());
            all.swap(i, j);
        }
        all.truncate(n);
        all
    }

    pub(super) fn insert(&mut self, mut known: Known) -> bool {
        let NetAddr { id, ip, port } = known.addr;
        if id == self.us || port == 0 || !self.is_usable(ip) {
            return false;
        }
        known.bucket = self.bucket(&known);
        let same = |k: &&Known| (k.tried, k.bucket) == (known.tried, known.bucket);
        if self.known.values().filter(same).count() >= BUCKET {
            // room: the one that fails, or else was good or heard of the longest ago
            let worst = |k: &&Known| (k.attempts < BAD, k.last_success.max(k.added));
            let Some(out) = self.known.values().filter(same).min_by_key(worst) else {
                return false;
            };
            let out = out.addr.id;
            self.known.remove(&out);
        }
        self.known.insert(id, known);
        self.changed = true;
        true
    }

    fn bucket(&self, known: &Known) -> u64 {
        // The secret keeps a source from choosing the buckets that its addresses fall into.
        let address = group(known.addr.ip);
        if known.tried {
            let spread = self.hash(b"t", &[&known.addr.id.0]) % TRIED_PER_GROUP;
            return self.hash(b"T", &[&address, &spread.to_le_bytes()]) % TRIED_BUCKETS;
        }
        let source = group(known.source);
        let spread = self.hash(b"n", &[&address, &source]) % NEW_PER_SOURCE;
        self.hash(b"N", &[&source, &spread.to_le_bytes()]) % NEW_BUCKETS
    }

    fn hash(&self, label: &[u8], parts: &[&[u8]]) -> u64 {
        let mut hasher = Sha256::new();
        hasher.update(self.secret);
        hasher.update(label);
        for part in parts {
            // With its length, so that no two lists of parts are hashed as the same bytes.
            hasher.update([u8::try_from(part.len()).unwrap_or(u8::MAX)]);
            hasher.update(part);
        }
        let digest = hasher.finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        u64::from_le_bytes(first)
    }

    fn is_usable(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        if ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return false;
        }
        self.allow_private || is_routable(ip)
    }
}

fn one_of<T>(list: &[T]) -> Option<&T> {
    if list.is_empty() {
        return None;
    }
    list.get(rand::random_range(0..list.len()))
}

/// The network of an address as bytes; everything that is not routed lies together.
fn group(ip: IpAddr) -> Vec<u8> {
    match network(ip) {
        ip if !is_routable(ip) => vec![0],
        IpAddr::V4(ip) => ip.octets()[..2].to_vec(),
        IpAddr::V6(ip) => ip.octets()[..4].to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(n: u32, ip: [u8; 4]) -> NetAddr {
        let mut id = [0; 20];
        id[..4].copy_from_slice(&n.to_le_bytes());
        NetAddr {
            id: PeerId(id),
            ip: ip.into(),
            port: 26656,
        }
    }

    fn somewhere(n: u32) -> NetAddr {
        let [a, b, c, _] = n.wrapping_mul(0x9e37_79b1).to_le_bytes();
        addr(n, [20 + a % 60, b, c, 1])
    }

    fn book(allow_private: bool) -> AddrBook {
        AddrBook::new(PeerId([0xff; 20]), allow_private)
    }

    #[test]
    fn one_source_fills_little_and_drives_out_nothing_tried() {
        let mut book = book(false);
        for n in 0..100 {
            book.good(somewhere(n), 1);
        }
        let tried = book.len();
        assert!(tried > 60, "{tried}");
        let liar = IpAddr::from([8, 8, 8, 8]);
        for n in 1000..50_000 {
            book.heard(somewhere(n), liar, 2);
        }
        assert!(book.len() <= tried + 8 * BUCKET, "{}", book.len());
        assert_eq!(book.known.values().filter(|k| k.tried).count(), tried);
        // with everybody lying it is still bounded
        for n in 50_000..100_000 {
            book.heard(somewhere(n), somewhere(n * 7).ip, 3);
        }
        assert!(book.len() <= usize::try_from(NEW_BUCKETS + TRIED_BUCKETS).unwrap() * BUCKET);
        assert!(book.selection(250).len() <= 250);
    }

    #[test]
    fn what_is_said_of_a_known_id_changes_nothing() {
        let mut book = book(false);
        book.good(addr(1, [20, 1, 1, 1]), 1);
        book.heard(addr(1, [66, 6, 6, 6]), [66, 6, 6, 6].into(), 2);
        assert_eq!(
            book.pick(&HashSet::new(), 100),
            Some(addr(1, [20, 1, 1, 1]))
        );
        assert!(
            !book.heard(addr(u32::MAX, [20, 1, 1, 1]), [20, 1, 1, 1].into(), 2) || book.len() == 2
        );
        let ourselves = NetAddr {
            id: PeerId([0xff; 20]),
            ..addr(0, [20, 1, 1, 1])
        };
        assert!(!book.heard(ourselves, [20, 1, 1, 1].into(), 2));
    }

    #[test]
    fn a_wrong_first_address_is_corrected() {
        let none = HashSet::new();
        let (wrong, right) = (addr(1, [66, 6, 6, 6]), addr(1, [20, 1, 1, 1]));
        // by others, once the wrong one fails; many liars of one network have one word
        let mut book = book(false);
        for n in 0..100 {
            let lie = addr(1, [66, 6, 6, n]);
            book.heard(if n == 0 { wrong } else { lie }, [66, 6, n, 1].into(), 1);
        }
        assert!(book.heard(right, [30, 1, 1, 1].into(), 2));
        assert!(!book.heard(right, [31, 1, 1, 1].into(), 2), "it is known");
        assert_eq!(book.pick(&none, 3), Some(wrong));
        book.tried(wrong.id, 3);
        book.failed(wrong, false);
        assert_eq!(book.pick(&none, 1000), Some(right));
        book.good(right, 1000);
        // what others say of where we have been changes nothing
        book.heard(wrong, [67, 1, 1, 1].into(), 1001);
        book.announced(wrong, 1001);
        assert_eq!(book.pick(&none, 1002), Some(right));
        // by the node itself, at once; once the right one fails, too
        book.tried(right.id, 2000);
        assert!(book.announced(addr(1, [20, 2, 2, 2]), 2001));
        assert_eq!(book.pick(&none, 2001), Some(addr(1, [20, 2, 2, 2])));
        let mut book = AddrBook::new(PeerId([0xff; 20]), false);
        book.heard(wrong, wrong.ip, 1);
        assert!(book.announced(right, 2));
        assert_eq!(book.pick(&none, 2), Some(right));
        // somebody else is there: that place is forgotten, not the id
        book.failed(right, true);
        assert_eq!(book.pick(&none, 3), Some(wrong));
        assert_eq!(book.known[&wrong.id].rivals, []);
    }

    #[test]
    fn private_addresses_need_leave_and_some_never_get_it() {
        let source = [20, 1, 1, 1].into();
        for ip in [
            [127, 0, 0, 1],
            [10, 1, 2, 3],
            [192, 168, 1, 1],
            [100, 64, 0, 1],
            [169, 254, 1, 1],
        ] {
            assert!(!book(false).heard(addr(1, ip), source, 1), "{ip:?}");
            assert!(book(true).heard(addr(1, ip), source, 1), "{ip:?}");
        }
        for ip in ["0.0.0.0", "255.255.255.255", "224.0.0.1", "::", "ff02::1"] {
            let ip: IpAddr = ip.parse().unwrap();
            let addr = NetAddr {
                ip,
                ..addr(1, [0; 4])
            };
            assert!(!book(true).heard(addr, source, 1), "{ip}");
        }
        let no_port = NetAddr {
            port: 0,
            ..addr(1, [20, 1, 1, 1])
        };
        assert!(!book(true).heard(no_port, source, 1));
    }

    #[test]
    fn failures_wait_longer_each_time_and_are_not_passed_on() {
        let mut book = book(false);
        let one = addr(1, [20, 1, 1, 1]);
        book.heard(one, one.ip, 0);
        let none = HashSet::new();
        let mut now = 1000;
        for wait in [20, 40, 80] {
            assert_eq!(book.pick(&none, now), Some(one));
            assert_eq!(book.pick(&HashSet::from([one.id]), now), None);
            book.tried(one.id, now);
            assert_eq!(book.pick(&none, now + wait - 1), None);
            now += wait;
        }
        assert!(book.selection(250).is_empty());
        book.good(one, now);
        assert_eq!(book.selection(250), vec![one]);
        book.failed(one, true);
        assert!(book.is_empty());
    }
}
