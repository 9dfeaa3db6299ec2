//! Open requests.

use std::collections::{BTreeMap, BTreeSet};

use super::io::{AskId, Tick};
use blocksync_types::ids::{ConnId, Height};

/// An open request: heights `from` up, of which some may have been answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Ask {
    conn: ConnId,
    at: Tick,
    /// Heights of it that are still owed.
    open: u32,
    from: Height,
    count: u32,
}

impl Ask {
    /// The connection that was asked.
    pub(crate) fn conn(&self) -> ConnId {
        self.conn
    }

    /// When it was asked.
    pub(crate) fn at(&self) -> Tick {
        self.at
    }

    /// Whether no more than one of its heights is still owed.
    pub(crate) fn is_last(&self) -> bool {
        self.open == 1
    }

    /// All heights that were asked for, answered or not.
    pub(crate) fn heights(&self) -> impl Iterator<Item = Height> + use<> {
        let from = self.from;
        (0..u64::from(self.count)).map(move |n| from.plus(n))
    }
}

/// The open requests, each with at least one height owed. Bounded by twice the window: a first
/// request and a hedge for each height.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Requests {
    asks: BTreeMap<AskId, Ask>,
    next: u64,
}

impl Requests {
    /// Names a request.
    pub(crate) fn name(&mut self) -> AskId {
        let id = AskId(self.next);
        self.next += 1;
        id
    }

    /// Opens a request and names it.
    pub(crate) fn open(&mut self, conn: ConnId, at: Tick, from: Height, count: u32) -> AskId {
        let id = self.name();
        let open = count;
        self.asks.insert(
            id,
            Ask {
                conn,
                at,
                open,
                from,
                count,
            },
        );
        id
    }

    /// An open request.
    pub(crate) fn get(&self, id: AskId) -> Option<&Ask> {
        self.asks.get(&id)
    }

    /// One height of a request is not owed any more. A request without any is forgotten.
    pub(crate) fn close_one(&mut self, id: AskId) {
        if let Some(ask) = self.asks.get_mut(&id) {
            // Cannot wrap: a request of which nothing is open is not kept.
            ask.open -= 1;
            if ask.open == 0 {
                self.asks.remove(&id);
            }
        }
    }

    /// Renames the open requests, and others that were named here, in their order, from 0 up.
    /// Returns the new names.
    pub(crate) fn renumber(
        &mut self,
        others: impl Iterator<Item = AskId>,
    ) -> BTreeMap<AskId, AskId> {
        let all: BTreeSet<AskId> = self.asks.keys().copied().chain(others).collect();
        let names: BTreeMap<AskId, AskId> = all
            .into_iter()
            .zip(0..)
            .map(|(old, n)| (old, AskId(n)))
            .collect();
        self.next = names.len() as u64;
        self.asks = std::mem::take(&mut self.asks)
            .into_iter()
            .map(|(old, ask)| (names[&old], ask))
            .collect();
        names
    }

    /// Panics unless the requests are exactly those with this number of heights owed.
    pub(crate) fn check(&self, owed: &BTreeMap<AskId, u32>) {
        let open: BTreeMap<AskId, u32> = self.asks.iter().map(|(id, a)| (*id, a.open)).collect();
        assert_eq!(&open, owed, "open heights of the requests");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONN: ConnId = ConnId(7);

    #[test]
    fn a_request_is_open_until_all_of_its_heights_are_closed() {
        let mut requests = Requests::default();
        let ask = requests.open(CONN, Tick(5), Height::new(3), 2);
        let open = requests.get(ask).expect("it was opened");
        assert_eq!(
            (open.conn(), open.at(), open.is_last()),
            (CONN, Tick(5), false)
        );
        assert!(open.heights().eq([3, 4].map(Height::new)));
        requests.close_one(ask);
        let open = requests.get(ask).expect("one height is open");
        assert!(open.is_last());
        assert_eq!(open.heights().count(), 2, "answered or not");
        requests.check(&BTreeMap::from([(ask, 1)]));
        requests.close_one(ask);
        assert_eq!(requests.get(ask), None);
        requests.close_one(ask);
    }

    #[test]
    fn names_are_new_until_all_are_renamed_from_0_up() {
        let mut requests = Requests::default();
        let [first, second] = [(); 2].map(|()| requests.open(CONN, Tick(0), Height::new(1), 1));
        let proof = requests.name();
        assert_eq!([first, second, proof], [0, 1, 2].map(AskId));
        requests.close_one(first);
        let names = requests.renumber([proof].into_iter());
        assert_eq!(
            names,
            BTreeMap::from([(second, AskId(0)), (proof, AskId(1))])
        );
        requests.check(&BTreeMap::from([(AskId(0), 1)]));
        assert_eq!(requests.name(), AskId(2));
    }
}
