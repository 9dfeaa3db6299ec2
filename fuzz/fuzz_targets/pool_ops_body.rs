//! Reads bytes as a configuration and one operation after another, and runs them on the pool.
//! Shared with `tests/pool_ops.rs`.

use blocksync_pool::{
    Candidate, Effect, Fork, Input, Meta, Pool, PoolConfig, RunId, Tick, Verdict,
};
use blocksync_types::fault::{Fault, Proof};
use blocksync_types::ids::{BlockId, ConnId, Hash, Height, PeerId, Source};

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u64 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        u64::from(*first)
    }

    /// Mostly small, sometimes very large.
    fn height(&mut self) -> Height {
        match self.next() {
            b @ 0..240 => Height::new(b % 12),
            250.. => Height::MAX,
            b => Height::new(1 << (b - 200)),
        }
    }
}

fn id(height: Height, tag: u64) -> BlockId {
    let hash = |kind: u8| {
        let mut bytes = [kind; 32];
        bytes[..8].copy_from_slice(&height.get().to_be_bytes());
        bytes[8] = tag as u8;
        Hash(bytes)
    };
    // Tag 2 has the header of tag 0 over other bytes.
    BlockId::new(
        if tag == 2 {
            {
                let mut h = hash(1);
                h.0[8] = 0;
                h
            }
        } else {
            hash(1)
        },
        1,
        hash(2),
    )
}

/// Runs the operations that the bytes spell.
pub(crate) fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut config = PoolConfig::default();
    config.asks_per_peer = 1 + bytes.next() as u32 % 5;
    config.asks_per_ranged_peer = 1 + bytes.next() as u32 % 9;
    config.window = bytes.next() as u32 % 12;
    config.budget_bytes = (bytes.next() % 8) * 300;
    config.first_estimate_bytes = 256;
    config.run = bytes.next() as u32 % 6;
    config.applying = 1 + bytes.next() as u32 % 4;
    config.max_records = 1 + bytes.next() as u32 % 4;
    config.max_peers = 1 + bytes.next() as u32 % 6;
    config.prove_claims_above = bytes.next() as u32 % 6;
    let initial = Height::new(1 + bytes.next() % 3);
    let mut pool: Pool<u8> = Pool::new(config, Height::ZERO, initial, Tick(0));
    let mut world = World {
        now: 0,
        runs: Vec::new(),
        jobs: Vec::new(),
        asks: Vec::new(),
        conns: 0,
    };
    while !bytes.0.is_empty() {
        let input = world.input(&mut bytes, &pool);
        let mut out = Vec::new();
        pool.handle(input, Tick(world.now), &mut out);
        pool.check();
        world.note(out);
    }
}

struct World {
    now: u64,
    runs: Vec<(RunId, Vec<Candidate<u8>>)>,
    jobs: Vec<Vec<Candidate<u8>>>,
    asks: Vec<(ConnId, Height, blocksync_pool::AskId)>,
    conns: u64,
}

impl World {
    fn note(&mut self, out: Vec<Effect<u8>>) {
        for effect in out {
            match effect {
                Effect::Ask {
                    ask,
                    conn,
                    from,
                    count,
                    ..
                } => {
                    self.asks
                        .extend((0..u64::from(count)).map(|n| (conn, from.plus(n), ask)));
                }
                Effect::Verify {
                    run,
                    blocks,
                    carrier,
                } => {
                    let all = blocks.into_iter().chain(carrier).collect();
                    self.runs.push((run, all));
                }
                Effect::Examine { run, copy, .. } => self.runs.push((run, vec![copy])),
                Effect::Apply { blocks, .. } => self.jobs.push(blocks),
                _ => {}
            }
        }
    }

