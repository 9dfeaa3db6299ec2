//! Signed statuses: ours to peers that ask for them, and theirs, which are verified, held against
//! what they deliver, and judged as proofs of a height (`serving.md` 5 to 9).
//!
//! Bounds: a peer is asked for a proof every `PROOF_EVERY`; only a proof that was asked for is read
//! at all, and it may be as long as we said. Signed statuses that nobody asked for come at
//! `UNASKED_SIGNED_RATE`, and one a second has its signature verified. A proof of ours is read from
//! the store once a height, and given to a peer once a second.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};

use super::config::Config;
use super::fork::{self, Certificates};
use super::offload::Offload;
use super::requests::{ServeEvent, Shown};
use super::server::Server;
use crate::chain::height_proof::{Clock, HeightProof, HeightProofError, Standing};
use crate::chain::proof::KnownSets;
use crate::chain::signatures::Inline;
use crate::chain::{Fetched, RuleSchedule, Time};
use crate::fault::{CloseReason, Fault, Proof};
use crate::ids::{Height, PeerId};
use crate::link::{Allowance, Link};
use crate::pool::{Fork, Input, RunId, Verdict};
use crate::store::{Store, StoreError};
use crate::wire::{
    Advertisement, AdvertisementRequest, Audience, ChainIdentity, Claim, MAX_ADVERTISEMENT,
    Message, Nonce, Signer, WireError, decode, node_id,
};

/// Shortest time between two requests for a proof, to one peer.
const PROOF_EVERY: Duration = Duration::from_secs(5);
/// The same while we are behind: then blocks prove heights all the time.
const PROOF_EVERY_WHILE_BEHIND: Duration = Duration::from_secs(60);
/// Shortest time between two proofs given to a peer, and two signatures verified that came unasked.
const A_SECOND: Duration = Duration::from_secs(1);
/// Signed statuses that nobody asked for which may come at once …
pub const UNASKED_SIGNED: u32 = 128;
/// … and a second in the long run: twice what the shortest `advertise_time` makes. An unsigned
/// status may come more often (`SMALL_MESSAGES_RATE`), as other programs have their own ways.
pub const UNASKED_SIGNED_RATE: u32 = 8;

/// Rest after each signature of a proof, of all peers together: a thousand a second, which two sets
/// at 14 us for a signature (`README.md`) make 3 % of a core.
const SIGNATURE_RESTS: Duration = Duration::from_millis(1);
/// Requests whose answers have not come; the oldest is forgotten first. The pool waits for answers
/// before it asks often.
const REQUESTS: usize = 32;
/// Seconds by which the time of a status that came unasked may be off, where nothing else tells an
/// old one.
const OLD: i64 = 60;
/// A height within a signed claim that was answered "no block" this often, over this time, is a
/// broken promise. Once says nothing: a busy server answers so, too.
const REFUSALS: u32 = 3;
const REFUSED_FOR: Duration = Duration::from_secs(5);

/// The node's part in signed statuses, for all connections together.
#[derive(Debug)]
pub struct Advertiser {
    signer: Signer,
    chain: ChainIdentity,
    rules: RuleSchedule,
    clock: fn() -> Time,
    /// Seconds by which a header may be ahead of the clock.
    tolerance: i64,
    /// The sequence of the last status.
    sequence: AtomicU64,
    /// The last proof made. `None` for a height that cannot be proven.
    proof: Mutex<Option<(Height, Option<HeightProof>)>>,
    /// Proofs of others, to see a fork by.
    certificates: Mutex<Certificates>,
    rest: Mutex<Rest>,
    evidence_dir: Option<PathBuf>,
}

impl Advertiser {
    /// Signs by this key, and judges proofs by the configuration's rules and clock.
    #[must_use]
    pub fn new(signer: Signer, chain: ChainIdentity, config: &Config) -> Self {
        // Rises over restarts, too.
        let micros = (config.clock)().as_nanos() / 1000;
        Advertiser {
            signer,
            chain,
            rules: config.rules.clone(),
            clock: config.clock,
            tolerance: i64::try_from(config.clock_tolerance.as_secs()).unwrap_or(i64::MAX),
            sequence: AtomicU64::new(u64::try_from(micros).unwrap_or(0)),
            proof: Mutex::default(),
            certificates: Mutex::default(),
            rest: Mutex::default(),
            evidence_dir: config.evidence_dir.clone(),
        }
    }

