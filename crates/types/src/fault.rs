//! Faults of peers, other reasons why a connection is closed, and their penalties. Blame is by
//! proof: an act that is not listed among the faults is none.

use std::fmt;

/// An act of a peer that breaks the rules, and can be shown. `penalty` says what follows for the
/// peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Fault {
    /// A block that was never asked of this connection.
    Unasked,
    /// Bytes that are no message, break a size limit, or fail the stateless checks of a block.
    Malformed(String),
    /// Bytes that are no packet or frame, an unknown channel, a message without end: what the
    /// transport does not carry.
    Transport(String),
    /// A status with its base above its height, or a negative number.
    BadRange,
    /// A copy proven wrong: not the block that was certified.
    BadBlock(Proof),
    /// A commit that fails under a validator set which a certified header names.
    BadCommit(Proof),
    /// An extended commit that fails; no hash covers it, so only its supplier can be to blame.
    BadExtendedCommit(Proof),
    /// A signed status that contradicts itself, has a wrong signature, or has a proof that no
    /// honest node makes.
    BadAdvertisement(Proof),
    /// An extended commit that fails, by a peer whose version hands on what it has not checked.
    UncheckedExtendedCommit(Proof),
}

/// Why a copy is wrong, in words that name height, what was expected and what was found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Proof(pub String);

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Penalty of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Penalty {
    /// The connection ends, no more.
    Close,
    /// The connection ends and the peer may come back only after a short wait.
    BackOff,
    /// The peer is banned for a time that doubles with each ban.
    Ban,
}

impl Fault {
    /// The penalty for the peer.
    #[must_use]
    pub fn penalty(&self) -> Penalty {
        match self {
            // No ban: an honest node may hand on an extended commit that its
            // version does not check.
            Fault::Transport(_) | Fault::UncheckedExtendedCommit(_) => Penalty::BackOff,
            Fault::Unasked
            | Fault::Malformed(_)
            | Fault::BadRange
            | Fault::BadBlock(_)
            | Fault::BadCommit(_)
            | Fault::BadExtendedCommit(_)
            | Fault::BadAdvertisement(_) => Penalty::Ban,
        }
    }

    /// All names, and those of answers that are overdue.
    pub const NAMES: [&'static str; 11] = [
        "timeout",
        "no_status",
        "unasked",
        "malformed",
        "transport",
        "bad_range",
        "bad_block",
        "bad_commit",
        "bad_extended_commit",
        "bad_advertisement",
        "unchecked_extended_commit",
    ];

    /// A short name for metrics and reports, one of `NAMES`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Fault::Unasked => "unasked",
            Fault::Malformed(_) => "malformed",
            Fault::Transport(_) => "transport",
            Fault::BadRange => "bad_range",
            Fault::BadBlock(_) => "bad_block",
            Fault::BadCommit(_) => "bad_commit",
            Fault::BadExtendedCommit(_) => "bad_extended_commit",
            Fault::BadAdvertisement(_) => "bad_advertisement",
            Fault::UncheckedExtendedCommit(_) => "unchecked_extended_commit",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Unasked => f.write_str("sent a block that it was not asked for"),
            Fault::Malformed(why) => write!(f, "malformed message: {why}"),
            Fault::Transport(why) => write!(f, "broke the transport's rules: {why}"),
            Fault::BadRange => f.write_str("impossible range of heights in its status"),
            Fault::BadBlock(proof) => write!(f, "proven wrong block: {proof}"),
            Fault::BadCommit(proof) => write!(f, "proven wrong commit: {proof}"),
            Fault::BadExtendedCommit(proof) => write!(f, "proven wrong extended commit: {proof}"),
            Fault::BadAdvertisement(proof) => write!(f, "wrong advertisement: {proof}"),
            Fault::UncheckedExtendedCommit(proof) => {
                write!(
                    f,
                    "wrong extended commit, which its version does not check: {proof}"
                )
            }
        }
    }
}

