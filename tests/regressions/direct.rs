//! The pool alone, driven by hand.

use blocksync::ids::{ConnId, Height};
use blocksync::pool::{Effect, Input, Meta, Outcome, Pool, PoolConfig, Tick};

use crate::world::{Body, block_id, peer_id};

pub(crate) type Effects = Vec<Effect<Body>>;

/// A pool, and the time that it was last told.
pub(crate) struct Direct {
    pub pool: Pool<Body>,
    pub now: u64,
}

impl Direct {
    pub(crate) fn new() -> Self {
        Self::with(PoolConfig::default())
    }

    pub(crate) fn with(config: PoolConfig) -> Self {
        Direct {
            pool: Pool::new(config, Height::ZERO, Height::new(1), Tick(0)),
            now: 0,
        }
    }

    /// One that has applied everything up to a height before.
    pub(crate) fn applied(height: u64) -> Self {
        let (config, applied) = (PoolConfig::default(), Height::new(height));
        Direct {
            pool: Pool::new(config, applied, Height::new(1), Tick(0)),
            now: 0,
        }
    }

    pub(crate) fn feed(&mut self, input: Input<Body>) -> Effects {
        let mut out = Vec::new();
        self.pool.handle(input, Tick(self.now), &mut out);
        self.pool.check();
        out
    }

    pub(crate) fn tick(&mut self, to: u64) -> Effects {
        let mut all = Vec::new();
        while let Some(Tick(at)) = self.pool.next_deadline().filter(|t| t.0 <= to) {
            self.now = self.now.max(at);
            all.extend(self.feed(Input::Tick));
        }
        self.now = to;
        all.extend(self.feed(Input::Tick));
        all
    }

    pub(crate) fn up(&mut self, conn: u64, height: u64) -> Effects {
        let mut out = self.feed(Input::Up {
            conn: ConnId(conn),
            peer: peer_id(conn as usize),
        });
        out.extend(self.status(conn, u64::from(height > 0), height));
        out
    }

    pub(crate) fn status(&mut self, conn: u64, base: u64, height: u64) -> Effects {
        self.status_of_range(conn, base, height, 1)
    }

    pub(crate) fn status_of_range(
        &mut self,
        conn: u64,
        base: u64,
        height: u64,
        range: u32,
    ) -> Effects {
        let (base, height) = (Height::new(base), Height::new(height));
        self.feed(Input::Status {
            conn: ConnId(conn),
            base,
            height,
            max_range: range,
        })
    }

    pub(crate) fn block(&mut self, conn: u64, height: u64) -> Effects {
        let meta = Meta {
            height: Height::new(height),
            id: block_id(height, 0),
            parent: block_id(height - 1, 0),
            bytes: 500,
            has_own_commit: false,
        };
        let block = Body {
            commit_good: true,
            ext_good: true,
            body_bad: false,
        };
        self.feed(Input::Block {
            conn: ConnId(conn),
            meta,
            block,
        })
    }

    /// One letter for each height of the window.
    pub(crate) fn window(&self) -> String {
        self.pool.window().map(|(_, letter)| letter).collect()
    }

    pub(crate) fn no_block(&mut self, conn: u64, height: u64) -> Effects {
        self.feed(Input::NoBlock {
            conn: ConnId(conn),
            height: Height::new(height),
        })
    }
}

/// The heights that were asked of a connection, in this order.
pub(crate) fn asked(out: &Effects, conn: u64) -> Vec<u64> {
    let of = |e: &Effect<Body>| match e {
        Effect::Ask {
            conn: c,
            from,
            count,
            ..
        } if *c == ConnId(conn) => from.get()..from.get() + u64::from(*count),
        _ => 0..0,
    };
    out.iter().flat_map(of).collect()
}

pub(crate) fn drops(out: &Effects) -> usize {
    out.iter()
        .filter(|e| matches!(e, Effect::Drop { .. }))
        .count()
}

pub(crate) fn caught_up(out: &Effects) -> bool {
    out.iter()
        .any(|e| matches!(e, Effect::Outcome(Outcome::CaughtUp { .. })))
}
