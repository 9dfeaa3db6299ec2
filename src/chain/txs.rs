//! The transactions of a block, as they lie in its bytes.

use std::fmt;

use bytes::{Buf, Bytes};

use super::encode::{element, element_len};
use crate::varint;

/// The tag of a transaction in `Data`.
const TAG: u8 = 1 << 3 | 2;

/// The transactions of a block, in order: slices of one buffer, and nothing beside it. A block of a
/// million empty transactions takes no more memory than its own bytes, so no limit on their number
/// is needed that consensus does not have.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Txs {
    /// Canonical `Data`: for each transaction the tag, its length and its bytes.
    bytes: Bytes,
    count: usize,
}

impl Txs {
    /// Takes the encoded `Data` as it is, without a copy; `None` unless it is canonical.
    #[must_use]
    pub fn from_encoded(bytes: Bytes) -> Option<Self> {
        let (mut rest, mut count) = (&bytes[..], 0);
        while !rest.is_empty() {
            (_, rest) = split(rest)?;
            count += 1;
        }
        Some(Txs { bytes, count })
    }

    /// Number of transactions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Tells whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The canonical `Data`.
    #[must_use]
    pub fn encoded(&self) -> &Bytes {
        &self.bytes
    }

    /// The transactions, as slices of the block's bytes. An empty one keeps nothing alive.
    #[must_use]
    pub fn iter(&self) -> Iter {
        Iter {
            rest: self.bytes.clone(),
            left: self.count,
        }
    }
}

/// The first transaction of canonical `Data`, and what comes after it.
fn split(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = data.strip_prefix(&[TAG])?;
    let (length, rest) = varint::shortest(rest)?;
    rest.split_at_checked(usize::try_from(length).ok()?)
}

/// Walks the transactions of a block.
#[derive(Clone, Debug)]
pub struct Iter {
    rest: Bytes,
    left: usize,
}

impl Iterator for Iter {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let (tx, _) = split(&self.rest)?;
        let (length, head) = (tx.len(), element_len(tx.len()) - tx.len());
        self.left -= 1;
        self.rest.advance(head);
        let tx = self.rest.split_to(length);
        // An empty slice would keep the whole block alive for nothing.
        Some(if length == 0 { Bytes::new() } else { tx })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Iter {}

impl IntoIterator for &Txs {
    type Item = Bytes;
    type IntoIter = Iter;

    fn into_iter(self) -> Iter {
        self.iter()
    }
}

impl<T: AsRef<[u8]>> Extend<T> for Txs {
    fn extend<I: IntoIterator<Item = T>>(&mut self, more: I) {
        let mut bytes = Vec::from(std::mem::take(&mut self.bytes));
        for tx in more {
            element(1, tx.as_ref(), &mut bytes);
            self.count += 1;
        }
        self.bytes = bytes.into();
    }
}

impl<T: AsRef<[u8]>> FromIterator<T> for Txs {
    fn from_iter<I: IntoIterator<Item = T>>(list: I) -> Self {
        let mut txs = Txs::default();
        txs.extend(list);
        txs
    }
}

impl<T: AsRef<[u8]>> From<Vec<T>> for Txs {
    fn from(list: Vec<T>) -> Self {
        list.into_iter().collect()
    }
}

impl fmt::Debug for Txs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_without_a_copy() {
        let list = vec![
            vec![],
            vec![7],
            vec![1; 127],
            vec![2; 128],
            vec![3; 70_000],
            vec![],
        ];
        let txs = Txs::from(list.clone());
        assert_eq!((txs.len(), txs.iter().len()), (6, 6));
        assert_eq!(txs.iter().collect::<Vec<_>>(), list);
        let again = Txs::from_encoded(txs.encoded().clone()).unwrap();
        assert_eq!(again, txs);
        let inside = again.encoded().as_ptr_range();
        assert!(
            again
                .iter()
                .filter(|tx| !tx.is_empty())
                .all(|tx| inside.contains(&tx.as_ptr()))
        );
        assert!(Txs::default().is_empty() && Txs::default().iter().next().is_none());
    }

    #[test]
    fn only_canonical_data_is_taken_as_it_is() {
        for bytes in [
            &[0x0a][..],
            &[0x0a, 1],
            &[0x0a, 0x80],
            &[0x0a, 0x81, 0x00, 7],
            &[0x12, 1, 7],
            &[0x0a, 0, 0x08, 1],
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f],
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        ] {
            assert_eq!(
                Txs::from_encoded(Bytes::copy_from_slice(bytes)),
                None,
                "{bytes:?}"
            );
        }
        assert_eq!(Txs::from_encoded(Bytes::new()).map(|t| t.len()), Some(0));
    }
}
