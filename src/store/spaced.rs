//! Blocks in one buffer with room between them, so that messages are made of them where they lie.

use std::fmt;
use std::ops::Range;

use crate::ids::Height;
use crate::store::BlockRecord;

/// Bytes to leave free before a block of this length and before its extended commit, if it has one:
/// the heads of a message's fields are written there.
pub type Gaps = fn(block: usize, ext_commit: Option<usize>) -> [usize; 2];

/// Memory that blocks are read into.
pub trait Buffer: AsRef<[u8]> + AsMut<[u8]> + Send + 'static {}

impl<T: AsRef<[u8]> + AsMut<[u8]> + Send + 'static> Buffer for T {}

/// Consecutive blocks in one buffer, one directly behind the other, each with free bytes before its
/// parts.
pub struct Spaced {
    buffer: Box<dyn Buffer>,
    blocks: Vec<SpacedBlock>,
}

/// Where one of these blocks lies in the buffer, and its parts. Bytes of it that belong to no part
/// are free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpacedBlock {
    /// Height of the block.
    pub height: Height,
    /// All of it, the free bytes included.
    pub all: Range<usize>,
    /// The encoded block.
    pub block: Range<usize>,
    /// The encoded extended commit.
    pub ext_commit: Option<Range<usize>>,
}

/// The places of blocks that begin at `from` and have parts of these lengths.
fn places(
    from: Height,
    lengths: impl Iterator<Item = (usize, Option<usize>)>,
    gaps: Gaps,
) -> Vec<SpacedBlock> {
    let mut height = from;
    let mut end = 0;
    let place = |(block, ext_commit): (usize, Option<usize>)| {
        let [first, second] = gaps(block, ext_commit);
        let start = end;
        let block = start + first..start + first + block;
        end = block.end;
        let ext_commit = ext_commit.map(|length| {
            end += second + length;
            end - length..end
        });
        let of = height;
        height = height.next();
        SpacedBlock {
            height: of,
            all: start..end,
            block,
            ext_commit,
        }
    };
    lengths.map(place).collect()
}

impl Spaced {
    /// Room for blocks that begin at `from` and have parts of these lengths. `buffer` gives at
    /// least as many bytes as it is asked for; what they hold is free to be anything.
    pub(crate) fn with_room(
        from: Height,
        lengths: impl Iterator<Item = (usize, Option<usize>)>,
        gaps: Gaps,
        buffer: impl FnOnce(usize) -> Box<dyn Buffer>,
    ) -> Self {
        let blocks = places(from, lengths, gaps);
        let buffer = buffer(blocks.last().map_or(0, |last| last.all.end));
        Spaced { buffer, blocks }
    }

    /// Copies consecutive blocks, for stores that hold them otherwise.
    #[must_use]
    pub fn copied(blocks: &[BlockRecord], gaps: Gaps) -> Self {
        let from = blocks.first().map_or(Height::ZERO, |first| first.height);
        let ext_len = |block: &BlockRecord| block.ext_raw.as_ref().map(|ext| ext.len());
        let lengths = blocks.iter().map(|block| (block.raw.len(), ext_len(block)));
        let buffer = |len| Box::new(vec![0u8; len]) as Box<dyn Buffer>;
        let mut spaced = Self::with_room(from, lengths, gaps, buffer);
        let parts = blocks
            .iter()
            .flat_map(|block| std::iter::once(&block.raw).chain(&block.ext_raw));
        for (to, part) in spaced.parts_mut().into_iter().zip(parts) {
            to.copy_from_slice(part);
        }
        spaced
    }

    /// The parts of all blocks in their order, to be filled.
    pub(crate) fn parts_mut(&mut self) -> Vec<&mut [u8]> {
        let parts = self
            .blocks
            .iter()
            .flat_map(|at| std::iter::once(&at.block).chain(&at.ext_commit));
        let (mut rest, mut begin) = ((*self.buffer).as_mut(), 0);
        let mut found = Vec::with_capacity(self.blocks.len());
        for part in parts {
            let (part_bytes, after) = rest[part.start - begin..].split_at_mut(part.len());
            found.push(part_bytes);
            (rest, begin) = (after, part.end);
        }
        found
    }

    /// Where the blocks lie.
    #[must_use]
    pub fn blocks(&self) -> &[SpacedBlock] {
        &self.blocks
    }

    /// The encoded block at a place, and its extended commit.
    #[must_use]
    pub fn parts(&self, at: &SpacedBlock) -> (&[u8], Option<&[u8]>) {
        let bytes = (*self.buffer).as_ref();
        let ext_commit = at.ext_commit.clone().map(|range| &bytes[range]);
        (&bytes[at.block.clone()], ext_commit)
    }

    /// The buffer, which may be longer than what lies in it, and where the blocks lie.
    #[must_use]
    pub fn into_parts(self) -> (Box<dyn Buffer>, Vec<SpacedBlock>) {
        (self.buffer, self.blocks)
    }
}

impl fmt::Debug for Spaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Spaced");
        debug.field("blocks", &self.blocks).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::BlockId;

    fn record(height: u64, raw: &[u8], ext: Option<&[u8]>) -> BlockRecord {
        BlockRecord {
            height: Height::new(height),
            id: BlockId::default(),
            raw: raw.to_vec().into(),
            ext_raw: ext.map(|ext| ext.to_vec().into()),
        }
    }

    #[test]
    fn blocks_lie_behind_one_another_with_room_before_each_part() {
        let gaps: Gaps = |block, ext_commit| [block + 1, ext_commit.map_or(99, |ext| ext + 2)];
        let blocks = [
            record(5, b"one", Some(b"ext")),
            record(6, b"two!", None),
            record(7, b"", Some(b"")),
        ];
        let spaced = Spaced::copied(&blocks, gaps);
        let places = spaced.blocks().to_vec();
        assert_eq!(
            places[0],
            SpacedBlock {
                height: Height::new(5),
                all: 0..15,
                block: 4..7,
                ext_commit: Some(12..15)
            }
        );
        let ranges: Vec<_> = places.iter().map(|at| at.all.clone()).collect();
        assert_eq!(
            ranges,
            [0..15, 15..24, 24..27],
            "no extended commit, no gap"
        );
        let read: Vec<_> = places.iter().map(|at| spaced.parts(at)).collect();
        assert_eq!(
            read,
            [
                (&b"one"[..], Some(&b"ext"[..])),
                (b"two!", None),
                (b"", Some(b""))
            ]
        );
        let (buffer, of) = spaced.into_parts();
        assert_eq!((of, (*buffer).as_ref().len()), (places, 27));
        assert!(Spaced::copied(&[], gaps).blocks().is_empty());
    }
}
