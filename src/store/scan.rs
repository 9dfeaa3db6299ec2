//! Looks into stored protobuf bytes without decoding them: what is served is what was proven, to
//! the byte.

use crate::varint::{self, Read};

/// A field's value.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a fixed width, which nothing here asks for.
    Fixed,
}

/// The payload of a field of a message, all its occurrences together, which is how a decoder merges
/// a sub-message that comes twice. Empty when it does not occur; `None` when the message cannot be
/// read.
pub(super) fn sub_message(message: &[u8], number: u64) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    walk(message, |field, value| {
        if let (true, Value::Bytes(payload)) = (field == number, value) {
            out.extend_from_slice(payload);
        }
    })?;
    Some(out)
}

/// The height, field 1, that an encoded commit names; 0 when it names none. `None` when the commit
/// cannot be read.
pub(super) fn commit_height(commit: &[u8]) -> Option<u64> {
    let mut height = 0;
    walk(commit, |field, value| {
        if let (1, Value::Number(number)) = (field, value) {
            // The last one counts, as for a decoder.
            height = number;
        }
    })?;
    Some(height)
}

fn walk<'a>(mut message: &'a [u8], mut each: impl FnMut(u64, Value<'a>)) -> Option<()> {
    while !message.is_empty() {
        let tag = number(&mut message)?;
        let value = match tag & 7 {
            0 => Value::Number(number(&mut message)?),
            1 => take(&mut message, 8).map(|_| Value::Fixed)?,
            2 => {
                let len = usize::try_from(number(&mut message)?).ok()?;
                Value::Bytes(take(&mut message, len)?)
            }
            5 => take(&mut message, 4).map(|_| Value::Fixed)?,
            // Groups: no message here has one.
            _ => return None,
        };
        each(tag >> 3, value);
    }
    Some(())
}

fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(n)?;
    *bytes = rest;
    Some(head)
}

fn number(bytes: &mut &[u8]) -> Option<u64> {
    let Read::Value(value, n) = varint::read(bytes) else {
        return None;
    };
    *bytes = &bytes[n..];
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_comes_twice_is_put_together() {
        // field 1 "ab", field 2 varint 300, field 1 "c", field 3 fixed32
        let message = [
            0x0a, 2, b'a', b'b', 0x10, 0xac, 2, 0x0a, 1, b'c', 0x1d, 0, 0, 0, 0,
        ];
        assert_eq!(sub_message(&message, 1).unwrap(), b"abc");
        assert_eq!(sub_message(&message, 4).unwrap(), b"");
        for cut in [1, 2, 3, 5, 6, 11, 14] {
            assert_eq!(sub_message(&message[..cut], 1), None, "cut at {cut}");
        }
        assert_eq!(sub_message(&[0x0b], 1), None, "groups are not read");
        assert_eq!(
            sub_message(&[0x80; 12], 1),
            None,
            "a varint of more than ten bytes"
        );
    }

    #[test]
    fn the_empty_commit_names_no_height() {
        assert_eq!(commit_height(&[0x1a, 2, 0x12, 0]), Some(0));
        assert_eq!(commit_height(&[0x08, 0xac, 2, 0x1a, 2, 0x12, 0]), Some(300));
        assert_eq!(commit_height(&[0x08]), None);
    }
}
