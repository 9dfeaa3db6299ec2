//! The part of an effect that the digests of the simulation and the model are made of: what it
//! does, not how its fields are called or shaped. So a digest tells of behaviour alone.

use std::hash::{Hash, Hasher};

use blocksync_pool::Effect;

/// Feeds a hasher with what an effect does.
pub(crate) fn hash<B: Hash>(effect: &Effect<B>, hasher: &mut impl Hasher) {
    match effect {
        Effect::Ask {
            ask,
            conn,
            from,
            count,
            ..
        } => (0u8, ask, conn, from, count).hash(hasher),
        Effect::Drop {
            conn,
            peer,
            reason,
            ban_until,
        } => {
            let name = if reason.is_peers_doing() {
                reason.name()
            } else {
                ""
            };
            (1u8, conn, peer, name, ban_until).hash(hasher);
        }
        other => (2u8, other).hash(hasher),
    }
}
