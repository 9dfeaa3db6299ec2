//! NodeInfo: what two nodes tell each other first, and what must fit (`protocol.md` 2.1–2.3).

use std::net::IpAddr;

use prost::Message;

use crate::ids::PeerId;
use crate::wire::proto::p2p::{DefaultNodeInfo, DefaultNodeInfoOther, ProtocolVersion};

/// The longest NodeInfo that anybody reads.
pub const MAX_NODE_INFO: usize = 10_240;
/// The p2p protocol of every release up to v0.40. From v1.0 on it is 9, which Go does not compare
/// and we do.
pub const P2P_VERSION: u64 = 8;
/// The block protocol, which must be equal.
pub const BLOCK_VERSION: u64 = 11;
/// The version of length-prefixed framing that we speak.
const FRAMING_VERSION: u32 = 1;
const MAX_CHANNELS: usize = 16;

/// A node's account of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeInfo {
    /// CometBFT's fields.
    pub wire: DefaultNodeInfo,
    /// The node can speak length-prefixed frames instead of MConnection (`design.md` 8). CometBFT
    /// skips the field.
    pub length_prefixed: bool,
}

/// Fields of ours beside CometBFT's, numbered far from theirs. Go's decoder skips what it does not
/// know.
#[derive(Clone, PartialEq, Message)]
struct Extension {
    #[prost(uint32, tag = "4001")]
    length_prefixed: u32,
}

/// Why a peer's NodeInfo is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeInfoError {
    /// Not a NodeInfo.
    #[error("undecodable: {0}")]
    Undecodable(String),
    /// A field breaks a rule.
    #[error("invalid: {0}")]
    Invalid(String),
    /// The id it names is not the one it has proven.
    #[error("names the id {named:?} but has proven {proven}")]
    WrongId {
        /// The id that its NodeInfo names.
        named: String,
        /// The id of the key that it has proven.
        proven: PeerId,
    },
    /// It is us.
    #[error("it is this node itself")]
    Ourselves,
    /// Another block protocol.
    #[error("block protocol {theirs}, where {ours} is needed")]
    BlockVersion {
        /// The peer's.
        theirs: u64,
        /// Ours.
        ours: u64,
    },
    /// Another chain.
    #[error("chain {theirs:?}, where {ours:?} is needed")]
    Network {
        /// The peer's.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// It speaks on none of our channels.
    #[error("no common channel: it has {0}")]
    NoCommonChannel(String),
    /// A v1.0 node, which the rules in force do not allow.
    #[error(
        "p2p protocol {p2p}: software {version:?} is of the v1.0 line, which is not allowed here"
    )]
    Version1 {
        /// The peer's p2p protocol.
        p2p: u64,
        /// The peer's software.
        version: String,
    },
}

impl NodeInfo {
    /// Ours. `listen_addr` is `tcp://HOST:PORT`, and a node that does not listen says
    /// `tcp://0.0.0.0:0`: an empty one is refused by every peer.
    #[must_use]
    pub fn new(
        id: PeerId,
        chain_id: &str,
        moniker: &str,
        listen_addr: &str,
        channels: &[u8],
    ) -> Self {
        let text = |s: &str| s.as_bytes().to_vec().into();
        NodeInfo {
            wire: DefaultNodeInfo {
                protocol_version: Some(ProtocolVersion {
                    p2p: P2P_VERSION,
                    block: BLOCK_VERSION,
                    // Nobody compares it (`protocol.md` 2.3).
                    app: 0,
                }),
                default_node_id: text(&id.to_string()),
                listen_addr: text(listen_addr),
                network: text(chain_id),
                version: text(concat!("blocksync-", env!("CARGO_PKG_VERSION"))),
                channels: channels.to_vec().into(),
                moniker: text(moniker),
                other: Some(DefaultNodeInfoOther {
                    tx_index: text("off"),
                    rpc_address: text(""),
                }),
            },
            length_prefixed: false,
        }
    }

