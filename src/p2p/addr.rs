//! Addresses as people write them.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use super::node_info::host_and_port;
use crate::ids::PeerId;

/// A peer to dial: `ID@HOST:PORT` for CometBFT's p2p, `plain://HOST:PORT` for length-prefixed
/// messages without authentication.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PeerAddr {
    /// CometBFT's p2p; only the node with this id will do.
    Comet {
        /// The id that the peer must prove.
        id: PeerId,
        /// A name or an IP address.
        host: String,
        /// The TCP port.
        port: u16,
    },
    /// Length-prefixed messages, no authentication.
    Plain {
        /// A name or an IP address.
        host: String,
        /// The TCP port.
        port: u16,
    },
}

/// An address that is none, with what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("address {text:?}: {why}")]
pub struct AddrError {
    text: String,
    why: String,
}

fn error<T>(text: &str, why: impl Into<String>) -> Result<T, AddrError> {
    Err(AddrError {
        text: text.to_owned(),
        why: why.into(),
    })
}

impl PeerAddr {
    /// The peer's id: the one it must prove, or the one that is made from its address.
    #[must_use]
    pub fn id(&self) -> PeerId {
        match self {
            PeerAddr::Comet { id, .. } => *id,
            PeerAddr::Plain { .. } => dialed_id(&self.host_port()),
        }
    }

    /// `HOST:PORT`, IPv6 addresses in brackets.
    #[must_use]
    pub fn host_port(&self) -> String {
        let (PeerAddr::Comet { host, port, .. } | PeerAddr::Plain { host, port }) = self;
        join(host, *port)
    }

    /// Several, as networks publish them: see [`entries`].
    ///
    /// # Errors
    /// The first one that is no address.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, AddrError> {
        entries(text).map(str::parse).collect()
    }
}

/// The entries of a list that has commas, white space or both between them. Empty entries are
/// skipped.
pub fn entries(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c == ',' || c.is_whitespace())
        .filter(|entry| !entry.is_empty())
}

fn join(host: &str, port: u16) -> String {
    // An IPv6 address: `host_and_port` lets no other host have a colon.
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

impl FromStr for PeerAddr {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        let text = text.trim();
        let (plain, rest) = match text.split_once("://") {
            Some(("plain", rest)) => (true, rest),
            // CometBFT, too, takes addresses with a scheme before them, and drops it.
            Some(("tcp" | "comet", rest)) => (false, rest),
            Some((scheme, _)) => {
                return error(
                    text,
                    format!("unknown scheme {scheme:?}; use ID@HOST:PORT or plain://HOST:PORT"),
                );
            }
            None => (false, text),
        };
        let (id, address) = match rest.split_once('@') {
            Some((id, address)) => (Some(id), address),
            None => (None, rest),
        };
        let (host, port) = match host_and_port(address) {
            // `host_and_port` allows it: a NodeInfo has port 0 where its node does not listen.
            Ok((_, 0)) => return error(text, "port 0 cannot be dialled"),
            Ok(it) => it,
            Err(why) => return error(text, why),
        };
        match (plain, id) {
            (true, None) => Ok(PeerAddr::Plain { host, port }),
            (true, Some(_)) => error(text, "plain:// proves no id, so none may be given"),
            (false, None) => error(
                text,
                "no id; use ID@HOST:PORT with the 40 hex digits that the node shows as its id, or plain://HOST:PORT",
            ),
            (false, Some(id)) => match PeerId::from_hex(id) {
                Some(id) => Ok(PeerAddr::Comet { id, host, port }),
                None => error(
                    text,
                    format!("{id:?} is no node id: 40 hex digits are needed"),
                ),
            },
        }
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerAddr::Comet { id, .. } => write!(f, "{id}@{}", self.host_port()),
            PeerAddr::Plain { .. } => write!(f, "plain://{}", self.host_port()),
        }
    }
}

/// Where to listen: `comet://IP:PORT` or `plain://IP:PORT`. Port 0 lets the system choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenAddr {
    /// Length-prefixed messages without authentication; otherwise CometBFT's p2p.
    pub plain: bool,
    /// The address.
    pub address: SocketAddr,
}