    fn input(&mut self, bytes: &mut Bytes, pool: &Pool<u8>) -> Input<u8> {
        let op = bytes.next();
        let conn = ConnId(if self.conns == 0 {
            0
        } else {
            bytes.next() % self.conns
        });
        match op % 20 {
            0 | 1 => {
                self.conns += 1;
                Input::Up {
                    conn: ConnId(self.conns - 1),
                    peer: PeerId([(bytes.next() % 6) as u8; 20]),
                }
            }
            2 => Input::Down { conn },
            3..=5 => {
                let (base, height) = (bytes.height(), bytes.height());
                Input::Status {
                    conn,
                    base,
                    height,
                    max_range: bytes.next() as u32 % 5,
                }
            }
            6..=10 => self.answer(bytes, conn),
            11 => Input::NoBlock {
                conn,
                height: bytes.height(),
            },
            12 => Input::Receiving {
                conn,
                bytes: bytes.next() as u32 * 8,
            },
            13 | 14 => self.verdict(bytes, pool),
            15 => self.applied(bytes),
            16 => {
                self.now += 1 << (bytes.next() % 28);
                Input::Tick
            }
            17 => match self.asks.pop() {
                Some((_, _, ask)) => Input::SendFailed { ask },
                None => Input::Hedge,
            },
            18 => Input::Backpressure {
                on: bytes.next().is_multiple_of(2),
            },
            _ => match bytes.next() % 8 {
                0 => {
                    (self.runs, self.jobs) = (Vec::new(), Vec::new());
                    Input::Resume {
                        applied: pool.applied().plus(bytes.next() % 4),
                    }
                }
                1 => Input::Malformed {
                    conn,
                    fault: Fault::Malformed(String::new()),
                },
                2 => Input::Overdue { conn },
                3 => Input::Unread { conn },
                4 => Input::Silent {
                    conn,
                    micros: 1 << (bytes.next() % 28),
                },
                5 => Input::ClaimJudged {
                    conn,
                    proven: Some(bytes.height()).filter(|height| height.get() % 2 == 0),
                    applied: Height::new(pool.applied().get().saturating_sub(bytes.next() % 2)),
                },
                _ => Input::Hedge,
            },
        }
    }

    fn answer(&mut self, bytes: &mut Bytes, conn: ConnId) -> Input<u8> {
        let n = bytes.next();
        let at = if self.asks.is_empty() {
            0
        } else {
            n as usize % self.asks.len()
        };
        let (conn, height) = match self.asks.get(at) {
            Some((conn, height, _)) if n < 250 => {
                let found = (*conn, *height);
                self.asks.swap_remove(at);
                found
            }
            _ => (conn, bytes.height()),
        };
        let (own, parent) = (bytes.next(), bytes.next());
        let tag = if own < 200 { 0 } else { own % 3 };
        let parent = id(height.prev(), if parent < 200 { 0 } else { parent % 3 });
        let meta = Meta {
            height,
            id: id(height, tag),
            parent,
            bytes: 50 + own as u32 * 2,
            has_own_commit: own % 16 == 0,
        };
        Input::Block {
            conn,
            meta,
            block: 0,
        }
    }

    fn verdict(&mut self, bytes: &mut Bytes, pool: &Pool<u8>) -> Input<u8> {
        let nobody = (RunId(u64::MAX), Vec::new());
        let (run, copies) = if self.runs.is_empty() {
            nobody
        } else {
            self.runs.remove(0)
        };
        let any = |n: u64| copies.get(n as usize % copies.len().max(1));
        let kind = bytes.next();
        let mut verdict = Verdict::default();
        match kind % 8 {
            0..=3 => {
                let last = copies.iter().rev().nth(usize::from(copies.len() > 1));
                verdict.certified = last.map(|c| (c.meta.height, id(c.meta.height, 0)));
            }
            4 => verdict.shorten = any(bytes.next()).map(|c| c.meta.height),
            5 => {
                let source = |c: &Candidate<u8>| {
                    (c.from, c.meta.height, Fault::BadBlock(Proof(String::new())))
                };
                verdict.guilty = any(bytes.next()).map(source).into_iter().collect();
            }
            6 => {
                let guilty = bytes.next().is_multiple_of(2).then(|| Proof(String::new()));
                return Input::Examined { run, guilty };
            }
            _ if kind == 255 => {
                let height = pool.proven();
                verdict.fork = Some(Fork {
                    height,
                    ids: [id(height, 0), id(height, 1)],
                });
            }
            _ => {}
        }
        Input::Verdict { run, verdict }
    }

    fn applied(&mut self, bytes: &mut Bytes) -> Input<u8> {
        if self.jobs.is_empty() {
            return Input::Tick;
        }
        let job = self.jobs.remove(0);
        let Some(copy) = job.get(bytes.next() as usize % job.len().max(1)) else {
            return Input::Tick;
        };
        if bytes.next() < 230 {
            let rest: Vec<_> = job
                .iter()
                .filter(|c| c.meta.height > copy.meta.height)
                .cloned()
                .collect();
            if !rest.is_empty() {
                self.jobs.insert(0, rest);
            }
            return Input::Applied {
                through: copy.meta.height,
            };
        }
        self.jobs.clear();
        let fault = Fault::BadExtendedCommit(Proof(String::new()));
        let from: Source = copy.from;
        Input::Rejected {
            height: copy.meta.height,
            from,
            fault,
        }
    }
}
