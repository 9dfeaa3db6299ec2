//! The connections, and the sets in which they are looked for.
//!
//! Each set follows from the connections alone. A connection changes through [`Peers::update`],
//! which puts it where it belongs in all of them; what changes its claim alone, or the bytes on
//! their way, has a cheaper door of its own.

mod choose;

use std::collections::{BTreeMap, BTreeSet};

use super::claims::Claim;
use super::io::AskId;
use super::io::Tick;
use super::peer::{Class, Peer, Place};
use blocksync_types::ids::{ConnId, Height, PeerId};

/// Connections looked at in one order, in any search. By claim it is complete but for those that
/// lack something of what they claim, which come last until they tell their range anew: then, or
/// when they gain room, an unservable height is brought back.
pub(crate) const TRIES: usize = 64;

/// The connections, one for each peer. Bounded by `PoolConfig::max_peers`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Peers {
    entries: BTreeMap<ConnId, Entry>,
    by_id: BTreeMap<PeerId, ConnId>,
    /// Connections with room, best first.
    ready: BTreeSet<(Place, ConnId)>,
    /// Those of them that lack nothing of what they claim, and whose base is not above us, by their
    /// claim.
    ready_by_claim: BTreeSet<(Height, ConnId)>,
    /// Connections that may have something for unservable heights.
    gained: BTreeSet<ConnId>,
    /// Claims of the peers, taken at their word.
    claimed_heights: BTreeMap<Height, u32>,
    /// The same without the claims that have ended.
    standing: BTreeSet<(Height, ConnId)>,
    /// Connections whose base is above us, by their base: they count once we are there.
    above_us: BTreeSet<(Height, ConnId)>,
    /// Connections whose base is not above us, by their claim, those that answer ranges apart.
    by_claim: BTreeSet<(Height, bool, ConnId)>,
    /// Claims that count, of connections whose base is not above us.
    counted: BTreeSet<(Height, ConnId)>,
    /// The height that half of them claim, or more.
    claimed_by_half: Height,
    /// Claims that are doubted.
    doubted: BTreeSet<(Height, ConnId)>,
    /// Connections that have told their status.
    statuses: u32,
    /// Heights owed by all connections.
    owed: u64,
    /// Bytes by which these are larger than expected, by what each connection has given before.
    surplus: u64,
    /// Bytes of the messages that are on their way.
    partial_bytes: u64,
    /// Configured peers that may come, or have come.
    coming: BTreeSet<PeerId>,
    /// The configured peers, once they were told; strangers are all others.
    configured: Option<BTreeSet<PeerId>>,
}

/// A connection, and where it stands in the sets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
struct Entry {
    peer: Peer,
    keys: Keys,
}

/// Where a connection stands in the sets, and what it adds to the sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
struct Keys {
    place: Option<Place>,
    ready_by_claim: Option<Height>,
    claims: Claims,
    owed: usize,
    surplus: u64,
    partial: u32,
}

/// Where a connection stands in the sets that follow from its status and its claim: these change
/// seldom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
struct Claims {
    taken_at_word: Option<Height>,
    standing: Option<Height>,
    above_us: Option<Height>,
    near: Option<(Height, bool)>,
    counted: Option<Height>,
    doubted: Option<Height>,
}

impl Keys {
    fn of(peer: &Peer, estimate: u64) -> Self {
        let place = peer.place(estimate);
        let ready_by_claim = place
            .filter(|(class, _)| *class < Class::Lacking)
            .map(|_| peer.height());
        Keys {
            place,
            ready_by_claim,
            claims: Claims::of(peer),
            owed: peer.owed().len(),
            surplus: peer.surplus(estimate),
            partial: peer.partial(),
        }
    }
}

impl Claims {
    fn of(peer: &Peer) -> Self {
        Claims {
            taken_at_word: peer.claimed_height(),
            standing: peer.standing_claim(),
            above_us: peer.base_above_us(),
            near: peer.near_claim(),
            counted: peer.counted_claim(),
            doubted: peer.doubted_claim(),
        }
    }
}