    /// A proof of this height, which is applied and stored.
    async fn prove(&self, server: &Server, height: Height) -> Option<HeightProof> {
        let known = self.proof.lock();
        let known = known.unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((of, proof)) = known
            && of == height
        {
            return proof;
        }
        let (store, offload) = server.reads();
        // A store that cannot be read is noticed elsewhere: here there is no proof.
        let proof = offload.io(move || made_of(&*store, height)).await;
        let proof = proof.ok().flatten();
        *self.proof.lock().unwrap_or_else(PoisonError::into_inner) = Some((height, proof.clone()));
        proof
    }

    fn sign(
        &self,
        (base, height): (Height, Height),
        nonce: Option<Nonce>,
        proof: Option<HeightProof>,
        receiver: PeerId,
    ) -> Advertisement {
        let claim = Claim {
            base,
            height,
            sequence: self.sequence.fetch_add(1, Relaxed) + 1,
            time: (self.clock)().seconds,
            nonce,
        };
        let chain = &self.chain;
        self.signer.sign(claim, proof, Audience { chain, receiver })
    }

    /// Finds out how much a proof shows to us, by the validator sets of our last durable state.
    async fn judge(
        self: &Arc<Self>,
        server: &Server,
        proof: HeightProof,
    ) -> Result<(Standing, Judged), HeightProofError> {
        let (store, offload): (_, Offload) = server.reads();
        let state = offload.io(move || store.state()).await;
        let Ok(Some(state)) = state else {
            return Ok((Standing::Nothing, Judged::default()));
        };
        let known = KnownSets::of(&state, &self.rules);
        let (applied, clock) = (known.applied, self.now());
        self.rest().charge(signatures_of(&proof, &known));
        let seed = rand::random();
        let work = move || (proof.judge(&known, clock, &Inline::new(seed)), proof);
        let (standing, proof) = offload.cpu(work).await;
        let standing = standing?;
        let mut judged = Judged {
            proven: None,
            applied,
            fork: None,
        };
        if let Standing::Proven(height) = standing {
            judged.proven = Some(height);
            // A proof of the height below says nothing of which block its own one has.
            if height == proof.header.height {
                judged.fork = self.find_fork(server, proof).await;
            }
        }
        Ok((standing, judged))
    }

    /// Holds a proof that has decided its own height against the others of that height, or against
    /// our own chain where that has grown so far meanwhile.
    async fn find_fork(&self, server: &Server, proof: HeightProof) -> Option<Fork> {
        let second = self.certificates().keep(&proof);
        match second {
            Some(before) => Some(self.report(server, [before, proof]).await),
            None => self.differs(server).await,
        }
    }

    /// Holds the proofs of heights that we have reached ourselves against our own chain.
    async fn differs(&self, server: &Server) -> Option<Fork> {
        let (applied, _) = server.progress();
        let reached = self.certificates().reached(applied);
        if reached.is_empty() {
            return None;
        }
        let (store, offload) = server.reads();
        let differs = move || {
            let ours = |theirs: &HeightProof| made_of(&*store, theirs.header.height).ok().flatten();
            let mut pairs = reached.into_iter().filter_map(|p| Some([ours(&p)?, p]));
            pairs.find(|[ours, theirs]| fork::are_two(ours, theirs))
        };
        let pair = offload.io(differs).await?;
        Some(self.report(server, pair).await)
    }

    async fn report(&self, server: &Server, pair: [HeightProof; 2]) -> Fork {
        let fork = Fork {
            height: pair[0].header.height,
            ids: pair.each_ref().map(|proof| proof.commit.block_id),
        };
        let commits = pair.map(|proof| Some(proof.commit));
        let (_, offload) = server.reads();
        let (dir, chain_id) = (self.evidence_dir.clone(), self.chain.chain_id.as_bytes());
        fork::report(&offload, dir, chain_id, &fork, commits).await;
        fork
    }

    /// Tells of a fork that our own chain shows as it grows past a proof. Never ends.
    pub(super) async fn watch_forks(
        &self,
        server: &Server,
        inputs: mpsc::Sender<Input<Arc<Fetched>>>,
    ) {
        let (mut served, _) = server.news();
        while served.changed().await.is_ok() {
            if let Some(fork) = self.differs(server).await {
                let _ = inputs.send(fork_found(fork)).await;
            }
        }
    }

