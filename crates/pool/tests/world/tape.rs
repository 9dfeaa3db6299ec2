//! A recording of a simulated run.

use blocksync_pool::record::Encoder;
use blocksync_pool::{Effect, Input, Pool, Tick};

use super::Body;

/// Records a run in memory, with a whole pool before every `every`th input.
pub(crate) struct Tape {
    encoder: Encoder,
    bytes: Vec<u8>,
    every: u64,
    inputs: u64,
    /// An input that is left out.
    without: Option<u64>,
}

impl Tape {
    pub(crate) fn new(every: u64) -> Self {
        Tape {
            encoder: Encoder::default(),
            bytes: Vec::new(),
            every,
            inputs: 0,
            without: None,
        }
    }

    pub(crate) fn without(mut self, input: u64) -> Self {
        self.without = Some(input);
        self
    }

    pub(crate) fn input(&mut self, pool: &Pool<Body>, input: &Input<Body>, now: u64) {
        if self.inputs.is_multiple_of(self.every) {
            self.encoder.digest(&mut self.bytes);
            self.encoder.pool(pool, Tick(now), &mut self.bytes);
        }
        if self.without != Some(self.inputs) {
            self.encoder.input(input, Tick(now), &mut self.bytes);
        }
        self.inputs += 1;
    }

    pub(crate) fn effects(&mut self, effects: &[Effect<Body>]) {
        self.encoder.effects(effects);
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.encoder.digest(&mut self.bytes);
        self.bytes
    }
}
