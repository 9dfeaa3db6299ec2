//! Names of things that every layer speaks of: heights, hashes, addresses, block ids, peers.

use std::fmt;

/// A block's height. The first block of a chain has its genesis' initial height, 1 or more; 0 is
/// "nothing yet".
///
/// Never above `i64::MAX`, which is what the wire can carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Height(u64);

impl Height {
    /// No block yet.
    pub const ZERO: Height = Height(0);
    /// The largest height that the wire can carry, 2^63−1.
    pub const MAX: Height = Height(i64::MAX as u64);

    /// The height `h`, or the largest one if `h` is above it.
    #[must_use]
    pub const fn new(h: u64) -> Self {
        if h > i64::MAX as u64 {
            Self::MAX
        } else {
            Height(h)
        }
    }

    /// A height as the wire has it; `None` when negative.
    #[must_use]
    pub fn from_wire(h: i64) -> Option<Self> {
        u64::try_from(h).ok().map(Height)
    }

    /// As an unsigned number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// As the wire writes it.
    #[must_use]
    #[allow(clippy::cast_possible_wrap)] // never above i64::MAX
    pub const fn to_wire(self) -> i64 {
        self.0 as i64
    }

    /// The height above, or the largest one.
    #[must_use]
    pub const fn next(self) -> Self {
        self.plus(1)
    }

    /// The height below, or zero.
    #[must_use]
    pub const fn prev(self) -> Self {
        Height(self.0.saturating_sub(1))
    }

    /// `n` heights up, at most the largest one.
    #[must_use]
    pub const fn plus(self, n: u64) -> Self {
        Self::new(self.0.saturating_add(n))
    }

    /// How far `self` is above `below`; 0 when it is not.
    #[must_use]
    pub const fn above(self, below: Self) -> u64 {
        self.0.saturating_sub(below.0)
    }
}

impl fmt::Display for Height {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        pub struct $name(
            // As bytes and not as a sequence of numbers, each of which would be written alone.
            #[cfg_attr(feature = "serde", serde(with = "serde_bytes"))] pub [u8; $len],
        );

        impl $name {
            /// From a slice of the exact length; `None` otherwise.
            #[must_use]
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map($name)
            }

            /// From hexadecimal of either case; `None` when it is not, or of another length.
            #[must_use]
            pub fn from_hex(text: &str) -> Option<Self> {
                Self::from_slice(&hex::decode(text).ok()?)
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

byte_id!(
    /// A SHA-256 digest.
    Hash,
    32
);
byte_id!(
    /// A validator's address: the first 20 bytes of a hash of its public key (`protocol.md` 0.4).
    Address,
    20
);
byte_id!(
    /// A node's id: the address of its node key (`protocol.md` 1.3). Shown as 40 lower-case hex
    /// digits.
    PeerId,
    20
);

/// Number of parts and Merkle root of a serialised block (`protocol.md` 5.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PartSetHeader {
    /// Number of parts of 65 536 bytes.
    pub total: u32,
    /// Root over the parts; absent is an empty byte string on the wire.
    pub hash: Option<Hash>,
}

/// Identity of a block: the hash of its header and the part set of its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct BlockId {
    /// The header's hash; absent is an empty byte string on the wire.
    pub hash: Option<Hash>,
    /// The part set of the block's bytes.
    pub parts: PartSetHeader,
}

impl BlockId {
    /// The id that the first block names as its predecessor, and that a vote for nil carries.
    pub const ZERO: BlockId = BlockId {
        hash: None,
        parts: PartSetHeader {
            total: 0,
            hash: None,
        },
    };

    /// The id of a block with these hashes.
    #[must_use]
    pub const fn new(hash: Hash, total: u32, parts: Hash) -> Self {
        BlockId {
            hash: Some(hash),
            parts: PartSetHeader {
                total,
                hash: Some(parts),
            },
        }
    }

    /// Nothing in it.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }

    /// Both hashes there and at least one part.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.hash.is_some() && self.parts.hash.is_some() && self.parts.total > 0
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |h: &Option<Hash>| h.map_or_else(|| "none".to_owned(), |h| h.to_string());
        write!(
            f,
            "{}:{}:{}",
            show(&self.hash),
            self.parts.total,
            show(&self.parts.hash)
        )
    }
}

/// One connection of a peer. A peer that comes back has another one, so what an earlier connection
/// owed is not its debt. Numbers are given in the order in which connections come up, and never
/// again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ConnId(pub u64);

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// Supplier of a copy of a block. It travels with the copy, so that blame is never looked up
/// afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Source {
    /// The peer.
    pub peer: PeerId,
    /// The connection on which it came.
    pub conn: ConnId,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.peer, self.conn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heights_saturate_at_the_wire_limit() {
        assert_eq!(Height::MAX.next(), Height::MAX);
        assert_eq!(Height::new(u64::MAX), Height::MAX);
        assert_eq!(Height::ZERO.prev(), Height::ZERO);
        assert_eq!(Height::from_wire(-1), None);
        assert_eq!(Height::new(3).above(Height::new(5)), 0);
        assert_eq!(Height::MAX.to_wire(), i64::MAX);
    }

    #[test]
    fn ids_read_and_print_hex() {
        let text = "7b9c39309622bda1f8cd2bade5725e8f09948a1a";
        assert_eq!(PeerId::from_hex(text).unwrap().to_string(), text);
        assert_eq!(PeerId::from_hex(&text[1..]), None);
        assert!(BlockId::ZERO.is_zero() && !BlockId::ZERO.is_complete());
    }
}
