//! The peers that are to be connected to as long as we run, and how that goes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::addr::PeerAddr;
use crate::ids::PeerId;

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

/// All of them: as many as were configured.
#[derive(Debug, Default)]
pub(super) struct Contacts(Mutex<Vec<Contact>>);

impl Contacts {
    /// Nothing that holds the lock can panic half-way through a change.
    fn all(&self) -> MutexGuard<'_, Vec<Contact>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    }

    pub(super) fn read(&self) -> Vec<Contact> {
        self.all().clone()
    }

    pub(super) fn set(&self, peer: PeerId, state: ContactState) {
        for contact in self.all().iter_mut().filter(|c| c.peer.id() == peer) {
            contact.state = state;
        }
    }

    /// A connection has ended, or did not come about.
    pub(super) fn failed(&self, peer: PeerId, why: &str) {
        for contact in self.all().iter_mut().filter(|c| c.peer.id() == peer) {
            contact.state = ContactState::Waiting;
            contact.last_error = Some(why.to_owned());
        }
    }
}
