//! Recordings: what a pool was given and when, so that the same pool can be run again elsewhere.
//!
//! A recording is a sequence of entries in postcard's form. It begins with a whole pool, and
//! each part of it that begins with one can be replayed alone. Blocks are left out: the pool never
//! looks into them. Digests of all effects stand in between, so that a replay that differs is seen.
//!
//! The form is that of the pool's own fields: it is read by the version that wrote it.

use serde::{Deserialize, Serialize};

use super::io::{Effect, Input, Tick};
use super::{Outcome, Pool};

/// One entry of a recording, over an owned pool and input or over borrowed ones.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Entry<P, I> {
    /// The whole pool, before the next input, and the clock that times count from.
    Pool { now: Tick, pool: P },
    /// An input, and the microseconds since the one before.
    Input { after: u64, input: I },
    /// All inputs since the last pool: their number, the effects' number, the effects' digest.
    Digest(Digest),
    /// Inputs that the recorder lost before the next pool.
    Lost(u64),
}

/// The number of inputs and of effects since the recording's last whole pool, and a digest of
/// those effects with their times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Inputs.
    pub inputs: u64,
    /// Effects.
    pub effects: u64,
    /// CRC-32 of the time of each input and of the effects that it had, encoded.
    pub crc: u32,
}

/// Bytes of encoded effects from which on the digest takes them in: the checksum of a few is dear.
const BATCH: usize = 4 << 10;

/// Counts inputs and effects.
#[derive(Clone, Debug, Default)]
struct Digester {
    digest: Digest,
    /// Encoded effects that the checksum has not taken in yet.
    encoded: Vec<u8>,
}

impl Digester {
    /// Begins anew, at a whole pool.
    fn begin(&mut self) {
        self.digest = Digest::default();
        self.encoded.clear();
    }

    fn note<B>(&mut self, now: Tick, effects: &[Effect<B>]) {
        encode(&(now, effects), &mut self.encoded);
        self.digest.inputs += 1;
        self.digest.effects += effects.len() as u64;
        if self.encoded.len() >= BATCH {
            self.take_in();
        }
    }

    fn take_in(&mut self) {
        let mut crc = crc32fast::Hasher::new_with_initial(self.digest.crc);
        crc.update(&self.encoded);
        self.digest.crc = crc.finalize();
        self.encoded.clear();
    }

    /// The digest of all that was noted.
    fn digest(&mut self) -> Digest {
        self.take_in();
        self.digest
    }
}

fn encode<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    // A vector takes all, and all lengths are known.
    postcard::to_io(value, out).expect("a vector takes what is written to it");
}

/// Encodes what one pool is given and does. It keeps nothing but counts; where the bytes go is its
/// owner's affair.
#[derive(Clone, Debug, Default)]
pub struct Encoder {
    last: Tick,
    digester: Digester,
}

impl Encoder {
    /// The whole pool as it is now: a replay can begin here.
    pub fn pool<B: Clone>(&mut self, pool: &Pool<B>, now: Tick, out: &mut Vec<u8>) {
        self.last = now;
        self.digester.begin();
        encode(&Entry::<_, ()>::Pool { now, pool }, out);
    }

    /// An input that the pool is about to be given.
    pub fn input<B>(&mut self, input: &Input<B>, now: Tick, out: &mut Vec<u8>) {
        let after = now.0.saturating_sub(self.last.0);
        self.last = Tick(self.last.0 + after);
        encode(&Entry::<(), _>::Input { after, input }, out);
    }

    /// All effects of that input.
    pub fn effects<B>(&mut self, effects: &[Effect<B>]) {
        self.digester.note(self.last, effects);
    }

    /// The digest of all effects since the last whole pool.
    pub fn digest(&mut self, out: &mut Vec<u8>) {
        encode(&Entry::<(), ()>::Digest(self.digester.digest()), out);
    }

    /// Says that this many inputs were lost. A whole pool has to follow.
    pub fn lost(&mut self, inputs: u64, out: &mut Vec<u8>) {
        encode(&Entry::<(), ()>::Lost(inputs), out);
    }
}

/// One step of a replay.
#[derive(Debug)]
#[non_exhaustive]
#[allow(clippy::large_enum_variant)] // steps are most of all inputs, and one lives at a time
pub enum Step {
    /// A whole pool stood here. `same` says whether the replay had arrived at an equal one; `None`
    /// at the start and after a gap, where there is nothing to compare.
    Pool {
        /// Its time.
        now: Tick,
        /// Equal to the replayed one.
        same: Option<bool>,
    },
    /// The pool was given an input.
    Input {
        /// Its time.
        now: Tick,
        /// The input, without its block.
        input: Input<()>,
        /// Everything that the pool wanted done.
        effects: Vec<Effect<()>>,
    },
    /// A digest stood here.
    Digest {
        /// As recorded.
        recorded: Digest,
        /// As replayed.
        replayed: Digest,
    },
    /// This number of inputs was lost; the replay goes on with the whole pool that follows.
    Lost(u64),
}

