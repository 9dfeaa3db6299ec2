//! Peers of the world, and its randomness.

use blocksync_types::ids::{BlockId, Hash};

use super::MS;

/// A small generator, one stream for each concern, so that a change to one does not shift the
/// others.
#[derive(Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        Rng(
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ stream.wrapping_mul(0xd1b5_4a32_d192_ed03)
                | 1,
        )
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n.max(1)
    }

    pub(crate) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }
}

/// Truth about a copy, which the pool cannot see.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Body {
    /// Its last commit is a valid certificate for the id that it states.
    pub commit_good: bool,
    /// Its extended commit is valid.
    pub ext_good: bool,
    /// Same header as the true block, other body.
    pub body_bad: bool,
}

pub(crate) const GOOD: Body = Body {
    commit_good: true,
    ext_good: true,
    body_bad: false,
};

/// The id of the true block of a height (`tag` 0), or of a false one.
pub(crate) fn block_id(height: u64, tag: u64) -> BlockId {
    let hash = |kind: u64| {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&height.to_be_bytes());
        bytes[8..16].copy_from_slice(&tag.to_be_bytes());
        bytes[16..24].copy_from_slice(&kind.to_be_bytes());
        Hash(bytes)
    };
    BlockId::new(hash(1), 1, hash(2))
}

/// How a peer behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Honest,
    Silent,
    Mute,
    /// Every block of these heights is false: other id, or a false commit, by `tag`.
    Liar(Lie),
    Claims(u64),
    ClaimsAndServes(u64),
    NoBlocks,
    /// Drips a byte a second and never ends.
    Drips,
    /// Answers after this time.
    Late(u64),
    /// Is gone and back again, with this many microseconds up.
    Flaps(u64),
    /// Honest, but has pruned everything below, and says so only when asked.
    Prunes(u64),
    /// Sends blocks that nobody asked for.
    Unasked,
    /// Claims less and less.
    Sinks,
    /// Has nothing, and says so.
    Fresh,
    /// Claims this height, and serves what it claims: above the tip blocks of its own.
    Forges(u64),
    /// Claims this height, and serves nothing but the block of it.
    ServesOnly(u64),
    /// Serves the blocks of a chain with another genesis.
    OtherGenesis,
}

/// The tag of the blocks of a chain with another genesis.
pub(crate) const OTHER_GENESIS: u64 = 9;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// A block with another header.
    Header,
    /// The true header over another body.
    Body,
    /// The true block with a commit that fails.
    Commit,
    /// A block whose commit and header name another predecessor.
    Parent,
    /// The true block with a false extended commit.
    Extension,
    /// The block of the height below.
    Height,
}

pub(crate) const LIES: [Lie; 6] = [
    Lie::Header,
    Lie::Body,
    Lie::Commit,
    Lie::Parent,
    Lie::Extension,
    Lie::Height,
];

#[derive(Clone, Debug)]
pub(crate) struct PeerSpec {
    pub role: Role,
    /// One way, microseconds.
    pub latency: u64,
    /// Bytes a second.
    pub bandwidth: u64,
    pub max_range: u32,
    /// Microseconds between its sendings of what it has, as a stock node does; 0 sends at once.
    pub flush: u64,
    /// When it connects; 0 for within the first moments.
    pub comes_at: u64,
    /// Nothing of it comes between these two times.
    pub stops: (u64, u64),
    /// A long message is told while it comes.
    pub tells_progress: bool,
    /// Honest from this time on, whatever it was.
    pub heals_at: u64,
}

impl PeerSpec {
    pub(crate) fn new(role: Role) -> Self {
        PeerSpec {
            role,
            latency: 20 * MS,
            bandwidth: 20_000_000,
            max_range: 1,
            flush: 0,
            comes_at: 0,
            stops: (0, 0),
            tells_progress: false,
            heals_at: u64::MAX,
        }
    }

    pub(crate) fn is_honest(&self) -> bool {
        matches!(
            self.role,
            Role::Honest
                | Role::Late(_)
                | Role::Flaps(_)
                | Role::Prunes(_)
                | Role::NoBlocks
                | Role::Sinks
                | Role::Fresh
        )
    }
}