/// Moves a connection from one place in a set to another.
fn reindex<K: Ord + Copy>(
    set: &mut BTreeSet<(K, ConnId)>,
    id: ConnId,
    before: Option<K>,
    after: Option<K>,
) {
    if before == after {
        return;
    }
    if let Some(key) = before {
        set.remove(&(key, id));
    }
    if let Some(key) = after {
        set.insert((key, id));
    }
}

impl Peers {
    /// The number of connections.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody is connected.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether all connections have told their status.
    pub(crate) fn have_all_told(&self) -> bool {
        self.statuses as usize == self.entries.len()
    }

    /// Connections that have told their status.
    pub(crate) fn statuses(&self) -> u32 {
        self.statuses
    }

    /// Heights owed by all connections.
    pub(crate) fn owed(&self) -> u64 {
        self.owed
    }

    /// Bytes by which the owed blocks are larger than the estimate says, going by what each
    /// connection has given before.
    pub(crate) fn surplus(&self) -> u64 {
        self.surplus
    }

    /// Bytes of the messages that are on their way.
    pub(crate) fn partial_bytes(&self) -> u64 {
        self.partial_bytes
    }

    /// A connection.
    pub(crate) fn get(&self, id: ConnId) -> Option<&Peer> {
        self.entries.get(&id).map(|entry| &entry.peer)
    }

    /// Whether a connection is there.
    pub(crate) fn contains(&self, id: ConnId) -> bool {
        self.entries.contains_key(&id)
    }

    /// The connection of a peer.
    pub(crate) fn conn_of(&self, peer: PeerId) -> Option<ConnId> {
        self.by_id.get(&peer).copied()
    }