    fn certificates(&self) -> MutexGuard<'_, Certificates> {
        let kept = self.certificates.lock();
        kept.unwrap_or_else(PoisonError::into_inner)
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Clock {
        Clock {
            now: (self.clock)(),
            tolerance: self.tolerance,
        }
    }
}

/// Rest after the proofs of all peers that were judged: the time from which on the next are asked
/// for.
#[derive(Debug, Default)]
struct Rest(Option<Instant>);

impl Rest {
    fn is_over(&self) -> bool {
        self.0.is_none_or(|at| Instant::now() >= at)
    }

    fn charge(&mut self, signatures: usize) {
        let cost = SIGNATURE_RESTS * u32::try_from(signatures).unwrap_or(u32::MAX);
        let now = Instant::now();
        self.0 = Some(self.0.map_or(now, |at| at.max(now)) + cost);
    }
}

/// Signatures in a proof that are looked at: those of members of the sets that we know.
fn signatures_of(proof: &HeightProof, known: &KnownSets) -> usize {
    let sets: Vec<_> = known.coming().collect();
    let is_member = |address| sets.iter().any(|set| set.by_address(address).is_some());
    let signers = proof.commit.signatures.iter().map(|sig| &sig.address);
    signers.filter(|address| is_member(address)).count()
}

/// Tells the pool of a fork that no run of its own has shown.
pub(super) fn fork_found(fork: Fork) -> Input<Arc<Fetched>> {
    let verdict = Verdict {
        fork: Some(fork),
        ..Verdict::default()
    };
    let run = RunId::NONE;
    Input::Verdict { run, verdict }
}

/// The header at this height, and the commit for it.
fn made_of(store: &dyn Store, height: Height) -> Result<Option<HeightProof>, StoreError> {
    let Some((header, id)) = store.header(height)? else {
        return Ok(None);
    };
    let commit = match store.commit_for(height)? {
        Some(commit) => Some(commit),
        None => store.seen_commit(height)?,
    };
    let commit = commit.and_then(|bytes| decode::commit_from_bytes(&bytes).ok());
    let (Some(commit), Some(set)) = (commit, store.validators(height)?) else {
        return Ok(None);
    };
    let fits = commit.height == height && commit.block_id == id;
    Ok(HeightProof::new(header, commit, &set).filter(|_| fits))
}

/// A request of ours for a signed status.
#[derive(Clone, Copy, Debug)]
struct Asked {
    nonce: Nonce,
    proof: bool,
}

/// Signed statuses over one connection.
#[derive(Debug)]
pub struct Advertising {
    advertiser: Option<Arc<Advertiser>>,
    peer: PeerId,
    /// The peer has proven to be the one with this id.
    authenticated: bool,
    /// The longest advertisement that it takes; 0 for none.
    takes: usize,
    /// The nonce that our next status has to repeat.
    nonce: Option<Nonce>,
    /// The proof that goes with it, and when the last one went.
    proof: Option<HeightProof>,
    proven: Option<Instant>,
    /// Our requests without an answer.
    asked: VecDeque<Asked>,
    proof_asked: Option<Instant>,
    /// The peer's key and its last sequence.
    key: Option<[u8; 32]>,
    sequence: u64,
    unasked: Option<Instant>,
    /// Signed statuses that may still come unasked.
    allowance: Allowance,
    /// Its last status, signed or not, and the last one that it signed.
    height: Height,
    signed: Option<Claim>,
    /// A height within the signed claim that it has not given: how often, and since when.
    refused: Option<(Height, u32, Instant)>,
}

/// Result of a proof, for the pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Judged {
    /// The chain has been decided up to this height.
    pub(super) proven: Option<Height>,
    /// The applied height whose sets have judged it.
    pub(super) applied: Height,
    /// The proof and another certificate are of two chains.
    pub(super) fork: Option<Fork>,
}

fn guilty(why: impl Into<String>) -> CloseReason {
    Fault::BadAdvertisement(Proof(why.into())).into()
}

impl Advertising {
    /// Nothing is said yet. Nothing is signed over a link that is not `extended`, or by a server
    /// without a key.
    #[must_use]
    pub fn new(link: &Link, server: &Server) -> Self {
        Advertising {
            advertiser: server.advertiser().filter(|_| link.extended).cloned(),
            peer: link.peer,
            authenticated: link.authenticated,
            takes: 0,
            nonce: None,
            proof: None,
            proven: None,
            asked: VecDeque::new(),
            proof_asked: None,
            key: None,
            sequence: 0,
            unasked: None,
            allowance: Allowance::new(UNASKED_SIGNED, UNASKED_SIGNED_RATE),
            height: Height::ZERO,
            signed: None,
            refused: None,
        }
    }

