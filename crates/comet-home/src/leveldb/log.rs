//! Logs: records in blocks of 32 KiB, of which a longer record takes several pieces. Manifests are
//! logs too.

use super::masked_crc;

const BLOCK: usize = 32 << 10;
/// Checksum, length, kind.
const HEADER: usize = 7;
const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

/// The records of a log, as they would be written into an empty file.
pub(super) fn write<'a>(records: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    for record in records {
        let mut rest = record;
        let mut first = true;
        loop {
            let room = BLOCK - out.len() % BLOCK;
            if room < HEADER {
                // No header fits here: the format fills such a rest with zeros.
                out.resize(out.len() + room, 0);
                continue;
            }
            let (piece, after) = rest.split_at(rest.len().min(room - HEADER));
            let kind = match (first, after.is_empty()) {
                (true, true) => FULL,
                (true, false) => FIRST,
                (false, false) => MIDDLE,
                (false, true) => LAST,
            };
            out.extend_from_slice(&masked_crc(&[&[kind], piece]).to_le_bytes());
            out.extend_from_slice(&(piece.len() as u16).to_le_bytes()); // below 32 KiB
            out.push(kind);
            out.extend_from_slice(piece);
            (rest, first) = (after, false);
            if rest.is_empty() {
                break;
            }
        }
    }
    out
}

/// The content of a log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Records {
    /// The records that are whole.
    pub(super) whole: Vec<Vec<u8>>,
    /// Whether the file ends within another one.
    pub(super) cut: bool,
}

/// The records of a log. One that the file's end cuts off was never complete, as after a crash.
///
/// # Errors
/// Where a piece fails its checksum, or pieces do not fit together.
pub(super) fn read(log: &[u8]) -> Result<Records, String> {
    let (mut whole, mut cut) = (Vec::new(), false);
    let mut open: Option<Vec<u8>> = None;
    let mut at = 0;
    while at < log.len() {
        let room = BLOCK - at % BLOCK;
        if room < HEADER {
            at += room;
            continue;
        }
        let Some(header) = log.get(at..at + HEADER) else {
            cut = true;
            break;
        };
        let crc = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let (len, kind) = (u16::from_le_bytes([header[4], header[5]]), header[6]);
        if (crc, len, kind) == (0, 0, 0) {
            // Room that was reserved and not written.
            at += room;
            continue;
        }
        if HEADER + usize::from(len) > room {
            return Err(format!("record at byte {at} is longer than its block"));
        }
        let Some(piece) = log.get(at + HEADER..at + HEADER + usize::from(len)) else {
            cut = true;
            break;
        };
        if masked_crc(&[&[kind], piece]) != crc {
            return Err(format!("record at byte {at} fails its checksum"));
        }
        match (kind, open.take()) {
            (FULL, None) => whole.push(piece.to_vec()),
            (FIRST, None) => open = Some(piece.to_vec()),
            (MIDDLE, Some(mut record)) => {
                record.extend_from_slice(piece);
                open = Some(record);
            }
            (LAST, Some(mut record)) => {
                record.extend_from_slice(piece);
                whole.push(record);
            }
            _ => return Err(format!("record at byte {at} is a piece out of place")),
        }
        at += HEADER + usize::from(len);
    }
    // A first piece without its last one is as unfinished as a piece without its end.
    let cut = cut || open.is_some();
    Ok(Records { whole, cut })
}
