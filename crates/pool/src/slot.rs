//! One height's life: the only record of that height.

use std::collections::BTreeMap;

use super::io::{AskId, Candidate, RunId};
use blocksync_types::ids::{BlockId, ConnId, Height};

/// Suppliers whose copy of one height was refused; more are not remembered.
const MAX_REFUSED: usize = 16;

/// Copies of one height that may stand side by side.
pub(crate) const MAX_COPIES: usize = 2;

/// Open requests of one height: the first and a hedge.
const MAX_ASKS: usize = 2;

/// Where a height stands. It moves right, or back by a verdict.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(
    feature = "record",
    serde(bound(serialize = "", deserialize = "B: Default"))
)]
pub(crate) enum Stage<B> {
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
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(
    feature = "record",
    serde(bound(serialize = "", deserialize = "B: Default"))
)]
pub(crate) struct Slot<B> {
    stage: Stage<B>,
    /// The id proven for this height, also while no copy of it is held.
    certified: Option<BlockId>,
    /// Open requests: the first and a hedge.
    asks: Vec<AskId>,
    /// Which connections gave a copy that cannot be used; not asked again. A peer that is back
    /// after its ban is.
    refused: Vec<ConnId>,
    /// Why the copies that came did not fit our genesis.
    unfit: Option<(BlockId, String)>,
    /// The network has committed other bytes than the canonical ones.
    not_canonical: bool,
}

impl<B> Slot<B> {
    /// A height that is wanted, and of which nothing is known.
    pub(crate) fn new() -> Self {
        Slot {
            stage: Stage::Wanted,
            certified: None,
            asks: Vec::new(),
            refused: Vec::new(),
            unfit: None,
            not_canonical: false,
        }
    }

    /// Where the height stands.
    pub(crate) fn stage(&self) -> &Stage<B> {
        &self.stage
    }

    /// All copies held.
    pub(crate) fn copies(&self) -> &[Candidate<B>] {
        match &self.stage {
            Stage::Wanted => &[],
            Stage::Held(copies) | Stage::Verifying(_, copies) => copies,
            Stage::Verified(copy) | Stage::Applying(copy) => std::slice::from_ref(copy),
        }
    }

    /// Bytes of all copies held.
    pub(crate) fn bytes(&self) -> u64 {
        self.copies().iter().map(|c| u64::from(c.meta.bytes)).sum()
    }