    /// The id that a signature names as its receiver.
    fn receiver(&self, id: PeerId) -> PeerId {
        if self.authenticated {
            id
        } else {
            PeerId([0; 20])
        }
    }

    /// Whether a status may be as long as a proof makes it.
    pub(super) fn awaits_proof(&self) -> bool {
        self.asked.iter().any(|asked| asked.proof)
    }

    /// Our status, signed if the peer wants it so.
    pub fn status(&mut self, server: &Server, extended: bool) -> Bytes {
        let status = server.status();
        let (nonce, proof) = (self.nonce.take(), self.proof.take());
        let (Some(advertiser), Message::Status { base, height, .. }) = (&self.advertiser, &status)
        else {
            return server.say(&status, extended, None);
        };
        if self.takes == 0 {
            return server.say(&status, extended, None);
        }
        let receiver = self.receiver(self.peer);
        let proof = proof.filter(|proof| proof.header.height == *height);
        let heights = (*base, *height);
        let mut signed = advertiser.sign(heights, nonce, proof, receiver);
        let mut body = signed.body();
        if body.len() > self.takes && signed.proof.is_some() {
            signed = advertiser.sign(heights, nonce, None, receiver);
            body = signed.body();
        }
        if body.len() > self.takes {
            return server.say(&status, extended, None);
        }
        let (peer, height, proven) = (self.peer, *height, signed.proof.is_some());
        if proven {
            self.proven = Some(Instant::now());
        }
        server.told().tell(|| ServeEvent::AdvertisementSent {
            peer,
            height,
            proven,
        });
        server.say(&status, extended, Some(&body))
    }

    /// A request for the peer's status, signed.
    pub(super) fn request(&mut self, server: &Server, extended: bool) -> Bytes {
        let Some(advertiser) = &self.advertiser else {
            return server.say(&Message::StatusRequest, extended, None);
        };
        let (ours, behind) = server.progress();
        let every = if behind {
            PROOF_EVERY_WHILE_BEHIND
        } else {
            PROOF_EVERY
        };
        let long_ago = self.proof_asked.is_none_or(|at| at.elapsed() >= every);
        let wanted = self.height > ours.next() && !server.is_stateless();
        let proof = wanted && long_ago && advertiser.rest().is_over();
        if proof {
            self.proof_asked = Some(Instant::now());
        }
        let nonce = rand::random();
        if self.asked.len() >= REQUESTS {
            self.asked.pop_front();
        }
        self.asked.push_back(Asked { nonce, proof });
        let request = AdvertisementRequest {
            takes: MAX_ADVERTISEMENT as u32,
            nonce,
            prove_above: proof.then(|| ours.next()),
        };
        server.say(&Message::StatusRequest, extended, Some(&request.body()))
    }

    /// Hears a request for our status: the next one is as it wants it.
    ///
    /// Cancel safety: cancel safe.
    ///
    /// # Errors
    /// When what it wants cannot be read.
    pub async fn hear_request(&mut self, server: &Server, message: &[u8]) -> Result<(), WireError> {
        let Some(advertiser) = self.advertiser.clone() else {
            return Ok(());
        };
        let Some(request) = AdvertisementRequest::read(message)? else {
            return Ok(());
        };
        self.takes = (request.takes as usize).min(MAX_ADVERTISEMENT);
        self.nonce = Some(request.nonce);
        let (height, _) = server.progress();
        let wanted = request.prove_above.is_some_and(|above| height > above);
        if wanted && self.proven.is_none_or(|at| at.elapsed() >= A_SECOND) {
            self.proof = advertiser.prove(server, height).await;
        }
        Ok(())
    }