    /// As it goes over the wire, without the length before it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.wire.encode_to_vec();
        if self.length_prefixed {
            // Two encodings in a row are read as one message with the fields of both.
            bytes.extend(
                Extension {
                    length_prefixed: FRAMING_VERSION,
                }
                .encode_to_vec(),
            );
        }
        bytes
    }

    /// Reads one; nothing is checked yet.
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, NodeInfoError> {
        let undecodable = |e: prost::DecodeError| NodeInfoError::Undecodable(e.to_string());
        Ok(NodeInfo {
            wire: DefaultNodeInfo::decode(bytes).map_err(undecodable)?,
            // A field of that number in another form is none of ours: such a node gets packets.
            length_prefixed: Extension::decode(bytes)
                .is_ok_and(|e| e.length_prefixed == FRAMING_VERSION),
        })
    }

    /// The channels.
    #[must_use]
    pub fn channels(&self) -> &[u8] {
        &self.wire.channels
    }

    /// The software's version, for people.
    #[must_use]
    pub fn version(&self) -> String {
        show(&self.wire.version)
    }

    /// The moniker, for people.
    #[must_use]
    pub fn moniker(&self) -> String {
        show(&self.wire.moniker)
    }

    /// Checks what Go's `Validate` does, but for one thing: a host name in the listen address is
    /// not resolved, only read.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), NodeInfoError> {
        let invalid = |why: String| Err(NodeInfoError::Invalid(why));
        if let Err(why) = self.net_address() {
            return invalid(format!(
                "listen address {:?}: {why}",
                show(&self.wire.listen_addr)
            ));
        }
        if !self.wire.version.is_empty() && !is_text(&self.wire.version) {
            return invalid(format!("version {:?}", show(&self.wire.version)));
        }
        let channels = self.channels();
        if channels.len() > MAX_CHANNELS {
            return invalid(format!(
                "{} channels, where {MAX_CHANNELS} are the limit",
                channels.len()
            ));
        }
        // Each is looked for in all before it, which costs little with sixteen at most.
        if let Some((_, twice)) =
            (channels.iter().enumerate()).find(|(i, c)| channels[..*i].contains(c))
        {
            return invalid(format!("channel {twice:#04x} twice"));
        }
        if !is_text(&self.wire.moniker) {
            return invalid(format!("moniker {:?}", self.moniker()));
        }
        let other = self.wire.other.clone().unwrap_or_default();
        if ![&b""[..], b"on", b"off"].contains(&&other.tx_index[..]) {
            return invalid(format!("tx_index {:?}", show(&other.tx_index)));
        }
        if !other.rpc_address.is_empty() && !is_text(&other.rpc_address) {
            return invalid(format!("rpc_address {:?}", show(&other.rpc_address)));
        }
        Ok(())
    }

    /// All checks on a peer, in CometBFT's order: valid, the id it has proven, not us, compatible;
    /// and at last, which Go does not ask, not of the v1.0 line unless `allow_v1`.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn check(
        &self,
        theirs: &NodeInfo,
        proven: PeerId,
        allow_v1: bool,
    ) -> Result<(), NodeInfoError> {
        theirs.validate()?;
        // As text, like Go: an id in capital letters is refused (`protocol.md` 2.3).
        if theirs.wire.default_node_id != proven.to_string().as_bytes() {
            return Err(NodeInfoError::WrongId {
                named: show(&theirs.wire.default_node_id),
                proven,
            });
        }
        if theirs.wire.default_node_id == self.wire.default_node_id {
            return Err(NodeInfoError::Ourselves);
        }
        self.compatible(theirs)?;
        let p2p = theirs.wire.protocol_version.unwrap_or_default().p2p;
        if p2p > P2P_VERSION && !allow_v1 {
            return Err(NodeInfoError::Version1 {
                p2p,
                version: theirs.version(),
            });
        }
        Ok(())
    }

    fn compatible(&self, theirs: &NodeInfo) -> Result<(), NodeInfoError> {
        // Versions of p2p and application are not compared (`protocol.md` 2.3).
        let block = |info: &NodeInfo| info.wire.protocol_version.unwrap_or_default().block;
        if block(self) != block(theirs) {
            return Err(NodeInfoError::BlockVersion {
                theirs: block(theirs),
                ours: block(self),
            });
        }
        if self.wire.network != theirs.wire.network {
            return Err(NodeInfoError::Network {
                theirs: show(&theirs.wire.network),
                ours: show(&self.wire.network),
            });
        }
        let ours = self.channels();
        // A side without channels does not ask for a common one.
        if !ours.is_empty() && !ours.iter().any(|c| theirs.channels().contains(c)) {
            return Err(NodeInfoError::NoCommonChannel(hex::encode(
                theirs.channels(),
            )));
        }
        Ok(())
    }

    /// Host and port that the peer says it listens at.
    ///
    /// # Errors
    /// The mistake in the id, or in the address.
    pub fn net_address(&self) -> Result<(String, u16), &'static str> {
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| "not text");
        let id = text(&self.wire.default_node_id)?;
        let address = text(&self.wire.listen_addr)?;
        // Go drops the scheme and whatever follows a second one.
        let address = address.split("://").nth(1).unwrap_or(address);
        if id.contains('@') || address.contains('@') {
            return Err("more than one id");
        }
        PeerId::from_hex(id).ok_or("the id is not 20 bytes of hexadecimal")?;
        host_and_port(address)
    }
}

