//! Actions and properties.

use blocksync_pool::Input;
use blocksync_types::ids::{ConnId, Height};
use stateright::{Model, Property};

use super::world::{
    Answer, BYTES, Bounds, SAW_BLOCK, SAW_COMMIT, SAW_EXAMINED, SAW_EXTENSION, SAW_GROWTH,
    SAW_PARTLY, SAW_PROOF, SAW_SHORTEN, SAW_SLOW, SAW_TIMEOUT, SAW_UNASKED, World,
};
use blocksync_types::fault::{Fault, Proof};

/// Requests that an honest connection may get for one height: the first, and one more for each that
/// a liar or a flap undid.
const ASKED: u8 = 6;
/// Verdicts in a row without anything else happening.
const IDLE_VERDICTS: u8 = 12;

pub(crate) struct PoolModel {
    pub bounds: Bounds,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    HonestStatus(ConnId),
    FaultyStatus(ConnId, u64, u64),
    Answer(ConnId, u64, Answer),
    Overdue(ConnId),
    Hedge,
    Verdict(usize),
    Examined(usize),
    JudgeClaim(usize),
    Grow,
    Late(ConnId),
    Apply(usize),
    Leave(u64),
    Join(u64),
    Flap(u64),
    Unasked(ConnId),
    Malformed(ConnId),
    Choke,
}

impl PoolModel {
    fn honest(&self, peer: u64) -> bool {
        peer < self.bounds.honest
    }

    fn owed(world: &World, conn: ConnId) -> usize {
        world
            .pool
            .peers()
            .find(|p| p.conn == conn)
            .map_or(0, |p| p.owed)
    }

    /// Honest connections that have told their status, sorted out by what the pool knows of them.
    fn honest_told(&self, world: &World) -> bool {
        world
            .told
            .keys()
            .any(|c| world.conns.get(c).is_some_and(|p| self.honest(*p)))
    }

    fn peer_actions(&self, world: &World, actions: &mut Vec<Action>) {
        for (conn, peer) in &world.conns {
            if self.honest(*peer) {
                if world.told.get(conn).is_none_or(|told| *told < world.tip) {
                    actions.push(Action::HonestStatus(*conn));
                }
                if world.slow > 0 && Self::owed(world, *conn) > 0 {
                    actions.push(Action::Late(*conn));
                }
                if world.flaps > 0 {
                    actions.push(Action::Flap(*peer));
                }
                continue;
            }
            if Self::owed(world, *conn) > 0 && (self.honest_told(world) || world.fuel > 0) {
                actions.push(Action::Overdue(*conn));
            }
            if world.fuel == 0 {
                continue;
            }
            let claims = self.bounds.claims.iter();
            actions
                .extend(claims.map(|(base, height)| Action::FaultyStatus(*conn, *base, *height)));
            actions.push(Action::Leave(*peer));
            actions.push(Action::Unasked(*conn));
            if self.bounds.answers.len() > 4 {
                actions.push(Action::Malformed(*conn));
            }
        }
        for (conn, height) in world.open.keys() {
            let honest = self.honest(world.conns[conn]);
            let answers = if honest {
                &[Answer::Good][..]
            } else {
                self.bounds.answers
            };
            actions.extend(answers.iter().map(|a| Action::Answer(*conn, *height, *a)));
        }
        for peer in 0..self.bounds.honest + self.bounds.faulty {
            if world.conn_of(peer).is_none()
                && (self.honest(peer) || (world.fuel > 0 && !world.banned.contains(&peer)))
            {
                actions.push(Action::Join(peer));
            }
        }
    }
}

fn status(conn: ConnId, base: u64, height: u64) -> Input<super::world::Body> {
    let (base, height) = (Height::new(base), Height::new(height));
    Input::Status {
        conn,
        base,
        height,
        max_range: 1,
    }
}