    /// Hears a status. Gives what its proof shows, if it has one that was asked for.
    pub(super) async fn hear(
        &mut self,
        server: &Server,
        message: &[u8],
        (base, height): (Height, Height),
    ) -> Result<Option<Judged>, CloseReason> {
        self.height = height;
        let Some(advertiser) = self.advertiser.clone() else {
            return Ok(None);
        };
        let Some(advertised) = Advertisement::read(message).map_err(Fault::from)? else {
            return Ok(None);
        };
        let claim = advertised.claim;
        let asked = self.match_request(claim.nonce)?;
        let peer = self.peer;
        let tell = |shown: Shown| {
            server.told().tell(|| ServeEvent::AdvertisementReceived {
                peer,
                base,
                height,
                shown,
            });
        };
        if asked.is_none() {
            self.allow_unasked()?;
            if !self.may_be_verified_unasked(&advertiser, &claim) {
                tell(Shown::Ignored);
                return Ok(None);
            }
        }
        if (claim.base, claim.height) != (base, height) {
            return Err(guilty(format!(
                "it has signed heights {} to {}, and stated {base} to {height}",
                claim.base, claim.height
            )));
        }
        self.check_key(&advertiser, &advertised)?;
        self.signed = Some(claim);
        let proof = advertised.proof.filter(|_| asked.is_some_and(|a| a.proof));
        let Some(proof) = proof else {
            tell(Shown::Unproven);
            return Ok(None);
        };
        let (standing, judged) = (advertiser.judge(server, proof).await)
            .map_err(|why| guilty(format!("its proof of height {height}: {why}")))?;
        tell(match standing {
            Standing::Proven(height) => Shown::Proven(height),
            Standing::Attested(height) => Shown::Attested(height),
            Standing::Nothing => Shown::Unproven,
            Standing::AheadOfClock => Shown::AheadOfClock,
        });
        Ok(Some(judged))
    }

    /// The request of ours that this status answers. Those before it are answered by it, too.
    fn match_request(&mut self, nonce: Option<Nonce>) -> Result<Option<Asked>, CloseReason> {
        let Some(nonce) = nonce else {
            return Ok(None);
        };
        let at = self.asked.iter().position(|asked| asked.nonce == nonce);
        let at = at.ok_or_else(|| guilty("it repeats a nonce that was never sent"))?;
        Ok(self.asked.drain(..=at).next_back())
    }

    /// Counts a signed status that nobody asked for.
    fn allow_unasked(&mut self) -> Result<(), CloseReason> {
        if self.allowance.take() {
            return Ok(());
        }
        let why = format!(
            "more than {UNASKED_SIGNED} signed statuses that nobody asked for, and {UNASKED_SIGNED_RATE} a second"
        );
        Err(Fault::Transport(why).into())
    }

    /// Whether a status that nobody asked for is looked at.
    fn may_be_verified_unasked(&mut self, advertiser: &Advertiser, claim: &Claim) -> bool {
        let now = (advertiser.clock)().seconds;
        let old = !self.authenticated && claim.time.abs_diff(now) > OLD as u64;
        if old || self.unasked.is_some_and(|at| at.elapsed() < A_SECOND) {
            return false;
        }
        self.unasked = Some(Instant::now());
        true
    }

    fn check_key(
        &mut self,
        advertiser: &Advertiser,
        advertised: &Advertisement,
    ) -> Result<(), CloseReason> {
        let key = advertised.key;
        if self.authenticated && node_id(&key) != self.peer {
            return Err(guilty("it is signed by another node's key"));
        }
        if *self.key.get_or_insert(key) != key {
            return Err(guilty("it is signed by another key than the one before"));
        }
        let chain = &advertiser.chain;
        let receiver = self.receiver(advertiser.signer.id());
        if !advertised.is_signed_for(Audience { chain, receiver }) {
            return Err(guilty("its signature is wrong"));
        }
        let sequence = advertised.claim.sequence;
        if sequence <= self.sequence {
            let before = self.sequence;
            return Err(guilty(format!(
                "its sequence is {sequence}, and was {before} before"
            )));
        }
        self.sequence = sequence;
        Ok(())
    }