/// Go's `net.SplitHostPort`, a number for the port, and an IP address or a possible name for the
/// host.
pub(super) fn host_and_port(address: &str) -> Result<(String, u16), &'static str> {
    // From the right: an IPv6 address in brackets has colons, too.
    let (host, port) = address.rsplit_once(':').ok_or("no port")?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').ok_or("bracket not closed")?,
        None if host.contains(':') => return Err("too many colons"),
        None => host,
    };
    if host.is_empty() {
        return Err("no host");
    }
    let is_name = |h: &str| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        // No name in the DNS is longer.
        h.len() <= 253 && h.bytes().all(fits)
    };
    if host.parse::<IpAddr>().is_err() && !is_name(host) {
        return Err("the host is neither an IP address nor a name");
    }
    // Checked first: Rust's parser accepts a plus sign.
    if !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err("the port is no number");
    }
    let port = port.parse().map_err(|_| "the port is not 0 to 65535")?;
    Ok((host.to_owned(), port))
}

/// Printable ASCII, and not all blanks.
fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| (32..=126).contains(b)) && bytes.iter().any(|b| *b != b' ')
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::p2p::stream::read_length;
    use crate::p2p::vectors;

    fn info(case: &serde_json::Value, name: &str) -> NodeInfo {
        let bytes = vectors::hex_field(case, name);
        let (head, length) = read_length(&bytes, MAX_NODE_INFO).unwrap().unwrap();
        assert_eq!(head + length, bytes.len());
        let info = NodeInfo::decode(&bytes[head..]).unwrap();
        assert_eq!(info.encode(), bytes[head..], "encodes as Go does");
        info
    }

    fn stage(error: &NodeInfoError) -> &'static str {
        match error {
            NodeInfoError::Undecodable(_) | NodeInfoError::Invalid(_) => "validate",
            NodeInfoError::WrongId { .. } => "id",
            NodeInfoError::Ourselves => "self",
            _ => "compatible",
        }
    }

    #[test]
    fn verdicts_are_those_of_comet() {
        for case in vectors::group("node_info") {
            let name = case["name"].as_str().unwrap();
            let proven = PeerId::from_hex(case["secret_connection_id"].as_str().unwrap()).unwrap();
            let verdict = info(&case, "ours").check(&info(&case, "theirs"), proven, true);
            assert_eq!(
                verdict.is_ok(),
                case["ok"].as_bool().unwrap(),
                "{name}: {verdict:?}"
            );
            if let Err(e) = verdict {
                assert_eq!(stage(&e), case["stage"].as_str().unwrap(), "{name}: {e}");
            }
        }
    }

    fn node(id: u8) -> NodeInfo {
        NodeInfo::new(
            PeerId([id; 20]),
            "chain",
            "node",
            "tcp://0.0.0.0:0",
            &[0x40],
        )
    }

    #[test]
    fn ours_is_valid_and_the_extension_survives_only_where_it_is_known() {
        let mut ours = node(1);
        ours.validate().unwrap();
        assert!(!NodeInfo::decode(&ours.encode()).unwrap().length_prefixed);
        ours.length_prefixed = true;
        assert_eq!(NodeInfo::decode(&ours.encode()).unwrap(), ours);
        let go = DefaultNodeInfo::decode(&ours.encode()[..]).unwrap();
        assert_eq!(go, ours.wire);
    }

    #[test]
    fn a_v1_peer_is_named_and_refused_unless_allowed() {
        let mut theirs = node(2);
        theirs.wire.protocol_version.as_mut().unwrap().p2p = 9;
        theirs.wire.version = "1.0.1".into();
        assert_eq!(node(1).check(&theirs, PeerId([2; 20]), true), Ok(()));
        let error = node(1).check(&theirs, PeerId([2; 20]), false).unwrap_err();
        assert!(error.to_string().contains("1.0.1"), "{error}");
    }
}
