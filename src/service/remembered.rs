//! Blocks that the server keeps in memory, and heights that it remembers having given.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::ids::Height;
use crate::store::BlockRecord;

/// The newest blocks that we have synced ourselves.
#[derive(Debug, Default)]
pub(super) struct Recent {
    blocks: BTreeMap<Height, BlockRecord>,
    bytes: usize,
}

impl Recent {
    pub(super) fn insert(&mut self, record: BlockRecord, most: usize) {
        self.bytes += weight(&record);
        if let Some(before) = self.blocks.insert(record.height, record) {
            self.bytes -= weight(&before);
        }
        while self.bytes > most
            && let Some((_, oldest)) = self.blocks.pop_first()
        {
            self.bytes -= weight(&oldest);
        }
    }

    /// Consecutive blocks from here on, as many as are there, end before `end` and weigh `most`
    /// together, and one.
    pub(super) fn run(&self, from: Height, end: Height, most: usize) -> Vec<BlockRecord> {
        let (mut bytes, mut next) = (0, from);
        let here = self.blocks.range(from..end).map(|(_, record)| record);
        here.take_while(|record| {
            let fits = record.height == next && (bytes == 0 || bytes + weight(record) <= most);
            bytes += weight(record);
            next = next.next();
            fits
        })
        .cloned()
        .collect()
    }
}

/// Bytes of a block and what is sent beside it.
pub(super) fn weight(record: &BlockRecord) -> usize {
    record.raw.len() + record.ext_raw.as_ref().map_or(0, Bytes::len)
}

/// Heights that one peer was given lately, and how often. A height is forgotten when another is
/// given that has its slot: one that is a multiple of `REMEMBERED` away.
#[derive(Default)]
pub(super) struct Given {
    /// `REMEMBERED` slots, or none before the first block.
    slots: Vec<(Height, u32)>,
    pub(super) repeats: u64,
}

/// Heights that are remembered of one peer: all, if they lie together.
const REMEMBERED: usize = 4096;
/// Number of times that a peer is given a block before the next is a repetition: an earlier answer
/// may have been lost on its way.
const TIMES: u32 = 3;

fn slot_of(height: Height) -> usize {
    (height.get() % REMEMBERED as u64) as usize
}

impl Given {
    pub(super) fn is_again(&self, height: Height) -> bool {
        let slot = self.slots.get(slot_of(height));
        slot.is_some_and(|(of, times)| *of == height && *times >= TIMES)
    }

    /// Notes a block that is sent; `true` when it is one too many.
    pub(super) fn note(&mut self, height: Height) -> bool {
        self.slots.resize(REMEMBERED, (Height::ZERO, 0));
        let (of, times) = &mut self.slots[slot_of(height)];
        if *of != height {
            (*of, *times) = (height, 0);
        }
        *times = times.saturating_add(1);
        let again = *times > TIMES;
        self.repeats += u64::from(again);
        again
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ids::{BlockId, Hash, PartSetHeader};

    pub(crate) fn record(height: u64, bytes: usize) -> BlockRecord {
        let hash = Some(Hash([1; 32]));
        BlockRecord {
            height: Height::new(height),
            id: BlockId {
                hash,
                parts: PartSetHeader { total: 1, hash },
            },
            raw: vec![7; bytes].into(),
            ext_raw: None,
        }
    }

    #[test]
    fn the_newest_blocks_are_kept_and_no_more_bytes_than_may_be() {
        let mut recent = Recent::default();
        for height in 1..=100 {
            recent.insert(record(height, 1000), 10_000);
            assert!(recent.bytes <= 10_000);
        }
        let heights = |from, end, most| -> Vec<u64> {
            let run = recent.run(Height::new(from), Height::new(end), most);
            run.iter().map(|r| r.height.get()).collect()
        };
        assert_eq!(heights(91, 101, usize::MAX).len(), 10);
        assert_eq!(
            heights(90, 101, usize::MAX),
            [0; 0],
            "it is gone, and so is the run"
        );
        assert_eq!(heights(95, 98, usize::MAX), [95, 96, 97]);
        assert_eq!(heights(95, 101, 2500), [95, 96]);
        assert_eq!(heights(95, 101, 1), [95], "one at least");
        recent.insert(record(100, 500), 10_000);
        assert_eq!(recent.bytes, 9500, "one of a height");
    }

    #[test]
    fn a_peer_is_given_a_block_a_few_times_and_then_it_is_a_repetition() {
        let mut given = Given::default();
        let height = Height::new(3);
        let times: Vec<bool> = (0..5).map(|_| given.note(height)).collect();
        assert_eq!(times, [false, false, false, true, true]);
        assert!(given.is_again(height) && !given.is_again(height.next()));
        assert_eq!(given.repeats, 2);
        let until = height.plus(REMEMBERED as u64);
        for n in height.next().get()..until.get() {
            assert!(!given.note(Height::new(n)));
        }
        assert!(given.is_again(height), "those beside it do not push it out");
        assert!(!given.note(until));
        assert!(!given.is_again(height), "it is forgotten in time");
        assert_eq!(given.slots.len(), REMEMBERED);
    }
}
