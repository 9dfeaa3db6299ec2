//! A world around the pool alone: an event heap, scripted peers, a verifier and an executor that
//! know the true chain. No tokio, no clock. Shared by the simulation, the fault matrix and the
//! regressions.
#![allow(dead_code)] // each test target uses its own part

#[path = "../digest/mod.rs"]
mod digest;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

mod peers;
mod scenario;
mod tape;
mod verifier;

pub(crate) use peers::*;
pub(crate) use scenario::Scenario;
pub(crate) use tape::Tape;

use blocksync_pool::{
    AskId, Candidate, Effect, Input, Meta, Outcome, Pool, Reading, RunId, Tick, Verdict,
};
use blocksync_types::fault::{CloseReason, Fault, Penalty, Proof};
use blocksync_types::ids::{BlockId, ConnId, Hash, Height, PeerId, Source};

pub(crate) const MS: u64 = 1_000;
pub(crate) const SECOND: u64 = 1_000_000;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Timer,
    Grow,
    Partial(ConnId, u32),
    Up(usize),
    Down(usize, ConnId),
    Status(ConnId),
    /// An answer arrives: connection, height, index of the copy in `copies` or none for "no block".
    Answer(ConnId, u64, Option<u64>),
    Drip(ConnId, u32),
    Read(ConnId),
    /// An answer stands before our own link.
    Before(ConnId, u64, Option<u64>),
    /// Our own link has brought the last one in, and takes the next.
    Link,
    Verdict(u64),
    Examined(u64),
    ClaimJudged(u64),
    Applied(u64),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub finished_at: u64,
    pub outcome: Option<Outcome>,
    /// The heights at which "caught up" was said, with the tip at that time.
    pub caught_up: Vec<(u64, u64)>,
    pub applied: u64,
    pub dropped: Vec<(PeerId, CloseReason, bool)>,
    pub asked: u64,
    /// Heights asked of each peer.
    pub asked_of: BTreeMap<usize, u64>,
    pub downloaded_bytes: u64,
    pub peak_bytes: u64,
    pub inputs: u64,
    pub log_hash: u64,
    /// Asks for heights whose true copy had come before.
    pub asked_again: u64,
    /// How often each branch of judgement was seen.
    pub seen: BTreeMap<&'static str, u64>,
}

struct Conn {
    peer: usize,
    /// When its link is free again.
    free: u64,
    open: bool,
    /// Left unread, with what waits in the socket.
    paused: bool,
    unread: std::collections::VecDeque<(u64, Option<u64>)>,
}

/// Blocks, and the copy that holds the commit for the last of them.
type Carried = (Vec<Candidate<Body>>, Option<Candidate<Body>>);

pub(crate) struct World {
    pub scenario: Scenario,
    pub pool: Pool<Body>,
    pub now: u64,
    heap: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    conns: BTreeMap<ConnId, Conn>,
    next_conn: u64,
    copies: BTreeMap<u64, (Meta, Body)>,
    next_copy: u64,
    verdicts: BTreeMap<u64, (RunId, Verdict)>,
    exams: BTreeMap<u64, (RunId, bool)>,
    /// Proofs of claims with the verifier.
    claims: BTreeMap<u64, Candidate<Body>>,
    jobs: BTreeMap<u64, Carried>,
    executor_free: u64,
    executed: u64,
    cancelled: BTreeSet<AskId>,
    reading: Reading,
    refused_until: BTreeMap<PeerId, u64>,
    /// Heights whose true copy has come.
    had: BTreeSet<u64>,
    /// Queue before our own link, which takes from each connection in turn; and the message that it
    /// is bringing in.
    before: BTreeMap<ConnId, std::collections::VecDeque<(u64, Option<u64>)>>,
    bringing: Option<(ConnId, u64, Option<u64>)>,
    rng: Rng,
    pub report: Report,
    /// A recording of the run, where one is wanted.
    pub tape: Option<Tape>,
}

pub(crate) fn peer_id(n: usize) -> PeerId {
    let mut id = [0; 20];
    id[..8].copy_from_slice(&(n as u64).to_be_bytes());
    PeerId(id)
}

