//! The channels of a connection, and how messages are laid on its stream.

use super::packet::Channel;

/// The block-sync channel.
pub const BLOCKSYNC: u8 = 0x40;
/// The channel of peer exchange.
pub const PEX: u8 = 0x00;
/// The longest block-sync message: a block of 100 MiB, five bytes around it.
pub const MAX_MESSAGE: usize = 104_857_605;
/// The longest PEX message.
pub const MAX_PEX_MESSAGE: usize = 64_000;

/// How messages are laid on the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Framing {
    /// MConnection.
    Packets,
    /// Length-prefixed frames; `marked` when each begins with its channel.
    Frames {
        /// Whether each begins with its channel.
        marked: bool,
    },
}

/// The block-sync channel with a limit of our own.
#[must_use]
pub fn blocksync_channel(max_message: usize) -> Channel {
    Channel {
        id: BLOCKSYNC,
        // As in CometBFT, in every version (`protocol.md` 3.3).
        priority: 5,
        capacity: max_message,
        keep: true,
    }
}

/// The PEX channel.
#[must_use]
pub fn pex_channel() -> Channel {
    Channel {
        id: PEX,
        priority: 1,
        capacity: MAX_PEX_MESSAGE,
        keep: true,
    }
}
