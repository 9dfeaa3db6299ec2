//! Canonical protobuf, exactly as Go writes it (`protocol.md` 0.2, 5.1): ascending fields, zero
//! scalars left out, non-nullable sub-messages always there.
//!
//! The fields that messages are made of. A message's own encoding stands beside its type, as
//! `encode`, which appends the message's body: no tag, no length.

use crate::ids::{BlockId, Hash, PartSetHeader};

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
pub(super) const BYTES: u32 = 2;

use crate::varint;
pub use crate::varint::{len as uvarint_len, put as uvarint};

/// A signed number as a plain varint: a negative one takes 10 bytes.
#[allow(clippy::cast_sign_loss)] // two's complement is what protobuf asks for
const fn wire(value: i64) -> u64 {
    value as u64
}

pub(super) fn tag(field: u32, kind: u32, out: &mut Vec<u8>) {
    uvarint(u64::from(field << 3 | kind), out);
}

/// A varint field of an unsigned number, left out when zero.
pub fn uint(field: u32, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        tag(field, VARINT, out);
        uvarint(value, out);
    }
}

/// A varint field of a signed number or enum, left out when zero.
pub fn int(field: u32, value: i64, out: &mut Vec<u8>) {
    uint(field, wire(value), out);
}

/// An `sfixed64` field, left out when zero.
pub fn sfixed64(field: u32, value: i64, out: &mut Vec<u8>) {
    if value != 0 {
        tag(field, FIXED64, out);
        out.extend_from_slice(&value.to_le_bytes());
    }
}

/// A string or bytes field, left out when empty.
pub fn bytes(field: u32, value: &[u8], out: &mut Vec<u8>) {
    if !value.is_empty() {
        element(field, value, out);
    }
}

/// An element of a repeated bytes field, or any member that is always written.
pub fn element(field: u32, value: &[u8], out: &mut Vec<u8>) {
    tag(field, BYTES, out);
    uvarint(value.len() as u64, out);
    out.extend_from_slice(value);
}

/// How many bytes `element` writes for `len` bytes in a field below 16.
#[must_use]
pub fn element_len(len: usize) -> usize {
    1 + uvarint_len(len as u64) + len
}

/// A hash field, left out when absent.
pub(super) fn hash(field: u32, value: Option<&Hash>, out: &mut Vec<u8>) {
    if let Some(hash) = value {
        element(field, &hash.0, out);
    }
}

/// A sub-message, written even when empty.
pub fn message(field: u32, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    tag(field, BYTES, out);
    delimited(out, body);
}

/// Writes `body` behind its length. One byte is kept for the length, which fits most messages; a
/// longer one is moved.
pub fn delimited(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.push(0);
    body(out);
    let len = out.len() - start - 1;
    let extra = uvarint_len(len as u64) - 1;
    if extra == 0 {
        out[start] = len as u8; // below 128
        return;
    }
    out.extend_from_slice(&[0; varint::MAX][..extra]);
    // Moving a long body once is cheaper than encoding everything twice to learn its length.
    out.copy_within(start + 1..start + 1 + len, start + 1 + extra);
    let mut value = len as u64;
    for byte in &mut out[start..=start + extra] {
        *byte = value as u8 | 0x80;
        value >>= 7;
    }
    // Only the last byte of a varint says that none follows.
    out[start + extra] &= 0x7f;
}

/// `PartSetHeader`.
pub fn part_set_header(parts: &PartSetHeader, out: &mut Vec<u8>) {
    uint(1, u64::from(parts.total), out);
    hash(2, parts.hash.as_ref(), out);
}

/// `BlockID`.
pub fn block_id(id: &BlockId, out: &mut Vec<u8>) {
    hash(1, id.hash.as_ref(), out);
    message(2, out, |out| part_set_header(&id.parts, out));
}

/// `version.Consensus`.
pub fn version(block: u64, app: u64, out: &mut Vec<u8>) {
    uint(1, block, out);
    uint(2, app, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_are_minimal() {
        for value in [
            0,
            1,
            127,
            128,
            16_383,
            16_384,
            u64::from(u32::MAX),
            u64::MAX,
        ] {
            let mut out = Vec::new();
            uvarint(value, &mut out);
            assert_eq!(out.len(), uvarint_len(value), "{value}");
            let back = out
                .iter()
                .rev()
                .fold(0, |n, b| n << 7 | u64::from(b & 0x7f));
            assert_eq!(back, value);
        }
        for shift in 0..64 {
            for value in [(1_u64 << shift) - 1, 1 << shift] {
                let mut out = Vec::new();
                uvarint(value, &mut out);
                assert_eq!(out.len(), uvarint_len(value), "{value}");
            }
        }
    }

    /// A body of any length stands behind its own, however many bytes that takes, and what came
    /// before is left alone.
    #[test]
    fn lengths_of_any_width_are_put_in_front() {
        for len in [0, 1, 127, 128, 129, 16_383, 16_384, 2_097_151, 2_097_152] {
            let body: Vec<u8> = (0..len).map(|i: u32| i as u8).collect();
            let mut out = vec![0xff];
            delimited(&mut out, |out| out.extend_from_slice(&body));
            let mut expected = vec![0xff];
            uvarint(u64::from(len), &mut expected);
            expected.extend_from_slice(&body);
            assert!(out == expected, "{len}");
        }
    }

    #[test]
    fn a_negative_number_takes_ten_bytes() {
        let mut out = Vec::new();
        int(2, -1, &mut out);
        assert_eq!(hex::encode(out), "10ffffffffffffffffff01");
    }
}
