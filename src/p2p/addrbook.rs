//! The address book: where nodes are said to be. Bounded, and sorted into buckets so that no one liar fills it.
//!
//! As in CometBFT and Bitcoin before it: what is only said lies in one of 64 *new* buckets, which one depends on a secret key, on the
//! network of the address and on the network of whoever said it, of which each reaches 8 buckets at most. What we have been
//! connected to lies in one of 16 *tried* buckets, and nothing that is only said moves it from there. A bucket holds 16. Time is
//! passed in, in seconds since 1970.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sha2::{Digest, Sha256};

use super::addr::PeerAddr;
use crate::ids::PeerId;

const NEW_BUCKETS: u64 = 64;
const NEW_PER_SOURCE: u64 = 8;
const TRIED_BUCKETS: u64 = 16;
const TRIED_PER_GROUP: u64 = 4;
const BUCKET: usize = 16;
/// After so many failures in a row an address is no longer passed on, and the first to make room.
const BAD: u32 = 3;
/// The wait after a failure, doubled with each further one …
const RETRY: u64 = 10;
/// … up to this.
const RETRY_MOST: u64 = 3600;

/// A node and where it listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetAddr {
    /// Who.
    pub id: PeerId,
    /// Where.
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

/// What the book knows of one node. Times are in seconds since 1970.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub addr: NetAddr,
    pub source: IpAddr,
    pub tried: bool,
    /// Set when it is put into the book.
    pub bucket: u64,
    pub attempts: u32,
    pub last_try: u64,
    pub last_success: u64,
    pub added: u64,
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

    /// `source` says that a node is there. Tells whether the book has changed by it. What is known of an id is not changed by what
    /// is only said.
    pub fn heard(&mut self, addr: NetAddr, source: IpAddr, now: u64) -> bool {
        if self.known.contains_key(&addr.id) {
            return false;
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
        })
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
            added: before.map_or(now, |k| k.added),
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

    /// It is not to be dialled any more.
    pub fn forget(&mut self, id: PeerId) {
        self.changed |= self.known.remove(&id).is_some();
    }

    /// One to dial now, tried or new with equal chance and then every bucket with equal chance; none of `except`.
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

    /// Addresses to pass on: at most `most`, a quarter of the book or 32 if that is more, none that failed of late.
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

/// Addresses that one operator has at hand: a /16 of IPv4, a /32 of IPv6, everything local together.
fn group(ip: IpAddr) -> Vec<u8> {
    match ip.to_canonical() {
        ip if !is_routable(ip) => vec![0],
        IpAddr::V4(ip) => ip.octets()[..2].to_vec(),
        IpAddr::V6(ip) => ip.octets()[..4].to_vec(),
    }
}

/// The internet routes it.
#[must_use]
pub fn is_routable(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_documentation()
                || ip.is_multicast()
                || a == 0
                || a >= 240
                || (a == 100 && b & 0xc0 == 64)
                || (a == 198 && b & 0xfe == 18)
                || (a, b, c) == (192, 0, 0))
        }
        IpAddr::V6(ip) => {
            let first = ip.segments()[0];
            let documentation = first == 0x2001 && ip.segments()[1] == 0x0db8;
            ip != Ipv6Addr::LOCALHOST && first & 0xe000 == 0x2000 && !documentation
        }
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
        assert!(!book.heard(addr(1, [66, 6, 6, 6]), [66, 6, 6, 6].into(), 2));
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
        for (ip, routable) in [
            ("::ffff:10.0.0.1", false),
            ("fc00::1", false),
            ("2a00:1450::1", true),
            ("::1", false),
        ] {
            assert_eq!(is_routable(ip.parse().unwrap()), routable, "{ip}");
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
        book.forget(one.id);
        assert!(book.is_empty());
    }
}
