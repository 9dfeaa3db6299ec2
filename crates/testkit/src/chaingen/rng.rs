//! The generator's source of chance: SplitMix64, written out so that a seed gives the same chain
//! for ever, whatever version of a crate is linked.

/// A stream of numbers that a seed determines.
#[derive(Clone, Debug)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) const fn new(seed: u64) -> Self {
        Chance(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 when `end` is 0.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        // Below `end`, which is a u64.
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// An index below `len`, which is 1 or more.
    pub(super) fn index(&mut self, len: usize) -> usize {
        // Below `len`, which is a usize.
        self.below(len as u64) as usize
    }

    /// True in this number of a thousand cases.
    pub(super) fn per_mille(&mut self, share: u64) -> bool {
        self.below(1000) < share
    }

    /// Appends a number of hexadecimal digits.
    pub(super) fn hex(&mut self, digits: usize, out: &mut Vec<u8>) {
        let mut left = digits;
        while left > 0 {
            let mut word = self.next();
            for _ in 0..left.min(16) {
                out.push(b"0123456789abcdef"[(word & 15) as usize]);
                word >>= 4;
            }
            left = left.saturating_sub(16);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_published_splitmix64() {
        let mut chance = Chance::new(1_234_567);
        let words: Vec<u64> = (0..3).map(|_| chance.next()).collect();
        assert_eq!(
            words,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn stays_below_and_writes_as_many_digits_as_asked() {
        let mut chance = Chance::new(1);
        assert!((0..1000).all(|_| chance.below(7) < 7));
        assert_eq!(chance.below(0), 0);
        let mut out = Vec::new();
        chance.hex(33, &mut out);
        assert_eq!(out.len(), 33);
        assert!(out.iter().all(u8::is_ascii_hexdigit));
    }
}
