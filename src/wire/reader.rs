//! Walks the fields of an encoded message as CometBFT's generated decoders do (`protocol.md` 0.2):
//! any order, any number of times, unknown fields skipped, bits that do not fit dropped. Nothing is
//! allocated and nothing recurses.

use super::error::{Bad, Malformed};
use crate::varint::{self, Read};

/// A field's tag.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    /// Its number, 1 or more.
    pub number: i32,
    /// Its wire type, 0 to 7.
    pub wire: u8,
    /// Where its tag begins.
    start: usize,
}

/// A position in one message's bytes.
pub(crate) struct Reader<'a> {
    at: &'static str,
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    /// At the beginning of a message; `at` names it in errors.
    pub(crate) fn new(at: &'static str, bytes: &'a [u8]) -> Self {
        Reader {
            at,
            bytes,
            position: 0,
        }
    }

    /// The next field's tag; `None` at the end. Its value must then be taken by one of the methods
    /// below.
    #[inline]
    pub(crate) fn field(&mut self) -> Result<Option<Field>, Bad> {
        if self.position == self.bytes.len() {
            return Ok(None);
        }
        let start = self.position;
        let tag = self.raw_varint()?;
        // CometBFT keeps the low 32 bits of the number.
        let (number, wire) = ((tag >> 3) as i32, (tag & 7) as u8);
        // Wire type 4 ends a group that was never begun here.
        if number <= 0 || wire == 4 {
            return Err(self.error(Malformed::Tag));
        }
        Ok(Some(Field {
            number,
            wire,
            start,
        }))
    }

    /// The value of a varint field. Narrow it with `as`: CometBFT drops the bits that do not fit,
    /// too.
    #[inline]
    pub(crate) fn varint(&mut self, field: Field) -> Result<u64, Bad> {
        self.expect(field, 0)?;
        self.raw_varint()
    }

    /// The value of a byte string, string or message field.
    #[inline]
    pub(crate) fn bytes(&mut self, field: Field) -> Result<&'a [u8], Bad> {
        self.expect(field, 2)?;
        let length = self.raw_varint()?;
        self.take(length)
    }

    /// The value of a field of eight bytes.
    pub(crate) fn fixed64(&mut self, field: Field) -> Result<u64, Bad> {
        self.expect(field, 1)?;
        let bytes = self.take(8)?.first_chunk();
        // `take` gave eight bytes, so the default is never used.
        Ok(bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes)))
    }

    /// Passes an unknown field. A group is passed with all that it holds, whatever number ends it.
    pub(crate) fn skip(&mut self, field: Field) -> Result<(), Bad> {
        // Back to the tag, so that a group counts its own start.
        self.position = field.start;
        let mut depth = 0usize;
        loop {
            let wire = (self.raw_varint()? & 7) as u8;
            match wire {
                0 => {
                    self.raw_varint()?;
                }
                1 => {
                    self.take(8)?;
                }
                2 => {
                    let length = self.raw_varint()?;
                    self.take(length)?;
                }
                // Nesting is only counted: recursion would let a peer choose
                // the depth of our stack.
                3 => depth += 1,
                4 => depth = depth.saturating_sub(1), // `field` lets no message begin with it
                5 => {
                    self.take(4)?;
                }
                _ => return Err(self.error(Malformed::Tag)),
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    /// How many times a field occurs from here on, at most `limit + 1`. The position stays; a
    /// malformed rest ends the count.
    pub(crate) fn count(&self, number: i32, limit: usize) -> usize {
        let mut ahead = Reader {
            at: self.at,
            bytes: self.bytes,
            position: self.position,
        };
        // A commit's signatures, nearly all that is ever counted, take the short way.
        let mut found = ahead.pass_short(number, limit);
        while found <= limit
            && let Ok(Some(field)) = ahead.field()
        {
            found += usize::from(field.number == number);
            if ahead.skip_value(field).is_err() {
                break;
            }
        }
        found
    }

    /// Passes byte strings of one field, below 128 bytes each, that stand one behind the other, as
    /// a commit's signatures do; gives their number, at most `limit + 1`.
    fn pass_short(&mut self, number: i32, limit: usize) -> usize {
        // Numbers from 16 on have a tag of two bytes, which the pattern below does not match.
        let Some(tag) = u8::try_from(number).ok().filter(|n| *n < 16) else {
            return 0;
        };
        let tag = tag << 3 | 2;
        let (mut rest, mut found) = (&self.bytes[self.position..], 0);
        while let [first, length @ 0..0x80, value @ ..] = rest
            && *first == tag
            && let Some(behind) = value.get(usize::from(*length)..)
            && found <= limit
        {
            rest = behind;
            found += 1;
        }
        self.position = self.bytes.len() - rest.len();
        found
    }

    /// Passes a field's value, from right behind its tag.
    #[inline]
    pub(crate) fn skip_value(&mut self, field: Field) -> Result<(), Bad> {
        match field.wire {
            0 => self.raw_varint().map(drop),
            2 => {
                let length = self.raw_varint()?;
                self.take(length).map(drop)
            }
            _ => self.skip(field),
        }
    }

    #[inline]
    fn expect(&self, field: Field, wire: u8) -> Result<(), Bad> {
        if field.wire == wire {
            return Ok(());
        }
        Err(self.error(Malformed::WireType {
            field: field.number,
            found: field.wire,
        }))
    }

    #[inline]
    fn take(&mut self, length: u64) -> Result<&'a [u8], Bad> {
        let rest = &self.bytes[self.position..];
        match usize::try_from(length) {
            Ok(length) if length <= rest.len() => {
                self.position += length;
                Ok(&rest[..length])
            }
            _ => Err(self.error(Malformed::Truncated)),
        }
    }

    #[inline]
    fn raw_varint(&mut self) -> Result<u64, Bad> {
        match self.bytes.get(self.position) {
            Some(&byte) if byte < 0x80 => {
                self.position += 1;
                Ok(u64::from(byte))
            }
            Some(_) => self.long_varint(),
            None => Err(self.error(Malformed::Truncated)),
        }
    }

    fn long_varint(&mut self) -> Result<u64, Bad> {
        match varint::read(&self.bytes[self.position..]) {
            Read::Value(value, n) => {
                self.position += n;
                Ok(value)
            }
            Read::Short => Err(self.error(Malformed::Truncated)),
            // Ten bytes that all continue: Go's decoders report an overflow.
            Read::TooLong => Err(self.error(Malformed::Varint)),
        }
    }

    fn error(&self, what: Malformed) -> Bad {
        Bad { at: self.at, what }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(bytes: &[u8]) -> Result<(i32, u64), Malformed> {
        let mut reader = Reader::new("test", bytes);
        let field = reader.field().map_err(|e| e.what)?.unwrap();
        Ok((field.number, reader.varint(field).map_err(|e| e.what)?))
    }

    #[test]
    fn takes_the_varints_that_go_takes() {
        assert_eq!(first(&[0x08, 0x07]), Ok((1, 7)));
        assert_eq!(first(&[0x88, 0x00, 0x87, 0x00]), Ok((1, 7)));
        let mut largest = vec![0x08];
        largest.extend([0xff; 9]);
        assert_eq!(first(&[&largest[..], &[0x01]].concat()), Ok((1, u64::MAX)));
        assert_eq!(first(&[&largest[..], &[0x7f]].concat()), Ok((1, u64::MAX)));
        assert_eq!(
            first(&[&largest[..], &[0x80, 0x00]].concat()),
            Err(Malformed::Varint)
        );
        assert_eq!(first(&largest), Err(Malformed::Truncated));
        assert_eq!(first(&[0x00, 0x00]), Err(Malformed::Tag));
        assert_eq!(first(&[0x0c]), Err(Malformed::Tag));
        assert_eq!(
            first(&[0x0d, 0, 0, 0, 0]),
            Err(Malformed::WireType { field: 1, found: 5 })
        );
    }

    #[test]
    fn counts_what_reading_finds() {
        let plain = [0x22, 1, 7, 0x22, 0, 0x22, 2, 7, 7];
        for (bytes, number, limit, expected) in [
            (&plain[..], 4, 9, 3),
            (&plain, 4, 1, 2), // one more than the limit says enough
            (&plain, 4, 0, 1),
            (&plain, 5, 9, 0),
            (&[0x22, 1, 7, 0x2a, 0, 0x22, 0], 4, 9, 2),
            (&[0x22, 0x81, 0, 7, 0x22, 0], 4, 9, 2), // a length of two bytes
            (&[0x22, 0, 0x22, 5, 7], 4, 9, 2),       // cut short: counted, and the end
            (&[0x20, 9, 0x22, 0], 4, 9, 2),          // another wire type
            (&[0x82, 0x01, 0, 0x82, 0x01, 0], 16, 9, 2),
        ] {
            let reader = Reader::new("test", bytes);
            assert_eq!(reader.count(number, limit), expected, "{bytes:?}");
            assert_eq!(reader.position, 0);
        }
    }

    #[test]
    fn skips_groups_with_all_that_they_hold() {
        let bytes = [
            0x4b, 0x08, 0x01, 0x53, 0x12, 0x02, 0, 0, 0x54, 0x4c, 0x08, 0x05,
        ];
        let mut reader = Reader::new("test", &bytes);
        let group = reader.field().unwrap().unwrap();
        assert_eq!(group.number, 9);
        reader.skip(group).unwrap();
        let field = reader.field().unwrap().unwrap();
        assert_eq!(reader.varint(field).unwrap(), 5);
        assert!(reader.field().unwrap().is_none());

        let mut open = Reader::new("test", &[0x4b, 0x08, 0x01]);
        let group = open.field().unwrap().unwrap();
        assert_eq!(open.skip(group).unwrap_err().what, Malformed::Truncated);
    }

    #[test]
    fn lengths_beyond_the_end_are_refused() {
        for length in [&[0x04][..], &[0xff; 9], &[0xff, 0xff, 0xff, 0xff, 0x0f]] {
            let bytes = [&[0x0a], length, &[0x01], &[0, 0]].concat();
            let mut reader = Reader::new("test", &bytes);
            let field = reader.field().unwrap().unwrap();
            assert!(reader.bytes(field).is_err());
        }
    }
}
