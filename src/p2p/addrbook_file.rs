//! The address book's file: our own format, and CometBFT's, which is read wherever it lies.
//!
//! CometBFT's `addrbook.json` has `addrs`, each with the node's own address and that of its source.
//! Its failed attempts are another node's and are not taken over.

use std::fs;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::addr::PeerAddr;
use super::addrbook::{AddrBook, Known, NetAddr};
use crate::ids::PeerId;

/// The largest file that is read. Our largest book is about 200 KB; CometBFT's holds more words for
/// each address.
const MAX_FILE: u64 = 16 << 20;
/// `bucket_type` of an address that a CometBFT node has been connected to.
const COMET_TRIED: u8 = 2;

#[derive(Serialize, Deserialize)]
struct File {
    key: String,
    addresses: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    address: String,
    source: IpAddr,
    tried: bool,
    attempts: u32,
    last_try: u64,
    last_success: u64,
    added: u64,
}

#[derive(Deserialize)]
struct CometFile {
    addrs: Vec<CometLine>,
}

#[derive(Deserialize)]
struct CometLine {
    addr: CometAddr,
    src: Option<CometAddr>,
    #[serde(default)]
    bucket_type: u8,
}

#[derive(Deserialize)]
struct CometAddr {
    id: String,
    ip: IpAddr,
    port: u16,
}

enum AnyFile {
    Ours(File),
    Comet(CometFile),
}

impl AddrBook {
    /// The book in a file, ours or CometBFT's; empty if there is none. Every line passes the same
    /// rules as an address that is heard.
    ///
    /// # Errors
    /// When the file cannot be read (any kind but `InvalidData`), or is no book (`InvalidData`).
    pub fn load(path: &Path, us: PeerId, allow_private: bool) -> io::Result<Self> {
        let mut book = Self::new(us, allow_private);
        let mut text = Vec::new();
        match fs::File::open(path) {
            Ok(file) => file.take(MAX_FILE).read_to_end(&mut text)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(book),
            Err(e) => return Err(e),
        };
        let bad = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        match read(&text).map_err(bad)? {
            AnyFile::Ours(file) => {
                let secret = hex::decode(&file.key).ok().and_then(|k| k.try_into().ok());
                let none = || bad("the key is not 16 bytes of hexadecimal".to_owned());
                book.secret = secret.ok_or_else(none)?;
                for known in file.addresses.iter().filter_map(Line::known) {
                    book.insert(known);
                }
                // Each line has set it, but the file has all of them.
                book.changed = false;
            }
            // The next save writes our own format.
            AnyFile::Comet(file) => {
                for known in file.addrs.iter().filter_map(CometLine::known) {
                    book.insert(known);
                }
            }
        }
        Ok(book)
    }

    /// The file's text, if there is anything new in it since the last time.
    pub fn to_save(&mut self) -> Option<String> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let line = |k: &Known| Line {
            address: k.addr.peer().to_string(),
            source: k.source,
            tried: k.tried,
            attempts: k.attempts,
            last_try: k.last_try,
            last_success: k.last_success,
            added: k.added,
        };
        let mut addresses: Vec<_> = self.known.values().map(line).collect();
        // A map's order is another in each process: the file would differ where the book does not.
        addresses.sort_by(|a, b| a.address.cmp(&b.address));
        let key = hex::encode(self.secret);
        serde_json::to_string_pretty(&File { key, addresses }).ok()
    }
}

/// Either format, told apart by the name of the list.
fn read(text: &[u8]) -> Result<AnyFile, String> {
    let value: serde_json::Value = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    let comet = value.get("addrs").is_some();
    let file = if comet {
        serde_json::from_value(value).map(AnyFile::Comet)
    } else {
        serde_json::from_value(value).map(AnyFile::Ours)
    };
    file.map_err(|e| e.to_string())
}

impl Line {
    fn known(&self) -> Option<Known> {
        let peer: PeerAddr = self.address.parse().ok()?;
        Some(Known {
            addr: NetAddr::from_peer(&peer)?,
            source: self.source,
            tried: self.tried,
            bucket: 0,
            attempts: self.attempts,
            last_try: self.last_try,
            last_success: self.last_success,
            added: self.added,
            // Rivals are not saved: they are hearsay, and come again.
            rivals: Vec::new(),
        })
    }
}