    /// Whether no copy is held.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self.stage, Stage::Wanted)
    }

    /// Whether no copy is held and nobody is asked for one.
    pub(crate) fn is_idle(&self) -> bool {
        self.is_missing() && self.asks.is_empty()
    }

    /// Whether its copy is proven, with the executor or not.
    pub(crate) fn is_proven(&self) -> bool {
        matches!(self.stage, Stage::Verified(_) | Stage::Applying(_))
    }

    /// Whether its copy is with the executor.
    pub(crate) fn is_applying(&self) -> bool {
        matches!(self.stage, Stage::Applying(_))
    }

    /// The id proven for this height, also while no copy of it is held.
    pub(crate) fn certified(&self) -> Option<BlockId> {
        self.certified
    }

    /// Notes the id that is proven for this height.
    pub(crate) fn certify(&mut self, id: BlockId) {
        self.certified = Some(id);
    }

    /// Whether the height may leave the window before it is applied: nothing is proven of it, nor
    /// about to be.
    pub(crate) fn may_close(&self) -> bool {
        let unproven = matches!(self.stage, Stage::Wanted | Stage::Held(_));
        unproven && self.certified.is_none()
    }

    /// Open requests, the oldest first.
    pub(crate) fn asks(&self) -> &[AskId] {
        &self.asks
    }

    /// Notes an open request for this height.
    pub(crate) fn open_ask(&mut self, ask: AskId) {
        self.asks.push(ask);
    }

    /// A request for this height is not open any more.
    pub(crate) fn close_ask(&mut self, ask: AskId) {
        self.asks.retain(|a| *a != ask);
    }

    /// Whether a connection gave a copy that cannot be used.
    pub(crate) fn refuses(&self, conn: ConnId) -> bool {
        self.refused.contains(&conn)
    }

    /// Whether any connection gave a copy that cannot be used.
    pub(crate) fn refuses_any(&self) -> bool {
        !self.refused.is_empty()
    }

    /// The copy of this connection cannot be used: it is not asked again.
    pub(crate) fn refuse(&mut self, conn: ConnId) {
        if self.refused.len() < MAX_REFUSED && !self.refused.contains(&conn) {
            self.refused.push(conn);
        }
    }

    /// The id of the copies that do not fit our genesis, and why.
    pub(crate) fn unfit(&self) -> Option<&(BlockId, String)> {
        self.unfit.as_ref()
    }

    /// Copies with this id do not fit our genesis. They are taken out and returned. The first id
    /// of this kind is remembered.
    pub(crate) fn set_unfit(&mut self, id: BlockId, what: String) -> Vec<Candidate<B>> {
        if self.unfit.as_ref().is_none_or(|(first, _)| *first == id) {
            self.unfit = Some((id, what));
        }
        self.remove_copies(|c| c.meta.id == id)
    }

    /// Whether the network has committed other bytes than the canonical ones.
    pub(crate) fn is_not_canonical(&self) -> bool {
        self.not_canonical
    }

    /// The network has committed other bytes than the canonical ones.
    pub(crate) fn set_not_canonical(&mut self) {
        self.not_canonical = true;
    }

    /// Puts a copy beside the others. One with its own commit takes the place of the same block
    /// without. A copy of a height that is proven is let go.
    pub(crate) fn hold(&mut self, copy: Candidate<B>) {
        self.remove_copies(|c| c.meta.id == copy.meta.id);
        match &mut self.stage {
            Stage::Wanted => self.stage = Stage::Held(vec![copy]),
            // The verifier works on clones: a copy that comes meanwhile waits for the next run.
            Stage::Held(copies) | Stage::Verifying(_, copies) => copies.push(copy),
            Stage::Verified(_) | Stage::Applying(_) => {}
        }
    }

    /// The copies held are with the verifier.
    pub(crate) fn begin_verifying(&mut self, run: RunId) {
        if let Stage::Held(copies) = &mut self.stage {
            self.stage = Stage::Verifying(run, std::mem::take(copies));
        }
    }

    /// The copies with the verifier are merely held again.
    pub(crate) fn end_verifying(&mut self) {
        if let Stage::Verifying(_, copies) = &mut self.stage {
            self.stage = Stage::Held(std::mem::take(copies));
        }
    }

    /// The held copy with the certified id is proven if it names this parent; the others are let
    /// go. Returns that copy.
    pub(crate) fn prove(&mut self, parent: Option<BlockId>) -> Option<&Candidate<B>> {
        let (Some(id), Stage::Held(copies)) = (self.certified, &mut self.stage) else {
            return None;
        };
        // One that names another predecessor than the block proven is a fork, or the end of a lie:
        // the verifier tells.
        let follows = |c: &Candidate<B>| parent.is_none_or(|parent| c.meta.parent == parent);
        let at = copies.iter().position(|c| c.meta.id == id && follows(c))?;
        self.stage = Stage::Verified(copies.swap_remove(at));
        self.copies().first()
    }

    /// The proof does not count any more: the copy is merely held.
    pub(crate) fn unprove(&mut self) {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Wanted) {
            Stage::Verified(copy) | Stage::Applying(copy) => Stage::Held(vec![copy]),
            other => other,
        };
    }

    /// The proven copy goes to the executor, by way of `jobs`; it is kept here until it is applied.
    pub(crate) fn begin_applying(&mut self, jobs: &mut Vec<Candidate<B>>)
    where
        B: Clone,
    {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Wanted) {
            Stage::Verified(copy) => {
                jobs.push(copy.clone());
                Stage::Applying(copy)
            }
            other => other,
        };
    }

    /// Takes out the copies that `bad` names; the stage falls back to `Wanted` when none is left.
    /// Proven copies stay.
    pub(crate) fn remove_copies(
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

    /// Gives requests and runs their new names.
    pub(crate) fn rename(&mut self, asks: &BTreeMap<AskId, AskId>, runs: &BTreeMap<RunId, RunId>) {
        self.asks.iter_mut().for_each(|ask| *ask = asks[ask]);
        if let Stage::Verifying(run, _) = &mut self.stage {
            *run = runs[run];
        }
    }

    /// The one letter of the status page: wanted, asked, held, verifying, proven, applying.
    pub(crate) fn letter(&self) -> char {
        match &self.stage {
            Stage::Wanted if self.asks.is_empty() => '.',
            Stage::Wanted => '?',
            Stage::Held(_) => 'h',
            Stage::Verifying(..) => 'v',
            Stage::Verified(_) => 'p',
            Stage::Applying(_) => 'a',
        }
    }

    /// Panics when an invariant of the slot is broken.
    pub(crate) fn check(&self, height: Height) {
        assert!(
            self.copies().len() <= MAX_COPIES,
            "{height}: more copies than may stand side by side"
        );
        assert!(
            self.asks.len() <= MAX_ASKS,
            "{height}: more than a first request and a hedge"
        );
        assert!(
            self.asks.is_empty() || self.is_missing(),
            "{height}: asked for, though a copy is held"
        );
        if let Stage::Held(copies) | Stage::Verifying(_, copies) = &self.stage {
            assert!(!copies.is_empty(), "{height}: held without a copy");
        }
        for copy in self.copies() {
            assert_eq!(copy.meta.height, height, "a copy in another height's slot");
        }
    }
}