/// Why a connection is closed. Only a [`CloseReason::Fault`] says something against the peer,
/// because only that can be proven; silence and a hang-up prove nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer broke the rules, in this way.
    Fault(Fault),
    /// The peer owed this for too long, while we were able to receive it.
    Overdue(Overdue),
    /// The peer hung up, or its transport failed; these are the transport's words.
    Remote(String),
    /// We have no use for the connection, for this reason, and nothing is held against the peer.
    OfNoUse(String),
    /// A newer connection of the same peer has taken its place.
    Replaced,
    /// The peer is refused for what it did before, until this time in microseconds since the
    /// service started.
    Refused {
        /// The end of the ban or back-off.
        until: u64,
    },
    /// There is no room for another peer.
    TooMany,
    /// The service stops.
    Stopping,
}

/// The answer that did not come in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Overdue {
    /// The answer to a request.
    Answer,
    /// The first status.
    Status,
}

impl From<Fault> for CloseReason {
    fn from(fault: Fault) -> Self {
        CloseReason::Fault(fault)
    }
}

impl CloseReason {
    /// The penalty for the peer.
    #[must_use]
    pub fn penalty(&self) -> Penalty {
        match self {
            CloseReason::Fault(fault) => fault.penalty(),
            CloseReason::Overdue(_) => Penalty::BackOff,
            // The peer has done none of these (`is_peers_doing`).
            _ => Penalty::Close,
        }
    }

    /// The fault, if it is one.
    #[must_use]
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            CloseReason::Fault(fault) => Some(fault),
            _ => None,
        }
    }

    /// Tells whether we dropped the peer for something that it did or failed to do: then it is
    /// named among those dropped. A peer that hung up, was replaced or found no room is not.
    #[must_use]
    pub fn is_peers_doing(&self) -> bool {
        matches!(self, CloseReason::Fault(_) | CloseReason::Overdue(_))
    }

    /// A short name for metrics and reports.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            CloseReason::Fault(fault) => fault.name(),
            // These two are in `Fault::NAMES`: metrics count them beside the faults.
            CloseReason::Overdue(Overdue::Answer) => "timeout",
            CloseReason::Overdue(Overdue::Status) => "no_status",
            CloseReason::Remote(_) => "disconnected",
            CloseReason::OfNoUse(_) => "of_no_use",
            CloseReason::Replaced => "replaced",
            CloseReason::Refused { .. } => "refused",
            CloseReason::TooMany => "too_many",
            CloseReason::Stopping => "stopping",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Fault(fault) => fault.fmt(f),
            CloseReason::Overdue(Overdue::Answer) => f.write_str("owed an answer for too long"),
            CloseReason::Overdue(Overdue::Status) => f.write_str("never sent a status"),
            CloseReason::Remote(why) => write!(f, "disconnected: {why}"),
            CloseReason::OfNoUse(why) => write!(f, "of no use: {why}"),
            CloseReason::Replaced => f.write_str("replaced by a newer connection of the same peer"),
            CloseReason::Refused { .. } => f.write_str("refused for what the peer did before"),
            CloseReason::TooMany => f.write_str("too many peers"),
            CloseReason::Stopping => f.write_str("we are stopping"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_that_costs_a_peer_has_its_place_among_the_names() {
        let proof = || Proof(String::new());
        let faults = [
            Fault::Unasked,
            Fault::Malformed(String::new()),
            Fault::Transport(String::new()),
            Fault::BadRange,
            Fault::BadBlock(proof()),
            Fault::BadCommit(proof()),
            Fault::BadExtendedCommit(proof()),
            Fault::BadAdvertisement(proof()),
            Fault::UncheckedExtendedCommit(proof()),
        ];
        let overdue = [Overdue::Answer, Overdue::Status].map(CloseReason::Overdue);
        let reasons = overdue.into_iter().chain(faults.map(CloseReason::Fault));
        let names: Vec<_> = reasons.map(|reason| reason.name()).collect();
        assert_eq!(names, Fault::NAMES);
    }
}
