//! Unsigned varints, as protobuf has them: for field tags, lengths and the framing.

use bytes::BufMut;

/// Length of the longest one, in bytes.
pub const MAX: usize = 10;

/// Appends a value in as few bytes as it takes.
#[inline]
pub fn put(mut value: u64, out: &mut impl BufMut) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Returns the number of bytes that `put` writes, 1 to 10.
#[inline]
#[must_use]
pub fn len(value: u64) -> usize {
    // One byte for each seven bits begun; zero takes one.
    (value | 1).ilog2() as usize / 7 + 1
}

/// A reading of the beginning of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// A value, and how many bytes it takes. Bits beyond the 64th are dropped, as Go does.
    Value(u64, usize),
    /// The beginning of one.
    Short,
    /// More than ten bytes.
    TooLong,
}

/// Reads the value at the beginning of `bytes`.
#[must_use]
pub fn read(bytes: &[u8]) -> Read {
    let mut value = 0u64;
    for (i, &byte) in bytes.iter().take(MAX).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i); // of the tenth byte one bit counts
        if byte < 0x80 {
            return Read::Value(value, i + 1);
        }
    }
    if bytes.len() < MAX {
        Read::Short
    } else {
        Read::TooLong
    }
}

/// Reads a value that is written in as few bytes as it takes, and gives what follows it.
#[inline]
#[must_use]
pub fn shortest(bytes: &[u8]) -> Option<(u64, &[u8])> {
    if let Some((&byte, rest)) = bytes.split_first()
        && byte < 0x80
    {
        return Some((byte.into(), rest));
    }
    match read(bytes) {
        Read::Value(value, n) if n == len(value) && bytes[n - 1] < 0x80 => {
            (n < MAX || bytes[n - 1] == 1).then(|| (value, &bytes[n..]))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_is_the_shortest() {
        let edges = (0..64).flat_map(|bit| [1u64 << bit, (1 << bit) - 1, u64::MAX >> bit]);
        for value in edges {
            let mut bytes = Vec::new();
            put(value, &mut bytes);
            assert_eq!(bytes.len(), len(value));
            assert_eq!(read(&bytes), Read::Value(value, bytes.len()));
            assert_eq!(shortest(&bytes), Some((value, &[][..])));
            for cut in 0..bytes.len() {
                assert_eq!(read(&bytes[..cut]), Read::Short);
            }
            // With a zero more it is the same value, and not the shortest.
            if let Some(last) = bytes.last_mut() {
                *last |= 0x80;
            }
            bytes.push(0);
            assert_eq!(shortest(&bytes), None);
            if bytes.len() <= MAX {
                assert_eq!(read(&bytes), Read::Value(value, bytes.len()));
            }
        }
        assert_eq!(read(&[0xff; 10]), Read::TooLong);
        let mut largest = [0xff; 10];
        largest[9] = 0x7f;
        assert_eq!(read(&largest), Read::Value(u64::MAX, 10));
        assert_eq!(shortest(&largest), None, "bits that do not fit");
    }
}
