//! Peer exchange on channel 0x00, as a client and as a polite server (`protocol.md` 2.6).

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use prost::Message;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::addrbook::{AddrBook, NetAddr};
use super::config::Config;
use crate::ids::PeerId;
use crate::wire::proto::p2p::{NetAddress, PexAddrs, PexMessage, PexRequest, pex_message::Sum};

/// Addresses in one message.
const MAX_ADDRESSES: usize = 250;
/// Interval between requests of one peer, after two that are free.
const REQUEST_EVERY: Duration = Duration::from_secs(10);
/// Interval between our requests to one peer, while we want more.
const ASK_EVERY: Duration = Duration::from_secs(60);

/// Breach of the PEX rules that ends the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PexError {
    /// Bytes that do not decode, or say nothing.
    #[error("undecodable message: {0}")]
    Malformed(String),
    /// Addresses that nobody asked for.
    #[error("addresses that were not asked for")]
    Unasked,
    /// More addresses than a message may hold.
    #[error("{0} addresses, where {MAX_ADDRESSES} are the limit")]
    TooMany(usize),
    /// Requests too close together.
    #[error("requests less than {REQUEST_EVERY:?} apart")]
    TooOften,
}

/// The book and what is done with it.
#[derive(Debug)]
pub(super) struct Exchange {
    book: Mutex<AddrBook>,
    path: Option<PathBuf>,
    /// Peers that others are not told of.
    private: Vec<PeerId>,
    pub(super) news: Notify,
}

/// A connected peer as peer exchange sees it.
#[derive(Clone, Debug)]
pub(super) struct Acquaintance {
    pub id: PeerId,
    /// Where the connection comes from, or goes to.
    pub ip: IpAddr,
    /// Where it says it listens, if at the same address; for one that we dialled, where we did.
    pub listens: Option<u16>,
    /// We dialled it: asked for more peers at once, and its address is proven.
    pub dialled: bool,
}

impl Exchange {
    /// With the book of the configured file. One that is no book is reported and replaced; one that
    /// cannot be read at all is reported and not written to.
    pub(super) fn new(config: &Config) -> Arc<Self> {
        let us = config.key.id();
        let (mut path, mut book) = (
            config.address_book.clone(),
            AddrBook::new(us, config.allow_private),
        );
        if let Some(file) = &path {
            match AddrBook::load(file, us, config.allow_private) {
                Ok(loaded) => book = loaded,
                Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                    warn!(
                        "address book {}: {e}; it is replaced by a new one",
                        file.display()
                    );
                    // Changed from the start, so that the broken file is replaced even if nothing
                    // is learnt.
                    book.changed = true;
                }
                Err(e) => {
                    warn!("address book {}: {e}; going on without it", file.display());
                    path = None;
                }
            }
        }
        for file in &config.more_books {
            match AddrBook::load(file, us, config.allow_private) {
                Ok(more) => book.merge(&more),
                Err(e) => warn!("address book {}: {e}", file.display()),
            }
        }
        Arc::new(Exchange {
            book: Mutex::new(book),
            path,
            private: config.private.clone(),
            news: Notify::new(),
        })
    }

    /// Nothing that holds the lock can panic half-way through a change.
    pub(super) fn book(&self) -> MutexGuard<'_, AddrBook> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Speaks with one peer until it breaks the rules, or its channel ends.
    pub(super) async fn speak(
        &self,
        who: Acquaintance,
        mut from: mpsc::Receiver<Bytes>,
        to: mpsc::Sender<Bytes>,
    ) -> Result<(), PexError> {
        self.introduce(&who);
        let mut talk = Talk::new(who.dialled);
        loop {
            if talk.should_ask(Instant::now()) {
                let sum = Some(Sum::PexRequest(PexRequest {}));
                if to
                    .try_send(PexMessage { sum }.encode_to_vec().into())
                    .is_err()
                {
                    talk.not_asked();
                }
            }
            let message = match timeout(ASK_EVERY, from.recv()).await {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(()),
                // Nothing came: it may be time to ask again.
                Err(_) => continue,
            };
            match talk.heard(&message, Instant::now())? {
                Heard::Request => {
                    // Lost when the queue is full: the peer does not read, and may ask again.
                    let _ = to.try_send(self.answer());
                }
                Heard::Addresses(addresses) => self.learn(&addresses, who.ip),
            }
        }
    }

    fn introduce(&self, who: &Acquaintance) {
        let Some(port) = who.listens else {
            return;
        };
        let addr = NetAddr {
            id: who.id,
            ip: who.ip,
            port,
        };
        // Where we dialled, the node has been reached; elsewhere there is only its word.
        if who.dialled {
            self.book().good(addr, now());
        } else {
            self.book().announced(addr, now());
        }
    }

    fn answer(&self) -> Bytes {
        let address = |a: &NetAddr| NetAddress {
            id: a.id.to_string().into(),
            ip: a.ip.to_string().into(),
            port: u32::from(a.port),
        };
        let addrs = self
            .book()
            .selection(MAX_ADDRESSES)
            .iter()
            .filter(|a| !self.private.contains(&a.id))
            .map(address)
            .collect();
        let sum = Some(Sum::PexAddrs(PexAddrs { addrs }));
        PexMessage { sum }.encode_to_vec().into()
    }

    fn learn(&self, addresses: &[NetAddr], source: IpAddr) {
        let mut book = self.book();
        let fresh = addresses
            .iter()
            .filter(|a| book.heard(**a, source, now()))
            .count();
        // The finder, which is woken below, wants the same lock.
        drop(book);
        debug!(%source, "{} addresses, {fresh} of them new", addresses.len());
        self.news.notify_one();
    }

    /// Writes the book if it has changed.
    pub(super) async fn save(&self) {
        let Some(path) = self.path.clone() else {
            return;
        };
        let Some(text) = self.book().to_save() else {
            return;
        };
        let written = tokio::task::spawn_blocking(move || replace(&path, &text)).await;
        if let Ok(Err(e)) = written {
            warn!("address book: {e}");
        }
    }
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    // A kill leaves the old book or the new one, never half of one.
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, text)?;
    std::fs::rename(&temporary, path)
}