impl CometLine {
    fn known(&self) -> Option<Known> {
        let CometAddr { id, ip, port } = &self.addr;
        Some(Known {
            addr: NetAddr {
                id: PeerId::from_hex(id)?,
                ip: *ip,
                port: *port,
            },
            source: self.src.as_ref().map_or(*ip, |src| src.ip),
            tried: self.bucket_type == COMET_TRIED,
            bucket: 0,
            attempts: 0,
            last_try: 0,
            last_success: 0,
            added: 0,
            rivals: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const US: PeerId = PeerId([0xff; 20]);

    fn somewhere(n: u32) -> NetAddr {
        let [a, b, c, _] = n.wrapping_mul(0x9e37_79b1).to_le_bytes();
        let mut id = [0; 20];
        id[..4].copy_from_slice(&n.to_le_bytes());
        NetAddr {
            id: PeerId(id),
            ip: [20 + a % 60, b, c, 1].into(),
            port: 26656,
        }
    }

    #[test]
    fn the_file_keeps_everything_and_a_broken_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("addrbook.json");
        let mut book = AddrBook::load(&path, US, false).unwrap();
        for n in 0..200 {
            book.heard(somewhere(n), somewhere(n * 3).ip, u64::from(n));
        }
        book.good(somewhere(7), 9);
        let text = book.to_save().unwrap();
        assert_eq!(book.to_save(), None);
        fs::write(&path, &text).unwrap();
        let mut again = AddrBook::load(&path, US, false).unwrap();
        assert_eq!(again.to_save(), None);
        again.changed = true;
        assert_eq!(again.to_save().unwrap(), text);
        for broken in [
            "{}",
            "",
            "[",
            "{\"addrs\": 7}",
            "{\"key\": \"00\", \"addresses\": []}",
        ] {
            fs::write(&path, broken).unwrap();
            let error = AddrBook::load(&path, US, false).unwrap_err();
            assert_eq!(
                error.kind(),
                io::ErrorKind::InvalidData,
                "{broken}: {error}"
            );
        }
    }

    #[test]
    fn cometbfts_book_is_read_and_saved_as_ours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("addrbook.json");
        let text = r#"{
            "key": "a3b1c95a2b0f0a51a32bbd25",
            "addrs": [
              {"addr": {"id": "7b9c39309622bda1f8cd2bade5725e8f09948a1a", "ip": "20.1.1.1", "port": 26656},
               "src": {"id": "0a9c39309622bda1f8cd2bade5725e8f09948a1b", "ip": "20.2.1.1", "port": 26656},
               "buckets": [33], "attempts": 9, "bucket_type": 2,
               "last_attempt": "2025-03-01T10:00:00.5Z", "last_success": "2025-03-01T10:00:00Z",
               "last_ban_time": "0001-01-01T00:00:00Z"},
              {"addr": {"id": "1b9c39309622bda1f8cd2bade5725e8f09948a1a", "ip": "2a00:1450::1", "port": 1},
               "src": null, "buckets": [1, 2], "attempts": 0, "bucket_type": 1},
              {"addr": {"id": "not an id", "ip": "20.1.1.2", "port": 26656}, "src": null, "bucket_type": 1},
              {"addr": {"id": "2b9c39309622bda1f8cd2bade5725e8f09948a1a", "ip": "127.0.0.1", "port": 26656},
               "src": null, "bucket_type": 1}
            ]
        }"#;
        fs::write(&path, text).unwrap();
        let mut book = AddrBook::load(&path, US, false).unwrap();
        // No id, and an address that the internet does not route: two of the four are of use.
        assert_eq!(book.len(), 2);
        assert_eq!(book.known.values().filter(|k| k.tried).count(), 1);
        assert!(book.pick(&HashSet::new(), 1).is_some());
        let ours = book.to_save().expect("it is written in our format");
        fs::write(&path, ours).unwrap();
        let again = AddrBook::load(&path, US, false).unwrap();
        assert_eq!(again.len(), 2);
        // An address known here is not replaced by another book's.
        let mut mine = AddrBook::new(US, false);
        let known = again.known.values().next().unwrap().addr;
        mine.good(NetAddr { port: 9, ..known }, 5);
        mine.merge(&again);
        assert_eq!((mine.len(), mine.known[&known.id].addr.port), (2, 9));
    }
}
