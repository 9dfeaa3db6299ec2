//! The switch between mutants, copied into each mutated crate. Without `MUTANT` in the environment
//! the crate does what it always does.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

/// Nothing is read from the environment yet.
const UNSET: u32 = u32::MAX;

/// No mutant, and a note of each that is reached.
const NOTING: u32 = u32::MAX - 1;

/// No mutant.
const NONE: u32 = u32::MAX - 2;

static ACTIVE: AtomicU32 = AtomicU32::new(UNSET);
static REACHED: [AtomicBool; 1 << 14] = [const { AtomicBool::new(false) }; 1 << 14];

/// Whether this mutant is the active one.
#[inline]
pub fn on(id: u32) -> bool {
    let active = ACTIVE.load(Relaxed);
    active == id || (active > NONE && slow(id))
}

#[cold]
fn slow(id: u32) -> bool {
    if ACTIVE.load(Relaxed) == UNSET {
        let active = match std::env::var("MUTANT") {
            Ok(id) => id.parse().expect("the number of a mutant"),
            Err(_) if std::env::var_os("MUTANTS_REACHED").is_some() => NOTING,
            Err(_) => NONE,
        };
        ACTIVE.store(active, Relaxed);
    }
    if ACTIVE.load(Relaxed) == NOTING && !REACHED[id as usize].swap(true, Relaxed) {
        let path = std::env::var_os("MUTANTS_REACHED").expect("the path was there");
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        let line = format!("{id}\n");
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("a note is written");
    }
    ACTIVE.load(Relaxed) == id
}

/// One of two iterators: a function that returns `impl Iterator` returns one type.
#[derive(Clone)]
pub enum Either<A, B> {
    /// The mutant's.
    Left(A),
    /// The original, or that of another mutant.
    Right(B),
}

impl<A: Iterator, B: Iterator<Item = A::Item>> Iterator for Either<A, B> {
    type Item = A::Item;

    fn next(&mut self) -> Option<A::Item> {
        match self {
            Either::Left(a) => a.next(),
            Either::Right(b) => b.next(),
        }
    }
}

impl<A: DoubleEndedIterator, B: DoubleEndedIterator<Item = A::Item>> DoubleEndedIterator
    for Either<A, B>
{
    fn next_back(&mut self) -> Option<A::Item> {
        match self {
            Either::Left(a) => a.next_back(),
            Either::Right(b) => b.next_back(),
        }
    }
}