impl Model for PoolModel {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(&self.bounds)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        self.peer_actions(world, actions);
        actions.extend((0..world.verdicts(&self.bounds).len()).map(Action::Verdict));
        actions.extend((0..world.exams.len()).map(Action::Examined));
        actions.extend((0..world.claims.len()).map(Action::JudgeClaim));
        if world.grows > 0 {
            actions.push(Action::Grow);
        }
        if let Some((blocks, _)) = world.jobs.first() {
            actions.push(Action::Apply(blocks.len()));
            if blocks.len() > 1 {
                actions.push(Action::Apply(1));
            }
        }
        if world.pool.window().any(|(_, l)| l == '?') {
            actions.push(Action::Hedge);
        }
        if self.bounds.answers.len() > 4 && world.fuel > 0 && !world.choked {
            actions.push(Action::Choke);
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        let bounds = &self.bounds;
        match action {
            Action::HonestStatus(conn) => {
                world.told.insert(conn, world.tip);
                let heard = world.heard_tip(bounds);
                world.feed(bounds, status(conn, 1, heard));
            }
            Action::FaultyStatus(conn, base, height) => {
                world.fuel -= 1;
                world.told.insert(conn, 0);
                world.feed(bounds, status(conn, base, height));
            }
            Action::Answer(conn, height, answer) => world.answer(bounds, conn, height, answer),
            Action::Overdue(conn) => {
                if !self.honest_told(&world) {
                    world.fuel -= 1;
                }
                world.feed(bounds, Input::Overdue { conn });
            }
            Action::Hedge => {
                let before: u32 = world.open.values().map(|n| u32::from(*n)).sum();
                world.feed(bounds, Input::Hedge);
                world.ghosts.hedged |=
                    world.open.values().map(|n| u32::from(*n)).sum::<u32>() > before;
            }
            Action::Verdict(n) => give_verdict(&mut world, bounds, n)?,
            Action::Examined(n) => {
                let (run, copy) = world.exams.remove(n);
                world.ghosts.seen |= SAW_EXAMINED;
                let guilty = (!copy.block.commit_good).then(|| Proof(String::new()));
                world.feed(bounds, Input::Examined { run, guilty });
            }
            Action::JudgeClaim(n) => world.judge_claim(bounds, n),
            Action::Grow => grow(&mut world),
            Action::Late(conn) => be_late(&mut world, bounds, conn),
            Action::Apply(count) => world.execute(bounds, count),
            Action::Leave(peer) => {
                world.fuel -= 1;
                world.leave(bounds, peer);
            }
            Action::Join(peer) => {
                world.fuel -= u8::from(!self.honest(peer));
                world.join(bounds, peer);
            }
            Action::Flap(peer) => {
                world.flaps -= 1;
                world.leave(bounds, peer);
            }
            Action::Unasked(conn) => {
                world.fuel -= 1;
                world.give(bounds, conn, 2, Answer::Good);
            }
            Action::Malformed(conn) => {
                world.fuel -= 1;
                let fault = Fault::Malformed(String::new());
                world.feed(bounds, Input::Malformed { conn, fault });
            }
            Action::Choke => {
                world.fuel -= 1;
                world.choked = true;
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("S1: only the chain's blocks, in order", |_, w: &World| {
                !w.ghosts.false_block
            }),
            Property::always("S5: no honest peer is dropped", |_, w: &World| {
                !w.ghosts.honest_dropped
            }),
            Property::always("S6: blame is the supplier's", |_, w: &World| {
                !w.ghosts.wrong_blame
            }),
            Property::always("S9: stored commits are valid", |_, w: &World| {
                !w.ghosts.bad_commit_stored
            }),
            Property::always("S12-S14: check()", |_, w: &World| !w.ghosts.broken),
            Property::always("S12: the byte budget", |m: &PoolModel, w: &World| {
                w.pool.buffered_bytes() <= (m.bounds.budget + 2) * u64::from(BYTES)
            }),
            Property::always("S13: an idle peer is asked for the lowest heights", works),
            Property::always("S14: what is owed was asked", |_, w: &World| {
                w.pool
                    .peers()
                    .all(|p| p.owed <= w.open.keys().filter(|(c, _)| *c == p.conn).count())
            }),
            Property::always("S15: no finish below a told honest peer", |_, w: &World| {
                !w.ghosts.early_finish
            }),
            Property::always("S15: no finish without a peer", |_, w: &World| {
                !w.ghosts.finish_alone
            }),
            Property::always("S15: no finish below a proven height", |_, w: &World| {
                !w.ghosts.finish_below_proof
            }),
            Property::always("L1: at rest only at the tip", rests_at_the_tip),
            Property::always("L2: bounded work", |_, w: &World| {
                w.asked.values().all(|n| *n <= ASKED) && w.idle_verdicts <= IDLE_VERDICTS
            }),
        ];
        properties.extend(sometimes());
        properties
    }
}

/// The verifier's answer of this number to the run under way.
fn give_verdict(world: &mut World, bounds: &Bounds, n: usize) -> Option<()> {
    let verdict = world.verdicts(bounds).swap_remove(n);
    let shortened = verdict.shorten.is_some();
    world.ghosts.seen |= if shortened { SAW_SHORTEN } else { 0 };
    world.ghosts.seen |= if n == 1 { SAW_PARTLY } else { 0 };
    world.idle_verdicts = (world.idle_verdicts + 1).min(IDLE_VERDICTS + 1);
    let run = world.verify.take()?.run;
    world.feed(bounds, Input::Verdict { run, verdict });
    Some(())
}

/// The chain has one block more.
fn grow(world: &mut World) {
    world.grows -= 1;
    world.tip += 1;
    world.ghosts.seen |= SAW_GROWTH;
}

/// An honest peer takes longer than we wait.
fn be_late(world: &mut World, bounds: &Bounds, conn: ConnId) {
    world.slow -= 1;
    world.ghosts.seen |= SAW_SLOW;
    world.feed(bounds, Input::Overdue { conn });
}

fn sometimes() -> Vec<Property<PoolModel>> {
    fn saw(w: &World, what: u16) -> bool {
        w.ghosts.seen & what != 0
    }
    vec![
        Property::sometimes("finishes", |_, w: &World| {
            w.ghosts.finished && w.executed > 0
        }),
        Property::sometimes("reaches the tip", |m: &PoolModel, w: &World| {
            w.executed + 1 >= m.bounds.tip
        }),
        Property::sometimes("a proven claim", |_, w: &World| saw(w, SAW_PROOF)),
        Property::sometimes("a grown chain", |_, w: &World| {
            saw(w, SAW_GROWTH) && w.executed + 1 >= w.tip
        }),
        Property::sometimes("a slow honest peer", |_, w: &World| saw(w, SAW_SLOW)),
        Property::sometimes("a hedge", |_, w: &World| w.ghosts.hedged),
        Property::sometimes("a late answer used", |_, w: &World| w.ghosts.late_used),
        Property::sometimes("a false block", |_, w: &World| saw(w, SAW_BLOCK)),
        Property::sometimes("a false commit", |_, w: &World| saw(w, SAW_COMMIT)),
        Property::sometimes("a false extended commit", |_, w: &World| {
            saw(w, SAW_EXTENSION)
        }),
        Property::sometimes("an unasked block", |_, w: &World| saw(w, SAW_UNASKED)),
        Property::sometimes("a timeout", |_, w: &World| saw(w, SAW_TIMEOUT)),
        Property::sometimes("an examination", |_, w: &World| saw(w, SAW_EXAMINED)),
        Property::sometimes("a shortened run", |_, w: &World| saw(w, SAW_SHORTEN)),
        Property::sometimes("one less certified", |_, w: &World| saw(w, SAW_PARTLY)),
    ]
}

/// The two lowest heights are always admitted: while one of them is wanted, an honest peer with
/// nothing to do would have been asked.
fn works(model: &PoolModel, world: &World) -> bool {
    let idle = world.told.keys().any(|conn| {
        let honest = world
            .conns
            .get(conn)
            .is_some_and(|p| *p < model.bounds.honest);
        honest && !world.open.keys().any(|(c, _)| c == conn)
    });
    let next = world.pool.applied().next();
    // As high as an idle one has told.
    let heard = world.told.values().copied().max().unwrap_or(0);
    let waits = world
        .pool
        .window()
        .any(|(h, l)| l == '.' && h <= next.next() && h.get() <= heard);
    !(idle && waits)
}

/// A state in which nobody owes anything any more.
fn rests_at_the_tip(model: &PoolModel, world: &World) -> bool {
    let mut actions = Vec::new();
    model.actions(world, &mut actions);
    let moves = actions.iter().any(|action| match action {
        Action::HonestStatus(_)
        | Action::Verdict(_)
        | Action::Examined(_)
        | Action::JudgeClaim(_)
        | Action::Apply(_) => true,
        Action::Answer(conn, _, _) => model.honest(world.conns[conn]),
        Action::Join(peer) => model.honest(*peer),
        Action::Overdue(_) => model.honest_told(world),
        _ => false,
    });
    moves || world.executed + 1 >= world.tip && world.pool.applied().get() == world.executed
}