    /// Notes that the peer has not given a height.
    pub(super) fn refused(&mut self, server: &Server, height: Height) {
        let Some(signed) = self.signed else { return };
        if height < signed.base || height > signed.height {
            return;
        }
        let (times, since) = match self.refused {
            Some((of, times, since)) if of == height => (times + 1, since),
            // One height at a time is watched; another takes its place when it has its turn.
            Some((_, _, since)) if since.elapsed() < REFUSED_FOR => return,
            _ => (1, Instant::now()),
        };
        self.refused = Some((height, times, since));
        if times >= REFUSALS && since.elapsed() >= REFUSED_FOR {
            self.refused = None;
            let peer = self.peer;
            server.told().tell(|| ServeEvent::PromiseBroken {
                peer,
                signed,
                missing: height,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::chain::testkit::{TestChain, nowhere};
    use crate::chain::{BlockIdFlag, Commit};
    use crate::service::batches::record_of;
    use crate::service::config::ServeConfig;
    use crate::service::server::Served;
    use crate::store::{Batch, MemStore};

    fn h(height: u64) -> Height {
        Height::new(height)
    }

    /// Nobody is named for a height that it has not signed to have, whatever else it has said.
    #[tokio::test(start_paused = true)]
    async fn only_a_signed_height_can_be_a_broken_promise() {
        let (_served, range) = watch::channel(Served::default());
        let (store, offload) = (Arc::new(MemStore::new()), Offload::inline());
        let server = Server::new(store, range, ServeConfig::default(), offload);
        let mut events = server.events();
        let (link, _end) = Link::pair(PeerId([1; 20]), "peer");
        let mut peer = Advertising::new(&link, &server);
        peer.height = h(90);
        let signed = Claim {
            base: h(10),
            height: h(50),
            sequence: 7,
            time: 0,
            nonce: None,
        };
        let cases = [
            (None, 20, false),
            (Some(signed), 9, false),
            (Some(signed), 10, true),
            (Some(signed), 50, true),
            (Some(signed), 51, false),
        ];
        for (signed, height, expected) in cases {
            peer.signed = signed;
            for _ in 0..REFUSALS {
                peer.refused(&server, h(height));
                tokio::time::advance(REFUSED_FOR).await;
            }
            let told = events.try_recv().ok().map(|timed| timed.event);
            let named = matches!(told, Some(ServeEvent::PromiseBroken { missing, .. }) if missing == h(height));
            assert_eq!(named, expected, "{height}: {told:?}");
        }
    }

    /// A commit that consensus has stored beside its last block, and that is not for it, is shown
    /// to nobody: whoever sends such a proof is banned.
    #[test]
    fn a_seen_commit_of_another_block_is_no_proof() {
        let chain = TestChain::builder(3).heights(9).build();
        let made = |seen: &Commit| {
            let (store, last) = (MemStore::new(), h(5));
            let mut commit = Vec::new();
            seen.encode(&mut commit);
            let blocks = (1..=5).map(|height| record_of(&chain.at(h(height)).fetched));
            let batch = Batch {
                blocks: blocks.collect(),
                seen_commit: Some((last, commit.into())),
                state: Some(Arc::new(chain.state_after(last).clone())),
                ..Batch::default()
            };
            store.commit(batch).unwrap();
            let proof = made_of(&store, last).unwrap();
            proof.map(|proof| (proof.header.height, proof.commit.block_id))
        };
        let own = chain.at(h(5));
        assert_eq!(made(&own.commit), Some((h(5), own.fetched.id)));
        let mut above = own.commit.clone();
        above.height = h(6);
        assert_eq!(made(&above), None);
        let another = chain.sign(h(5), 0, nowhere("another"), |_| BlockIdFlag::Commit);
        assert_eq!(made(&another), None);
    }

    #[tokio::test(start_paused = true)]
    async fn proofs_rest_by_the_signatures_of_members_alone() {
        let chain = TestChain::builder(3).heights(9).build();
        let known = KnownSets::of(chain.state_after(Height::new(2)), &RuleSchedule::default());
        let block = chain.at(Height::new(7));
        let set = &chain.state_after(Height::new(6)).validators;
        let header = block.fetched.header().clone();
        let mut proof = HeightProof::new(header, block.commit.clone(), set).unwrap();
        assert_eq!(signatures_of(&proof, &known), set.len());
        let mut stranger = proof.commit.signatures[0].clone();
        stranger.address.0[0] ^= 1;
        proof.commit.signatures.push(stranger);
        assert_eq!(signatures_of(&proof, &known), set.len());

        let mut rest = Rest::default();
        assert!(rest.is_over());
        rest.charge(0);
        assert!(rest.is_over(), "strangers' signatures cost nothing");
        // Two in a row add up, however long ago the last was.
        for _ in 0..2 {
            tokio::time::advance(Duration::from_secs(9)).await;
            rest.charge(40);
            rest.charge(60);
            tokio::time::advance(Duration::from_millis(99)).await;
            assert!(!rest.is_over());
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(rest.is_over());
        }
    }
}