impl World {
    pub(crate) fn new(scenario: Scenario) -> Self {
        let pool = Pool::new(
            scenario.config.clone(),
            Height::new(scenario.initial - 1),
            Height::new(scenario.initial),
            Tick(0),
        );
        let mut world = World {
            pool,
            now: 0,
            heap: BinaryHeap::new(),
            sequence: 0,
            conns: BTreeMap::new(),
            next_conn: 0,
            copies: BTreeMap::new(),
            next_copy: 0,
            verdicts: BTreeMap::new(),
            exams: BTreeMap::new(),
            claims: BTreeMap::new(),
            jobs: BTreeMap::new(),
            executor_free: 0,
            executed: scenario.initial - 1,
            cancelled: BTreeSet::new(),
            reading: Reading::All,
            refused_until: BTreeMap::new(),
            had: BTreeSet::new(),
            before: BTreeMap::new(),
            bringing: None,
            rng: Rng::new(scenario.seed, 1),
            report: Report::default(),
            tape: None,
            scenario,
        };
        for n in 0..world.scenario.peers.len() {
            let at = world.rng.below(50 * MS);
            let at = at.max(world.scenario.peers[n].comes_at);
            world.at(at, Event::Up(n));
        }
        if world.scenario.grows > 0 {
            world.at(world.scenario.grows, Event::Grow);
        }
        world.at(0, Event::Timer);
        world
    }

    fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.heap.push(Reverse((time, self.sequence, event)));
    }

    /// Runs until `done` says so, the time limit, or nothing is left to happen.
    pub(crate) fn run_until(&mut self, done: impl Fn(&World) -> bool) -> bool {
        while !done(self) {
            let deadline = self.pool.next_deadline().map(|t| t.0);
            let next = self.heap.peek().map(|Reverse((t, _, _))| *t);
            let Some(time) = deadline.into_iter().chain(next).min() else {
                return false;
            };
            if time > self.scenario.limit {
                return false;
            }
            self.now = self.now.max(time);
            if next.is_some_and(|t| t <= self.now) {
                let Reverse((_, _, event)) = self.heap.pop().unwrap();
                self.event(event);
            } else {
                self.feed(Input::Tick);
            }
        }
        self.report.finished_at = self.now;
        true
    }

    pub(crate) fn feed(&mut self, input: Input<Body>) {
        let mut todo = vec![input];
        while let Some(input) = todo.pop() {
            self.report.inputs += 1;
            if std::env::var_os("TRACE").is_some() {
                println!("{:>10} <- {input:?}", self.now);
            }
            let mut out = Vec::new();
            if let Some(tape) = &mut self.tape {
                tape.input(&self.pool, &input, self.now);
            }
            self.pool.handle(input, Tick(self.now), &mut out);
            if let Some(tape) = &mut self.tape {
                tape.effects(&out);
            }
            if self.report.inputs.is_multiple_of(self.scenario.check_every) {
                self.pool.check();
            }
            self.report.peak_bytes = self.report.peak_bytes.max(self.pool.buffered_bytes());
            for effect in out {
                if std::env::var_os("TRACE").is_some() {
                    println!("{:>10}    -> {effect:?}", self.now);
                }
                self.log(&effect);
                if let Some(back) = self.perform(effect) {
                    todo.push(back);
                }
            }
        }
    }

    fn log(&mut self, effect: &Effect<Body>) {
        use std::hash::{Hash, Hasher};
        #[allow(deprecated)] // the same in every run, which is what is wanted
        let mut hasher = std::hash::SipHasher::new();
        (self.report.log_hash, self.now).hash(&mut hasher);
        digest::hash(effect, &mut hasher);
        self.report.log_hash = hasher.finish();
    }

    fn spec(&self, conn: ConnId) -> Option<(usize, PeerSpec)> {
        let peer = self.conns.get(&conn).filter(|c| c.open)?.peer;
        let mut spec = self.scenario.peers[peer].clone();
        if self.now >= spec.heals_at {
            spec.role = Role::Honest;
        }
        Some((peer, spec))
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Timer => self.feed(Input::Tick),
            Event::Grow => {
                self.scenario.tip += 1;
                self.at(self.now + self.scenario.grows, Event::Grow);
            }
            Event::Partial(conn, bytes) => {
                if self.conns.get(&conn).is_some_and(|c| c.open && !c.paused) {
                    self.feed(Input::Receiving { conn, bytes });
                }
            }
            Event::Up(peer) => self.up(peer),
            Event::Down(peer, conn) => {
                if self.conns.get(&conn).is_some_and(|c| c.open) {
                    self.close(conn);
                    self.feed(Input::Down { conn });
                }
                let back = self.now + 200 * MS + self.rng.below(300 * MS);
                self.at(back, Event::Up(peer));
            }
            Event::Status(conn) => self.status(conn),
            Event::Answer(conn, height, copy) => self.arrive(conn, height, copy),
            Event::Drip(conn, bytes) => {
                if self.conns.get(&conn).is_some_and(|c| c.open) {
                    self.feed(Input::Receiving { conn, bytes });
                    self.at(self.now + SECOND, Event::Drip(conn, bytes + 1));
                }
            }
            Event::Read(conn) => self.read(conn),
            Event::Before(conn, height, copy) => {
                self.before
                    .entry(conn)
                    .or_default()
                    .push_back((height, copy));
                if self.bringing.is_none() {
                    self.bring(conn);
                }
            }
            Event::Link => self.link(),
            Event::Verdict(n) => {
                let (run, verdict) = self.verdicts.remove(&n).unwrap();
                self.feed(Input::Verdict { run, verdict });
            }
            Event::Examined(n) => {
                let (run, bad) = self.exams.remove(&n).unwrap();
                let guilty = bad.then(|| Proof("data hash differs".into()));
                self.feed(Input::Examined { run, guilty });
            }
            Event::ClaimJudged(n) => {
                let copy = self.claims.remove(&n).unwrap();
                let (proven, applied) = (self.judge_claim(&copy), Height::new(self.executed));
                let conn = copy.from.conn;
                self.feed(Input::ClaimJudged {
                    conn,
                    proven,
                    applied,
                });
            }
            Event::Applied(n) => self.execute(n),
        }
    }

    /// Our own link has brought the last one in, and takes the next.
    fn link(&mut self) {
        let Some((conn, height, copy)) = self.bringing.take() else {
            return;
        };
        self.arrive(conn, height, copy);
        let next = self.before.range(ConnId(conn.0 + 1)..).next();
        if let Some((conn, _)) = next.or_else(|| self.before.first_key_value()) {
            self.bring(*conn);
        }
    }

    fn up(&mut self, peer: usize) {
        let until = self.refused_until.get(&peer_id(peer)).copied().unwrap_or(0);
        if until > self.now {
            self.at(until + 1, Event::Up(peer));
            return;
        }
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        self.conns.insert(
            conn,
            Conn {
                peer,
                free: self.now,
                open: true,
                paused: !self.reading.reads(conn),
                unread: Default::default(),
            },
        );
        self.feed(Input::Up {
            conn,
            peer: peer_id(peer),
        });
        let Some((_, spec)) = self.spec(conn) else {
            return;
        };
        self.at(self.now + spec.latency, Event::Status(conn));
        match spec.role {
            Role::Flaps(up) => self.at(self.now + up, Event::Down(peer, conn)),
            Role::Unasked => {
                let copy = self.copy(self.scenario.initial + 7, 0, GOOD);
                self.at(
                    self.now + 3 * spec.latency,
                    Event::Answer(conn, self.scenario.initial + 7, Some(copy)),
                );
            }
            _ => {}
        }
    }

    fn close(&mut self, conn: ConnId) {
        if let Some(c) = self.conns.get_mut(&conn) {
            c.open = false;
        }
    }

    fn status(&mut self, conn: ConnId) {
        let Some((_, spec)) = self.spec(conn) else {
            return;
        };
        let tip = self.scenario.tip;
        let (base, height) = match spec.role {
            Role::Mute => return,
            Role::Claims(h) | Role::ClaimsAndServes(h) | Role::Forges(h) | Role::ServesOnly(h) => {
                (self.scenario.initial, h)
            }
            Role::Fresh => (0, 0),
            Role::Prunes(base) => (base.min(tip), tip),
            Role::Sinks => (self.scenario.initial, tip - self.rng.below(tip / 2)),
            _ => (self.scenario.initial, tip),
        };
        let (base, height) = (Height::new(base), Height::new(height));
        self.feed(Input::Status {
            conn,
            base,
            height,
            max_range: spec.max_range,
        });
    }

    /// The block of a chain with another genesis, which links to the others of that chain.
    fn other_genesis(&mut self, height: u64) -> u64 {
        let copy = self.copy(height, OTHER_GENESIS, GOOD);
        if height > self.scenario.initial
            && let Some((meta, _)) = self.copies.get_mut(&copy)
        {
            meta.parent = block_id(height - 1, OTHER_GENESIS);
        }
        copy
    }

    fn copy(&mut self, height: u64, tag: u64, body: Body) -> u64 {
        let parent = if height == self.scenario.initial {
            BlockId::ZERO
        } else {
            block_id(height - 1, 0)
        };
        let bytes = self.scenario.block_bytes;
        let meta = Meta {
            height: Height::new(height),
            id: block_id(height, tag),
            parent,
            bytes,
            has_own_commit: false,
        };
        self.put(meta, body)
    }

    fn put(&mut self, meta: Meta, body: Body) -> u64 {
        self.next_copy += 1;
        self.copies.insert(self.next_copy, (meta, body));
        self.next_copy
    }

    fn lie(&mut self, height: u64, lie: Lie) -> u64 {
        *self.report.seen.entry("lie").or_default() += 1;
        match lie {
            Lie::Header => self.copy(height, 1, GOOD),
            Lie::Body => {
                let n = self.copy(
                    height,
                    0,
                    Body {
                        body_bad: true,
                        ..GOOD
                    },
                );
                let (meta, _) = self.copies.get_mut(&n).unwrap();
                meta.id.parts.hash = Some(Hash([9; 32]));
                n
            }
            Lie::Commit => self.copy(
                height,
                0,
                Body {
                    commit_good: false,
                    ..GOOD
                },
            ),
            Lie::Parent => {
                let n = self.copy(
                    height,
                    2,
                    Body {
                        commit_good: false,
                        ..GOOD
                    },
                );
                let (meta, _) = self.copies.get_mut(&n).unwrap();
                meta.parent = block_id(height.saturating_sub(1), 77);
                n
            }
            Lie::Extension => self.copy(
                height,
                0,
                Body {
                    ext_good: false,
                    ..GOOD
                },
            ),
            Lie::Height => self.copy(height - 1, 0, GOOD),
        }
    }

    fn asked(&mut self, conn: ConnId, height: u64) {
        let Some((peer, spec)) = self.spec(conn) else {
            return;
        };
        self.report.asked += 1;
        self.report.asked_again += u64::from(self.had.contains(&height));
        *self.report.asked_of.entry(peer).or_default() += 1;
        let tip = self.scenario.tip;
        let answer = match spec.role {
            Role::Silent | Role::Mute | Role::Claims(_) => return,
            Role::Drips => {
                self.at(self.now + SECOND, Event::Drip(conn, 1));
                return;
            }
            Role::NoBlocks => None,
            Role::ServesOnly(only) if height != only => return,
            Role::Forges(_) if height > tip => Some(self.copy(height, 5, GOOD)),
            Role::Prunes(base) if height < base => None,
            _ if height > tip => None,
            Role::OtherGenesis => Some(self.other_genesis(height)),
            Role::Liar(lie) if height > self.scenario.initial + 1 && self.rng.chance(300) => {
                Some(self.lie(height, lie))
            }
            _ => Some(self.copy(height, 0, GOOD)),
        };
        let bytes = if answer.is_some() {
            u64::from(self.scenario.block_bytes)
        } else {
            10
        };
        let delay = if let Role::Late(by) = spec.role {
            by
        } else {
            0
        };
        let c = self.conns.get_mut(&conn).unwrap();
        let ready = self.now + spec.latency;
        let begin = c.free.max(ready.next_multiple_of(spec.flush.max(1)));
        c.free = begin + bytes * SECOND / spec.bandwidth.max(1);
        let (from, to) = spec.stops;
        if (from..to).contains(&c.free) {
            c.free = to;
        }
        let at = c.free + spec.latency + delay;
        if spec.tells_progress {
            self.tell_progress(conn, begin + spec.latency, at, bytes);
        }
        if self.scenario.downlink < u64::MAX {
            self.at(at, Event::Before(conn, height, answer));
        } else {
            self.at(at, Event::Answer(conn, height, answer));
        }
    }

    /// The parts of a message come one a second.
    fn tell_progress(&mut self, conn: ConnId, begin: u64, end: u64, bytes: u64) {
        let mut at = begin + SECOND;
        while at < end {
            let part = bytes * (at - begin) / (end - begin);
            let part = u32::try_from(part).unwrap_or(u32::MAX);
            self.at(at, Event::Partial(conn, part));
            at += SECOND;
        }
    }

    /// Our own link takes the connection's next answer.
    fn bring(&mut self, conn: ConnId) {
        let Some(queue) = self.before.get_mut(&conn) else {
            return;
        };
        if let Some((height, copy)) = queue.pop_front() {
            let bytes = copy.map_or(10, |_| u64::from(self.scenario.block_bytes));
            let took = bytes * SECOND / self.scenario.downlink;
            self.bringing = Some((conn, height, copy));
            self.at(self.now + took, Event::Link);
        }
        if self.before.get(&conn).is_some_and(|queue| queue.is_empty()) {
            self.before.remove(&conn);
        }
    }

    fn arrive(&mut self, conn: ConnId, height: u64, copy: Option<u64>) {
        let c = self.conns.get_mut(&conn).unwrap();
        c.unread.push_back((height, copy));
        self.read(conn);
    }

    fn read(&mut self, conn: ConnId) {
        while let Some(c) = self.conns.get_mut(&conn).filter(|c| !c.paused) {
            let Some((height, copy)) = c.unread.pop_front() else {
                return;
            };
            self.deliver(conn, height, copy);
        }
    }

    fn deliver(&mut self, conn: ConnId, height: u64, copy: Option<u64>) {
        let Some(copy) = copy else {
            if self.spec(conn).is_some() {
                self.feed(Input::NoBlock {
                    conn,
                    height: Height::new(height),
                });
            }
            return;
        };
        let (meta, block) = self.copies.remove(&copy).unwrap();
        if self.spec(conn).is_some() {
            if meta.id == block_id(height, 0) && block == GOOD {
                self.had.insert(height);
            }
            self.report.downloaded_bytes += u64::from(meta.bytes);
            self.feed(Input::Block { conn, meta, block });
        }
    }

    fn execute(&mut self, n: u64) {
        let Some((blocks, carrier)) = self.jobs.remove(&n) else {
            return;
        };
        if blocks[0].meta.height.get() != self.executed + 1 {
            return; // discarded after a refusal
        }
        for block in &blocks {
            let height = block.meta.height;
            assert_eq!(
                height.get(),
                self.executed + 1,
                "heights reach the executor in order"
            );
            assert_eq!(
                block.meta.id,
                block_id(height.get(), 0),
                "only true blocks reach the executor"
            );
            if !block.block.ext_good {
                self.refuse(height, block.from);
                return;
            }
            if height == blocks.last().unwrap().meta.height {
                let carrier = carrier.as_ref().expect("a commit for the last block");
                assert_eq!(
                    carrier.meta.parent, block.meta.id,
                    "the carrier's commit is for the last block"
                );
                if !carrier.block.commit_good {
                    self.refuse(carrier.meta.height, carrier.from);
                    return;
                }
            }
            self.executed += 1;
        }
        self.feed(Input::Applied {
            through: Height::new(self.executed),
        });
    }

    fn refuse(&mut self, height: Height, from: Source) {
        *self.report.seen.entry("rejected").or_default() += 1;
        self.jobs.clear();
        let initial = self.scenario.initial - 1;
        if self.executed > initial {
            self.feed(Input::Applied {
                through: Height::new(self.executed),
            });
        }
        let fault = Fault::BadExtendedCommit(Proof(format!("height {height}")));
        self.feed(Input::Rejected {
            height,
            from,
            fault,
        });
    }

    fn perform(&mut self, effect: Effect<Body>) -> Option<Input<Body>> {
        match effect {
            Effect::Ask {
                ask,
                conn,
                from,
                count,
                ..
            } => {
                if self.spec(conn).is_none() {
                    return Some(Input::SendFailed { ask });
                }
                for n in 0..u64::from(count) {
                    self.asked(conn, from.plus(n).get());
                }
            }
            Effect::Cancel { ask } => {
                self.cancelled.insert(ask);
            }
            Effect::AskStatus { conn } => {
                if let Some((_, spec)) = self.spec(conn) {
                    self.at(self.now + 2 * spec.latency, Event::Status(conn));
                }
            }
            Effect::Read(reading) => self.read_only(reading),
            Effect::Verify {
                run,
                blocks,
                carrier,
            } => {
                self.sequence += 1;
                // With the sets known now: more may be applied before the verdict is there.
                let verdict = self.judge(&blocks, carrier.as_ref());
                self.verdicts.insert(self.sequence, (run, verdict));
                let (at, n) = (self.now + self.scenario.verify_time, self.sequence);
                self.at(at, Event::Verdict(n));
            }
            Effect::Examine { run, copy, .. } => {
                *self.report.seen.entry("examine").or_default() += 1;
                self.sequence += 1;
                self.exams.insert(self.sequence, (run, copy.block.body_bad));
                let (at, n) = (self.now + self.scenario.verify_time, self.sequence);
                self.at(at, Event::Examined(n));
            }
            Effect::ProveClaim { copy } => self.take_claim(copy),
            Effect::Apply { blocks, carrier } => {
                self.sequence += 1;
                let begin = self.executor_free.max(self.now);
                self.executor_free = begin + self.scenario.apply_time;
                self.jobs.insert(self.sequence, (blocks, carrier));
                let n = self.sequence;
                self.at(self.executor_free, Event::Applied(n));
            }
            Effect::Drop {
                conn,
                peer,
                reason,
                ban_until,
            } => self.dropped(conn, peer, reason, ban_until),
            Effect::Outcome(outcome) => {
                if let Outcome::CaughtUp { height } = outcome {
                    let tip = self.scenario.tip;
                    self.report.caught_up.push((height.get(), tip));
                }
                self.report.outcome = Some(outcome);
            }
        }
        None
    }

    fn take_claim(&mut self, copy: Candidate<Body>) {
        self.sequence += 1;
        self.claims.insert(self.sequence, copy);
        let (at, n) = (self.now + self.scenario.verify_time, self.sequence);
        self.at(at, Event::ClaimJudged(n));
    }

    /// From now on these are read; what waits in the sockets of those that were not comes at once.
    fn read_only(&mut self, reading: Reading) {
        *self.report.seen.entry("read").or_default() += 1;
        let mut again = Vec::new();
        for (id, conn) in &mut self.conns {
            let before = std::mem::replace(&mut conn.paused, !reading.reads(*id));
            if before && !conn.paused {
                again.push(*id);
            }
        }
        self.reading = reading;
        for conn in again {
            self.at(self.now, Event::Read(conn));
        }
    }

    fn dropped(
        &mut self,
        conn: ConnId,
        peer: PeerId,
        reason: CloseReason,
        ban_until: Option<Tick>,
    ) {
        *self.report.seen.entry(reason.name()).or_default() += 1;
        let n = self.conns.get(&conn).map(|c| c.peer);
        self.close(conn);
        let banned = ban_until.is_some() && reason.penalty() == Penalty::Ban;
        self.report.dropped.push((peer, reason, banned));
        // Some try again before their ban is over.
        let impatient = banned && n.is_some_and(|n| n % 4 == 3);
        let until = ban_until.filter(|_| !impatient);
        if let Some(Tick(until)) = until {
            self.refused_until.insert(peer, until);
        }
        if let Some(n) = n {
            let back = until.map_or(self.now + SECOND, |t| t.0 + 1);
            self.at(back, Event::Up(n));
        }
    }

    pub(crate) fn applied(&self) -> u64 {
        self.pool.applied().get()
    }

    pub(crate) fn caught_up(&self) -> bool {
        matches!(&self.report.outcome, Some(Outcome::CaughtUp { .. }))
    }

    /// Peers that never lie and were banned: must be none.
    pub(crate) fn honest_bans(&self) -> Vec<&(PeerId, CloseReason, bool)> {
        let honest: Vec<PeerId> = (0..self.scenario.peers.len())
            .filter(|n| self.scenario.peers[*n].is_honest())
            .map(peer_id)
            .collect();
        self.report
            .dropped
            .iter()
            .filter(|(peer, _, banned)| *banned && honest.contains(peer))
            .collect()
    }
}
