//! One height's life: the only record of that height.

use super::io::{AskId, Candidate, RunId};
use blocksync_types::ids::{BlockId, ConnId};

/// Suppliers whose copy of one height was refused; more are not remembered.
const MAX_REFUSED: usize = 16;

/// Where a height stands. It moves right, or back by a verdict.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stage<B> {
    /// No copy that may be right. With asks open it is asked for.
    Wanted,
    /// One or two copies, none of them proven.
    Held(Vec<Candidate<B>>),
    /// The same, with the verifier.
    Verifying(RunId, Vec<Candidate<B>>),
    /// Proven.
    Verified(Candidate<B>),
    /// Proven and with the executor.
    Applying(Candidate<B>),
}

/// One height of the window.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Slot<B> {
    pub(super) stage: Stage<B>,
    /// The id proven for this height, also while no copy of it is held.
    pub(super) certified: Option<BlockId>,
    /// Open requests: the first and a hedge.
    pub(super) asks: Vec<AskId>,
    /// Which connections gave a copy that cannot be used; not asked again. A peer that is back
    /// after its ban is.
    pub(super) refused: Vec<ConnId>,
    /// Why the copies that came did not fit our genesis.
    pub(super) unfit: Option<(BlockId, String)>,
    /// The network has committed other bytes than the canonical ones.
    pub(super) not_canonical: bool,
}

/// Copies of one height that may stand side by side.
pub(super) const MAX_COPIES: usize = 2;

impl<B> Slot<B> {
    pub(super) fn new() -> Self {
        Slot {
            stage: Stage::Wanted,
            certified: None,
            asks: Vec::new(),
            refused: Vec::new(),
            unfit: None,
            not_canonical: false,
        }
    }

    /// All copies held.
    pub(super) fn copies(&self) -> &[Candidate<B>] {
        match &self.stage {
            Stage::Wanted => &[],
            Stage::Held(copies) | Stage::Verifying(_, copies) => copies,
            Stage::Verified(copy) | Stage::Applying(copy) => std::slice::from_ref(copy),
        }
    }

    pub(super) fn is_missing(&self) -> bool {
        matches!(self.stage, Stage::Wanted)
    }

    pub(super) fn is_proven(&self) -> bool {
        matches!(self.stage, Stage::Verified(_) | Stage::Applying(_))
    }

    pub(super) fn refuse(&mut self, conn: ConnId) {
        if self.refused.len() < MAX_REFUSED && !self.refused.contains(&conn) {
            self.refused.push(conn);
        }
    }

    /// Takes out the copies that `bad` names; the stage falls back to `Wanted` when none is left.
    /// Proven copies stay.
    pub(super) fn remove_copies(
        &mut self,
        bad: impl Fn(&Candidate<B>) -> bool,
    ) -> Vec<Candidate<B>> {
        let (Stage::Held(copies) | Stage::Verifying(_, copies)) = &mut self.stage else {
            return Vec::new();
        };
        let (gone, kept): (Vec<_>, Vec<_>) =
            std::mem::take(copies).into_iter().partition(|c| bad(c));
        *copies = kept;
        if copies.is_empty() {
            self.stage = Stage::Wanted;
        }
        gone
    }

    /// The one letter of the status page: wanted, asked, held, verifying, proven, applying.
    pub(super) fn letter(&self) -> char {
        match &self.stage {
            Stage::Wanted if self.asks.is_empty() => '.',
            Stage::Wanted => '?',
            Stage::Held(_) => 'h',
            Stage::Verifying(..) => 'v',
            Stage::Verified(_) => 'p',
            Stage::Applying(_) => 'a',
        }
    }
}