pub(super) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}

/// One peer's side of the rules. Pure.
#[derive(Debug)]
struct Talk {
    /// We have asked and not been answered.
    asked: bool,
    ask_at: Option<Instant>,
    requests: u32,
    last_request: Option<Instant>,
}

enum Heard {
    Request,
    Addresses(Vec<NetAddr>),
}

impl Talk {
    fn new(ask: bool) -> Self {
        Talk {
            asked: false,
            ask_at: ask.then(Instant::now),
            requests: 0,
            last_request: None,
        }
    }

    fn should_ask(&mut self, now: Instant) -> bool {
        let due = !self.asked && self.ask_at.is_some_and(|at| now >= at);
        if due {
            self.asked = true;
            self.ask_at = Some(now + ASK_EVERY);
        }
        due
    }

    /// The request found no room: the next one is due in its time, and no answer is expected.
    fn not_asked(&mut self) {
        self.asked = false;
    }

    fn heard(&mut self, message: &[u8], now: Instant) -> Result<Heard, PexError> {
        let malformed = |e: prost::DecodeError| PexError::Malformed(e.to_string());
        match PexMessage::decode(message).map_err(malformed)?.sum {
            None => Err(PexError::Malformed("it says nothing".to_owned())),
            Some(Sum::PexRequest(_)) => {
                self.requests = self.requests.saturating_add(1);
                let last = self.last_request.replace(now);
                // After two that are free, as in CometBFT (`protocol.md` 2.6).
                if self.requests > 2 && last.is_some_and(|last| now - last < REQUEST_EVERY) {
                    return Err(PexError::TooOften);
                }
                Ok(Heard::Request)
            }
            Some(Sum::PexAddrs(list)) => {
                // Taken, so that one request lets in one answer.
                if !std::mem::take(&mut self.asked) {
                    return Err(PexError::Unasked);
                }
                if list.addrs.len() > MAX_ADDRESSES {
                    return Err(PexError::TooMany(list.addrs.len()));
                }
                Ok(Heard::Addresses(
                    list.addrs.iter().filter_map(read).collect(),
                ))
            }
        }
    }
}

fn read(address: &NetAddress) -> Option<NetAddr> {
    let text = |bytes| std::str::from_utf8(bytes).ok();
    Some(NetAddr {
        id: PeerId::from_hex(text(&address.id)?)?,
        ip: text(&address.ip)?.parse().ok()?,
        port: u16::try_from(address.port).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Vec<u8> {
        let sum = Some(Sum::PexRequest(PexRequest {}));
        PexMessage { sum }.encode_to_vec()
    }

    fn addresses(n: usize) -> Vec<u8> {
        let one = NetAddress {
            id: "01".repeat(20).into(),
            ip: "1.2.3.4".into(),
            port: 5,
        };
        let mut addrs = vec![one; n];
        if let Some(bad) = addrs.get_mut(1) {
            bad.port = 70_000;
        }
        let sum = Some(Sum::PexAddrs(PexAddrs { addrs }));
        PexMessage { sum }.encode_to_vec()
    }

    #[tokio::test(start_paused = true)]
    async fn the_rules_of_the_exchange_hold() {
        let start = Instant::now();
        let mut talk = Talk::new(true);
        assert!(talk.should_ask(start) && !talk.should_ask(start + ASK_EVERY));
        let Ok(Heard::Addresses(list)) = talk.heard(&addresses(3), start) else {
            panic!("an answer");
        };
        assert_eq!(list.len(), 2, "one of the three has no possible port");
        assert!(matches!(
            talk.heard(&addresses(1), start),
            Err(PexError::Unasked)
        ));
        assert!(!talk.should_ask(start) && talk.should_ask(start + ASK_EVERY));
        assert!(matches!(
            talk.heard(&addresses(251), start),
            Err(PexError::TooMany(251))
        ));

        let mut talk = Talk::new(true);
        assert!(talk.should_ask(start));
        talk.not_asked(); // it found no room
        let unasked = talk.heard(&addresses(1), start);
        assert!(matches!(unasked, Err(PexError::Unasked)));
        assert!(!talk.should_ask(start) && talk.should_ask(start + ASK_EVERY));

        let mut talk = Talk::new(false);
        assert!(!talk.should_ask(start + ASK_EVERY));
        for at in [0, 1, 11] {
            assert!(
                talk.heard(&request(), start + Duration::from_secs(at))
                    .is_ok()
            );
        }
        let soon = start + Duration::from_secs(20);
        assert!(matches!(
            talk.heard(&request(), soon),
            Err(PexError::TooOften)
        ));
        assert!(matches!(talk.heard(&[], soon), Err(PexError::Malformed(_))));
        assert!(matches!(
            talk.heard(&[0xff; 9], soon),
            Err(PexError::Malformed(_))
        ));
    }

    #[test]
    fn the_wire_form_is_that_of_comet() {
        assert_eq!(request(), [0x0a, 0]);
        let one = addresses(1);
        assert_eq!(one[..4], [0x12, 55, 0x0a, 53]);
        assert_eq!(one[4..6], [0x0a, 40]);
    }
}