impl FromStr for ListenAddr {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        let text = text.trim();
        let (plain, rest) = match text.split_once("://") {
            Some(("plain", rest)) => (true, rest),
            Some(("comet" | "tcp", rest)) => (false, rest),
            Some((scheme, _)) => {
                return error(
                    text,
                    format!("unknown scheme {scheme:?}; use comet://IP:PORT or plain://IP:PORT"),
                );
            }
            None => return error(text, "no scheme; use comet://IP:PORT or plain://IP:PORT"),
        };
        match rest.parse() {
            Ok(address) => Ok(ListenAddr { plain, address }),
            Err(_) => error(
                text,
                "not an IP address and a port, such as 0.0.0.0:26656 or [::]:26656",
            ),
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.plain { "plain" } else { "comet" };
        write!(f, "{scheme}://{}", self.address)
    }
}

/// The id of a peer that was dialled and proves none: from its address, so that it is the same
/// after a reconnect.
#[must_use]
pub fn dialed_id(address: &str) -> PeerId {
    let digest = Sha256::digest(address.as_bytes());
    let mut id = [0; 20];
    id.copy_from_slice(&digest[..20]);
    PeerId(id)
}

/// The id of a peer that came to us and proves none: a random one.
#[must_use]
pub fn accepted_id() -> PeerId {
    PeerId(rand::random())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "7b9c39309622bda1f8cd2bade5725e8f09948a1a";

    #[test]
    fn addresses_print_as_they_are_read() {
        for text in [
            format!("{ID}@1.2.3.4:26656"),
            format!("{ID}@node-1.example.com:1"),
            format!("{ID}@[::1]:26656"),
            "plain://localhost:9".to_owned(),
        ] {
            assert_eq!(text.parse::<PeerAddr>().unwrap().to_string(), text);
        }
        let tcp: PeerAddr = format!(" tcp://{}@h:1 ", ID.to_uppercase())
            .parse()
            .unwrap();
        assert_eq!(tcp.id().to_string(), ID);
        assert_eq!(
            PeerAddr::parse_list(&format!("{ID}@a:1, ,plain://b:2,"))
                .unwrap()
                .len(),
            2
        );
        let published = format!("tcp://{ID}@a:1,\n  {ID}@b:2 plain://c:3,,\r\n,");
        let found = PeerAddr::parse_list(&published).unwrap();
        let found: Vec<_> = found.iter().map(PeerAddr::host_port).collect();
        assert_eq!(found, ["a:1", "b:2", "c:3"]);
        assert_eq!(PeerAddr::parse_list(" ,\n").unwrap(), []);
        assert!(PeerAddr::parse_list(&format!("{ID}@a:1,{ID}")).is_err());
        for text in ["comet://0.0.0.0:26656", "plain://[::1]:0"] {
            assert_eq!(text.parse::<ListenAddr>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn mistakes_are_explained() {
        for (text, why) in [
            ("1.2.3.4:26656", "no id"),
            ("7b9c@1.2.3.4:26656", "no node id"),
            (&format!("{ID}@1.2.3.4")[..], "no port"),
            (&format!("{ID}@1.2.3.4:0")[..], "port 0"),
            (&format!("{ID}@1.2.3.4:70000")[..], "65535"),
            (&format!("{ID}@::1:26656")[..], "colons"),
            (&format!("{ID}@bad host:1")[..], "neither"),
            (&format!("plain://{ID}@h:1")[..], "no id"),
            ("http://h:1", "unknown scheme"),
            ("", "no port"),
        ] {
            let error = text.parse::<PeerAddr>().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        for text in [
            "0.0.0.0:1",
            "comet://localhost:1",
            "comet://1.2.3.4",
            "ftp://1.2.3.4:1",
        ] {
            assert!(text.parse::<ListenAddr>().is_err());
        }
    }

    #[test]
    fn a_plain_peer_keeps_its_id() {
        let a: PeerAddr = "plain://h:1".parse().unwrap();
        assert_eq!(a.id(), "plain://h:1".parse::<PeerAddr>().unwrap().id());
        assert_ne!(a.id(), "plain://h:2".parse::<PeerAddr>().unwrap().id());
    }
}
