//! Cancels a request: the heights it asked for are not needed any more.
//!
//! It stands beside a request for the status, so that a node that does not know it answers with its
//! status and does no harm. A node of ours answers each height that it has not sent yet with "no
//! block", which costs nobody anything.

use bytes::Bytes;

use super::error::WireError;
use super::message::{Kind, Message, field_of, walk, with_fields};
use crate::chain::encode;
use crate::ids::Height;

/// The field's number in `StatusRequest`.
const CANCEL: u8 = 20;

/// Requested heights that are not needed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cancel {
    /// The first.
    pub from: Height,
    /// Number of heights.
    pub count: u32,
}

impl Cancel {
    /// The whole message.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut body = Vec::new();
        encode::uint(1, self.from.get(), &mut body);
        encode::uint(2, self.count.into(), &mut body);
        with_fields(&Message::StatusRequest, &[(CANCEL, &body)])
    }

    /// Reads the heights that a message cancels; `None` when it cancels none.
    ///
    /// # Errors
    /// When it cannot be read, or names no height.
    pub fn read(message: &[u8]) -> Result<Option<Self>, WireError> {
        let Some(body) = field_of(message, &[Kind::StatusRequest], CANCEL)? else {
            return Ok(None);
        };
        let (mut from, mut count) = (0, 0);
        walk("Cancel", body, |field, reader| {
            match field.number {
                1 => from = reader.varint(field)? as i64,
                // Not bounded here: the server remembers a range by its two
                // ends, however long it is.
                2 => count = reader.varint(field)? as u32,
                _ => reader.skip(field)?,
            }
            Ok(())
        })?;
        // No block has height 0, so none can have been asked for from there.
        let height = Height::from_wire(from).filter(|h| *h > Height::ZERO);
        let wrong = || WireError::range("Cancel", "from", "1 or more", from);
        let from = height.ok_or_else(wrong)?;
        Ok(Some(Cancel { from, count }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_request_for_the_status_to_those_who_do_not_know_it() {
        let cancel = Cancel {
            from: Height::new(300),
            count: 64,
        };
        let bytes = cancel.encode();
        assert_eq!(Message::decode_small(&bytes), Ok(Message::StatusRequest));
        assert_eq!(Cancel::read(&bytes), Ok(Some(cancel)));
        assert_eq!(Cancel::read(&Message::StatusRequest.encode()), Ok(None));
        assert!(
            Cancel::read(&[0x22, 5, 0xa2, 0x01, 2, 0x10, 7]).is_err(),
            "no height"
        );
    }
}
