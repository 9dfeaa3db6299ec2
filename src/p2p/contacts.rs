//! The peers that are to be connected to as long as we run, and how that goes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::addr::PeerAddr;
use crate::ids::PeerId;
use crate::link::Configured;

/// A configured peer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Contact {
    /// Its address.
    pub peer: PeerAddr,
    /// How the connection to it stands.
    pub state: ContactState,
    /// Why the last connection ended or did not come about.
    pub last_error: Option<String>,
}

/// How a connection to a configured peer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ContactState {
    /// It is being dialled, or in its handshake.
    Dialling,
    /// It is connected.
    Connected,
    /// The next attempt waits for its time.
    Waiting,
    /// It is banned for now.
    Banned,
}

impl ContactState {
    /// Its name: `dialling`, `connected`, `waiting`, `banned`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ContactState::Dialling => "dialling",
            ContactState::Connected => "connected",
            ContactState::Waiting => "waiting",
            ContactState::Banned => "banned",
        }
    }
}

impl Contact {
    /// Whether it may come, or is there: it has not failed since it was last tried.
    fn is_coming(&self) -> bool {
        match self.state {
            ContactState::Dialling | ContactState::Connected => true,
            ContactState::Waiting => self.last_error.is_none(),
            ContactState::Banned => false,
        }
    }
}

/// All of them: as many as were configured.
#[derive(Debug, Default)]
pub(super) struct Contacts {
    all: Mutex<Vec<Contact>>,
    /// For the service.
    told: watch::Sender<Configured>,
}

impl Contacts {
    /// Nothing that holds the lock can panic half-way through a change.
    fn all(&self) -> MutexGuard<'_, Vec<Contact>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins with peers that are known and not dialled.
    pub(super) fn new(known: &[PeerId]) -> Self {
        let contacts = Contacts::default();
        contacts
            .told
            .send_modify(|told| told.peers.extend(known.iter().copied()));
        contacts
    }

    /// The configured peers, as they come and fail to.
    pub(super) fn subscribe(&self) -> watch::Receiver<Configured> {
        self.told.subscribe()
    }

    /// Tells which of them may come, if that has changed.
    fn tell(&self, all: &[Contact]) {
        let coming = all.iter().filter(|c| c.is_coming());
        let coming = coming.map(|c| c.peer.id()).collect();
        self.told.send_if_modified(|told| {
            let before = told.peers.len();
            // Only ever added to, so the length tells news; those given to `new` are not in `all`.
            told.peers.extend(all.iter().map(|c| c.peer.id()));
            let news = told.coming != coming || told.peers.len() != before;
            told.coming = coming;
            news
        });
    }

    pub(super) fn add(&self, peer: &PeerAddr) {
        let mut all = self.all();
        if !all.iter().any(|c| c.peer == *peer) {
            all.push(Contact {
                peer: peer.clone(),
                state: ContactState::Waiting,
                last_error: None,
            });
        }
        self.tell(&all);
    }

    pub(super) fn read(&self) -> Vec<Contact> {
        self.all().clone()
    }

    pub(super) fn set(&self, peer: PeerId, state: ContactState) {
        let mut all = self.all();
        // More than one, perhaps: a node may be configured at several addresses.
        for contact in all.iter_mut().filter(|c| c.peer.id() == peer) {
            contact.state = state;
        }
        self.tell(&all);
    }

    /// A connection has ended, or did not come about.
    pub(super) fn failed(&self, peer: PeerId, why: &str) {
        let mut all = self.all();
        for contact in all.iter_mut().filter(|c| c.peer.id() == peer) {
            contact.state = ContactState::Waiting;
            contact.last_error = Some(why.to_owned());
        }
        self.tell(&all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configured_peer_may_come_until_it_has_failed_to() {
        let peer: PeerAddr = "plain://127.0.0.1:1".parse().unwrap();
        let (id, known) = (peer.id(), PeerId([7; 20]));
        let contacts = Contacts::new(&[known]);
        let mut told = contacts.subscribe();
        contacts.add(&peer);
        let mut coming = |expected: bool| {
            let told = told.borrow_and_update();
            assert_eq!(told.peers, [known, id].into());
            assert_eq!(told.coming.contains(&id), expected);
            assert!(!told.coming.contains(&known), "it is not dialled");
        };
        coming(true); // it was not tried yet
        contacts.set(id, ContactState::Dialling);
        coming(true);
        contacts.failed(id, "refused");
        coming(false);
        contacts.set(id, ContactState::Dialling);
        coming(true);
        contacts.set(id, ContactState::Connected);
        coming(true);
        contacts.set(id, ContactState::Banned);
        coming(false);
        contacts.set(id, ContactState::Banned);
        assert!(!told.has_changed().unwrap(), "nothing has changed");
    }
}