    /// All connections, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ConnId, &Peer)> {
        self.entries.iter().map(|(id, entry)| (*id, &entry.peer))
    }

    /// Adds a connection of a peer that has no other.
    pub(crate) fn add(&mut self, id: ConnId, peer: Peer, estimate: u64) {
        self.by_id.insert(peer.id(), id);
        let keys = Keys::of(&peer, estimate);
        self.entries.insert(id, Entry { peer, keys });
        self.index(id, Keys::default(), keys);
    }

    /// Takes out a connection.
    pub(crate) fn remove(&mut self, id: ConnId) -> Option<Peer> {
        let Entry { peer, keys } = self.entries.remove(&id)?;
        if self.by_id.get(&peer.id()) == Some(&id) {
            self.by_id.remove(&peer.id());
        }
        self.index(id, keys, Keys::default());
        self.gained.remove(&id);
        Some(peer)
    }

    /// Changes a connection, and everything that follows from it. `estimate` is the expected size
    /// of a block. `None` when the connection is gone.
    pub(crate) fn update<R>(
        &mut self,
        id: ConnId,
        estimate: u64,
        change: impl FnOnce(&mut Peer) -> R,
    ) -> Option<R> {
        let entry = self.entries.get_mut(&id)?;
        let result = change(&mut entry.peer);
        let keys = Keys::of(&entry.peer, estimate);
        let before = std::mem::replace(&mut entry.keys, keys);
        self.index(id, before, keys);
        Some(result)
    }

    /// Changes the claim of a connection, and what follows from that alone.
    pub(crate) fn update_claim(&mut self, id: ConnId, change: impl FnOnce(&mut Claim)) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        change(entry.peer.claim_mut());
        let claims = Claims::of(&entry.peer);
        let before = std::mem::replace(&mut entry.keys.claims, claims);
        self.index_claims(id, before, claims);
    }

    /// Notes how much of a message has come from a connection. `earn` is told how many bytes are
    /// new, and may give the claim time for them.
    pub(crate) fn receive(
        &mut self,
        id: ConnId,
        bytes: u32,
        now: Tick,
        earn: impl FnOnce(&mut Claim, u32),
    ) -> u32 {
        let Some(entry) = self.entries.get_mut(&id) else {
            return 0;
        };
        // These come with every read of a socket. No place in a set follows from them, so the sets
        // stay untouched.
        let before = std::mem::replace(&mut entry.keys.partial, bytes);
        self.partial_bytes = self.partial_bytes - u64::from(before) + u64::from(bytes);
        let more = entry.peer.receive(bytes, now);
        earn(entry.peer.claim_mut(), more);
        more
    }

    /// Puts a connection where it belongs. With `index_claims` the only writer of the sets and
    /// sums.
    fn index(&mut self, id: ConnId, before: Keys, after: Keys) {
        // A connection that has gained room may have something for unservable heights.
        if before.place.is_none() && after.place.is_some() {
            self.gained.insert(id);
        }
        reindex(&mut self.ready, id, before.place, after.place);
        let (was, is) = (before.ready_by_claim, after.ready_by_claim);
        reindex(&mut self.ready_by_claim, id, was, is);
        self.owed = self.owed - before.owed as u64 + after.owed as u64;
        self.surplus = self.surplus - before.surplus + after.surplus;
        let partial = self.partial_bytes - u64::from(before.partial);
        self.partial_bytes = partial + u64::from(after.partial);
        if before.claims != after.claims {
            self.index_claims(id, before.claims, after.claims);
        }
    }

    fn index_claims(&mut self, id: ConnId, before: Claims, after: Claims) {
        reindex(&mut self.above_us, id, before.above_us, after.above_us);
        reindex(&mut self.standing, id, before.standing, after.standing);
        reindex(&mut self.counted, id, before.counted, after.counted);
        if before.counted != after.counted {
            self.claimed_by_half = self.find_half();
        }
        reindex(&mut self.doubted, id, before.doubted, after.doubted);
        if before.near != after.near {
            if let Some((height, ranged)) = before.near {
                self.by_claim.remove(&(height, ranged, id));
            }
            if let Some((height, ranged)) = after.near {
                self.by_claim.insert((height, ranged, id));
            }
        }
        self.count_claimed_height(before.taken_at_word, after.taken_at_word);
    }

    fn count_claimed_height(&mut self, before: Option<Height>, after: Option<Height>) {
        if before == after {
            return;
        }
        self.statuses = self.statuses - u32::from(before.is_some()) + u32::from(after.is_some());
        if let Some(height) = after {
            *self.claimed_heights.entry(height).or_default() += 1;
        }
        if let Some(height) = before
            && let Some(n) = self.claimed_heights.get_mut(&height)
        {
            *n -= 1;
            if *n == 0 {
                self.claimed_heights.remove(&height);
            }
        }
    }

    /// The highest claim, taken at its word.
    pub(crate) fn highest_claim(&self) -> Height {
        let highest = self.claimed_heights.last_key_value();
        highest.map_or(Height::ZERO, |(height, _)| *height)
    }

    /// The highest claim that has not ended, taken at its word, and whose it is.
    pub(crate) fn best_standing_claim(&self) -> Option<(Height, ConnId)> {
        self.standing.last().copied()
    }

    /// Whether anybody claims exactly a height of this range.
    pub(crate) fn is_claimed(&self, from: Height, to: Height) -> bool {
        self.claimed_heights.range(from..=to).next().is_some()
    }

    /// The best claim that counts, and whose it is.
    pub(crate) fn best_claim(&self) -> Option<(Height, ConnId)> {
        self.counted.last().copied()
    }

    /// The height that half of those connections claim, or more, whose claims count and are not 0.
    pub(crate) fn claimed_by_half(&self) -> Height {
        self.claimed_by_half
    }

    /// Of more than twice `TRIES` claims only the highest are looked at.
    fn find_half(&self) -> Height {
        let claims = self.counted.range((Height::new(1), ConnId(0))..).rev();
        let half = claims.clone().take(2 * TRIES).count() / 2;
        claims
            .map(|(height, _)| *height)
            .nth(half)
            .unwrap_or_default()
    }

    /// Doubted claims, the highest first.
    pub(crate) fn doubted(&self) -> impl Iterator<Item = (Height, ConnId)> {
        self.doubted.iter().rev().copied()
    }

    /// The connection with the lowest base above us.
    pub(crate) fn lowest_above_us(&self) -> Option<(Height, ConnId)> {
        self.above_us.first().copied()
    }

    /// Connections that claim this height or more, and whose base is not above us, ascending.
    pub(crate) fn with_claim_from(
        &self,
        height: Height,
    ) -> impl DoubleEndedIterator<Item = ConnId> + Clone {
        let from = (height, false, ConnId(0));
        self.by_claim.range(from..).map(|(_, _, id)| *id)
    }

    /// Connections that answer ranges and claim exactly this height.
    pub(crate) fn ranged_at(&self, height: Height) -> impl Iterator<Item = ConnId> {
        let these = (height, true, ConnId(0))..=(height, true, ConnId(u64::MAX));
        self.by_claim.range(these).map(|(_, _, id)| *id)
    }

    /// Notes the configured peers, and those of them that may come or have come.
    pub(crate) fn expect(&mut self, configured: BTreeSet<PeerId>, coming: BTreeSet<PeerId>) {
        (self.configured, self.coming) = (Some(configured), coming);
    }

    /// Whether a configured peer is on its way, or has not told its status yet.
    pub(crate) fn awaits_configured(&self) -> bool {
        let absent = |peer: &PeerId| !self.by_id.contains_key(peer);
        let silent = |p: &Peer| !p.has_status();
        self.coming.iter().any(absent) || self.configured_peers().any(silent)
    }

    /// Configured peers were told, and none of them gave a first block that does not fit our
    /// genesis.
    pub(crate) fn only_strangers_are_unfit(&self) -> bool {
        self.configured.is_some() && !self.configured_peers().any(Peer::is_unfit)
    }

    fn configured_peers(&self) -> impl Iterator<Item = &Peer> {
        let ids = self.configured.iter().flatten();
        ids.filter_map(|peer| self.get(*self.by_id.get(peer)?))
    }

    /// Gives open requests their new names.
    pub(crate) fn rename(&mut self, asks: &BTreeMap<AskId, AskId>) {
        for entry in self.entries.values_mut() {
            entry.peer.rename(asks);
        }
    }

    /// Panics when an invariant is broken.
    pub(crate) fn check(&self) {
        let mut fresh = Peers {
            coming: self.coming.clone(),
            configured: self.configured.clone(),
            ..Peers::default()
        };
        for (id, entry) in &self.entries {
            self.check_keys(*id, entry);
            fresh.by_id.insert(entry.peer.id(), *id);
            fresh.entries.insert(*id, entry.clone());
            fresh.index(*id, Keys::default(), entry.keys);
        }
        // The new index takes all with room for such that have just gained it.
        assert!(
            self.gained.iter().all(|id| self.contains(*id)),
            "gone, but said to have gained"
        );
        fresh.gained.clone_from(&self.gained);
        assert_eq!(self, &fresh, "the sets and sums of the connections");
    }

    /// Scores and surplus may be of an earlier time: the expected size of a block changes for all
    /// at once.
    fn check_keys(&self, id: ConnId, entry: &Entry) {
        let without_score = |keys: Keys| Keys {
            place: keys.place.map(|(class, _)| (class, 0)),
            surplus: 0,
            ..keys
        };
        assert_eq!(
            without_score(entry.keys),
            without_score(Keys::of(&entry.peer, 1)),
            "{id}: its places in the sets"
        );
        if entry.peer.has_status() {
            assert!(
                entry.keys.claims.above_us.is_some() != entry.keys.claims.near.is_some()
                    || entry.peer.is_unfit(),
                "{id}: either near or above us"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PoolConfig;

    fn one() -> Peers {
        let mut peers = Peers::default();
        let peer = Peer::new(PeerId([1; 20]), false, Tick(0), &PoolConfig::default());
        peers.add(ConnId(1), peer, 1);
        peers
    }

    #[test]
    #[should_panic(expected = "the sets and sums of the connections")]
    fn a_sum_that_does_not_follow_from_the_connections_is_seen() {
        let mut peers = one();
        peers.check();
        peers.partial_bytes += 1;
        peers.check();
    }

    #[test]
    #[should_panic(expected = "its places in the sets")]
    fn a_key_that_does_not_follow_from_its_connection_is_seen() {
        let mut peers = one();
        peers.check();
        let entry = peers.entries.get_mut(&ConnId(1)).expect("it was added");
        entry.keys.claims.counted = Some(Height::new(1));
        peers.check();
    }

    /// Adds a connection of its own peer with blocks 1 to `height`.
    fn add(peers: &mut Peers, n: u64, height: u64) {
        let mut id = [0; 20];
        id[..8].copy_from_slice(&n.to_be_bytes());
        let peer = Peer::new(PeerId(id), false, Tick(0), &PoolConfig::default());
        peers.add(ConnId(n), peer, 1);
        let range = (Height::new(1), Height::new(height));
        let told = |peer: &mut Peer| peer.restate(range, 1, Height::new(1), Tick(0));
        peers.update(ConnId(n), 1, told);
    }

    #[test]
    fn half_of_them_claim_it_of_those_who_claim_most() {
        let mut peers = Peers::default();
        for n in 1..=300 {
            add(&mut peers, n, n);
        }
        let looked_at = 2 * TRIES as u64;
        assert_eq!(peers.claimed_by_half(), Height::new(300 - looked_at / 2));
        assert_eq!(peers.highest_claim(), Height::new(300));
        assert_eq!(peers.best_claim(), Some((Height::new(300), ConnId(300))));
        assert_eq!(peers.doubted().count(), 0);
        assert!(peers.have_all_told() && peers.statuses() == 300);
        assert!(peers.is_claimed(Height::new(7), Height::new(7)));
        assert!(!peers.is_claimed(Height::new(301), Height::new(400)));
        peers.check();
    }

    #[test]
    fn sums_are_those_of_all_connections() {
        let mut peers = Peers::default();
        for n in 1..=2 {
            add(&mut peers, n, 9);
            peers.update(ConnId(n), 1000, |peer| {
                peer.note_size(5000, 1 << 20);
                peer.owe(Height::new(n), AskId(n));
            });
            assert_eq!(peers.receive(ConnId(n), 30, Tick(1), |_, _| ()), 30);
        }
        assert_eq!(
            (peers.owed(), peers.surplus(), peers.partial_bytes()),
            (2, 8000, 60)
        );
        peers.remove(ConnId(1));
        assert_eq!(
            (peers.owed(), peers.surplus(), peers.partial_bytes()),
            (1, 4000, 30)
        );
        assert_eq!((peers.len(), peers.is_empty()), (1, false));
        assert_eq!(peers.remove(ConnId(1)), None);
        peers.check();
    }

    #[test]
    fn a_base_above_us_is_found_until_we_are_there() {
        let mut peers = Peers::default();
        for (n, base) in [(1, 7), (2, 5), (3, 1)] {
            add(&mut peers, n, 9);
            let range = (Height::new(base), Height::new(9));
            let told = |peer: &mut Peer| peer.restate(range, 1, Height::new(1), Tick(0));
            peers.update(ConnId(n), 1, told);
        }
        assert_eq!(peers.lowest_above_us(), Some((Height::new(5), ConnId(2))));
        assert_eq!(peers.with_claim_from(Height::new(9)).count(), 1);
        peers.update(ConnId(2), 1, |peer| peer.locate(Height::new(5)));
        assert_eq!(peers.lowest_above_us(), Some((Height::new(7), ConnId(1))));
        assert!(peers.with_claim_from(Height::new(9)).eq([2, 3].map(ConnId)));
        peers.check();
    }

    #[test]
    fn one_that_lacks_something_is_not_found_by_its_claim() {
        let mut peers = Peers::default();
        add(&mut peers, 1, 9);
        assert!(peers.has_any_gained());
        peers.forget_gained();
        assert!(!peers.has_any_gained() && peers.is_ready(ConnId(1)));
        assert_eq!(peers.ready_by_claim.len(), 1);
        let lacks = |peer: &mut Peer| peer.lack(Height::new(3), Height::new(9), Tick(0));
        peers.update(ConnId(1), 1, lacks);
        assert_eq!((peers.ready_by_claim.len(), peers.ready.len()), (0, 1));
        assert!(!peers.has_any_gained(), "it had room before");
        for n in 1..=2 {
            peers.update(ConnId(1), 1, |peer| peer.owe(Height::new(n), AskId(n)));
        }
        assert!(!peers.is_any_ready() && !peers.is_ready(ConnId(1)));
        assert!(!peers.is_ready(ConnId(9)), "nobody");
        peers.update(ConnId(1), 1, |peer| peer.give_up(Height::new(1)));
        assert!(peers.has_any_gained() && peers.is_any_ready());
        peers.check();
    }
}