/// A recording that cannot be read on.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Broken {
    /// It ends within an entry: the program was killed, or the file is cut off.
    CutOff,
    /// These bytes are no entry: another version made it, or the file is damaged.
    NoEntry {
        /// Bytes before the entry.
        at: usize,
        /// The decoder's words.
        why: String,
    },
    /// An input comes before any whole pool.
    NoPool,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Broken::CutOff => f.write_str("the recording ends within an entry"),
            Broken::NoEntry { at, why } => {
                write!(f, "byte {at} of the recording begins no entry: {why}")
            }
            Broken::NoPool => f.write_str("the recording has an input before any pool"),
        }
    }
}

impl std::error::Error for Broken {}

/// Runs a recording through a pool, entry by entry.
#[derive(Debug)]
pub struct Replay<'a> {
    bytes: &'a [u8],
    at: usize,
    pool: Option<Pool<()>>,
    now: Tick,
    digester: Digester,
    outcome: Option<Outcome>,
}

impl<'a> Replay<'a> {
    /// A replay of these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Replay {
            bytes,
            at: 0,
            pool: None,
            now: Tick(0),
            digester: Digester::default(),
            outcome: None,
        }
    }

    /// Goes on with other bytes: those of the recording's next part.
    pub fn go_on(&mut self, bytes: &'a [u8]) {
        (self.bytes, self.at) = (bytes, 0);
    }

    /// The pool as it is now; `None` before the first and after a gap.
    #[must_use]
    pub fn pool(&self) -> Option<&Pool<()>> {
        self.pool.as_ref()
    }

    /// The last outcome that the pool has said here; one that it had said before the recording
    /// begins is not known.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// The next step; `None` at the end.
    ///
    /// # Errors
    /// When there is none because the recording is broken.
    pub fn step(&mut self) -> Result<Option<Step>, Broken> {
        let rest = &self.bytes[self.at..];
        if rest.is_empty() {
            return Ok(None);
        }
        let taken = postcard::take_from_bytes::<Entry<Pool<()>, Input<()>>>(rest);
        let (entry, rest) = taken.map_err(|error| match error {
            postcard::Error::DeserializeUnexpectedEnd => Broken::CutOff,
            other => Broken::NoEntry {
                at: self.at,
                why: other.to_string(),
            },
        })?;
        let step = self.perform(entry)?;
        self.at = self.bytes.len() - rest.len();
        Ok(Some(step))
    }

    fn perform(&mut self, entry: Entry<Pool<()>, Input<()>>) -> Result<Step, Broken> {
        Ok(match entry {
            // The replay goes on from the recorded pool, so that one difference is not told again
            // and again.
            Entry::Pool { now, pool } => {
                let same = self.pool.replace(pool).map(|was| Some(was) == self.pool);
                self.now = now;
                self.digester.begin();
                Step::Pool { now, same }
            }
            Entry::Input { after, input } => {
                let pool = self.pool.as_mut().ok_or(Broken::NoPool)?;
                self.now = Tick(self.now.0.saturating_add(after));
                let mut effects = Vec::new();
                pool.handle(input.clone(), self.now, &mut effects);
                self.digester.note(self.now, &effects);
                let last = effects.iter().rev().find_map(|effect| match effect {
                    Effect::Outcome(outcome) => Some(outcome.clone()),
                    _ => None,
                });
                self.outcome = last.or(self.outcome.take());
                Step::Input {
                    now: self.now,
                    input,
                    effects,
                }
            }
            Entry::Digest(recorded) => Step::Digest {
                recorded,
                replayed: self.digester.digest(),
            },
            Entry::Lost(inputs) => {
                self.pool = None;
                Step::Lost(inputs)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blocksync_types::ids::ConnId;

    /// Effects of this connection, and how often; the digest of all of them.
    fn digest_of(conn: u64, times: u64) -> Digest {
        let conn = ConnId(conn);
        let mut digester = Digester::default();
        for _ in 0..times {
            digester.note(Tick(1), &[Effect::<()>::AskStatus { conn }]);
        }
        digester.digest()
    }

    #[test]
    fn runs_with_as_many_effects_of_which_one_differs_have_unequal_digests() {
        // Within one batch of the checksum, and over several.
        for times in [1, BATCH as u64] {
            let (a, b) = (digest_of(1, times), digest_of(2, times));
            assert_eq!((a.inputs, a.effects), (times, times));
            assert_eq!((a.inputs, a.effects), (b.inputs, b.effects));
            assert_ne!(a.crc, b.crc, "{times} inputs");
            assert_eq!(a, digest_of(1, times));
        }
    }
}
