//! Why bytes were refused.

use std::fmt;

use crate::chain::basic::BasicError;
use crate::chain::key::KeyError;
use crate::fault::Fault;
use crate::ids::Height;

/// Bytes that are no message, or a message that breaks a stateless rule. Making one allocates
/// nothing, but for `Key`, and for `Basic`, which speaks of a block that decodes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{at}: {problem}", Prefix(.height))]
pub struct WireError {
    /// The block's height, where it is known.
    pub height: Option<Height>,
    /// The message, or the message and its field.
    pub at: &'static str,
    /// The error.
    pub problem: Problem,
}

/// An error in some bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The bytes end inside of a field.
    #[error("ends within a field")]
    Truncated,
    /// A varint of more than ten bytes.
    #[error("a varint of more than ten bytes")]
    Varint,
    /// A field number of zero or less, a wire type that does not exist, or an unmatched end of a
    /// group.
    #[error("an impossible tag")]
    Tag,
    /// A known field in another form.
    #[error("field {field} has wire type {found}")]
    WireType {
        /// The field's number.
        field: i32,
        /// The type found.
        found: u8,
    },
    /// A field that must be there is not.
    #[error("has no {0}")]
    Missing(&'static str),
    /// A field that may be there once is there again.
    #[error("{0} is there twice")]
    Twice(&'static str),
    /// A byte string of the wrong length.
    #[error("{field} has {found} bytes, must have {expected}")]
    Length {
        /// The field.
        field: &'static str,
        /// The allowed values.
        expected: &'static str,
        /// The value found.
        found: usize,
    },
    /// A number out of its range.
    #[error("{field} is {found}, must be {expected}")]
    Range {
        /// The field.
        field: &'static str,
        /// The allowed values.
        expected: &'static str,
        /// The value found.
        found: i64,
    },
    /// Heights in a status that no store can have: a base above its height, or a negative number.
    #[error("{field} is {found}, must be {expected}")]
    Heights {
        /// The field.
        field: &'static str,
        /// The allowed values.
        expected: &'static str,
        /// The value found.
        found: i64,
    },
    /// More than we take.
    #[error("{what}: {found}, the limit is {limit}")]
    Limit {
        /// The thing that is limited.
        what: &'static str,
        /// The number, or the count at which counting stopped.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// Something for another height.
    #[error("{what} is for height {found}")]
    Height {
        /// Name of the part.
        what: &'static str,
        /// The height that it is for.
        found: Height,
    },
    /// A public key that is none.
    #[error("{0}")]
    Key(Box<KeyError>),
    /// Breaks a stateless rule of blocks or commits.
    #[error("{0}")]
    Basic(Box<BasicError>),
    /// A block where only other messages can be.
    #[error("a block where none can be")]
    Block,
}

/// Error of reading a field. Every field's reading returns it, so it is small: `WireError` is made
/// of it where it leaves the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bad {
    pub at: &'static str,
    pub what: Malformed,
}

/// An error in a field's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    Truncated,
    Varint,
    Tag,
    WireType { field: i32, found: u8 },
    Seconds(i64),
    Nanos(i32),
}

impl From<Bad> for WireError {
    #[cold]
    fn from(bad: Bad) -> WireError {
        let problem = match bad.what {
            Malformed::Truncated => Problem::Truncated,
            Malformed::Varint => Problem::Varint,
            Malformed::Tag => Problem::Tag,
            Malformed::WireType { field, found } => Problem::WireType { field, found },
            Malformed::Seconds(found) => Problem::Range {
                field: "seconds",
                expected: "within years 1 to 9999",
                found,
            },
            Malformed::Nanos(found) => Problem::Range {
                field: "nanos",
                expected: "0 to 999999999",
                found: found.into(),
            },
        };
        WireError::new(bad.at, problem)
    }
}

/// `block 7: ` before an error's text, when the height is known.
struct Prefix<'a>(&'a Option<Height>);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(height) => write!(f, "block {height}: "),
            None => Ok(()),
        }
    }
}

impl WireError {
    /// An error in a message of which no height is known yet.
    pub(crate) fn new(at: &'static str, problem: Problem) -> Self {
        WireError {
            height: None,
            at,
            problem,
        }
    }

    /// Adds the height of the block to the error.
    #[must_use]
    pub(crate) fn of(mut self, height: Height) -> Self {
        self.height = Some(height);
        self
    }

    /// A number out of its range.
    pub(crate) fn range(
        at: &'static str,
        field: &'static str,
        expected: &'static str,
        found: i64,
    ) -> Self {
        Self::new(
            at,
            Problem::Range {
                field,
                expected,
                found,
            },
        )
    }

    /// A byte string of the wrong length.
    pub(crate) fn length(
        at: &'static str,
        field: &'static str,
        expected: &'static str,
        found: usize,
    ) -> Self {
        Self::new(
            at,
            Problem::Length {
                field,
                expected,
                found,
            },
        )
    }
}

impl From<WireError> for Fault {
    /// The fault of a peer that sends such bytes.
    fn from(error: WireError) -> Fault {
        match error.problem {
            Problem::Heights { .. } => Fault::BadRange,
            _ => Fault::Malformed(error.to_string()),
        }
    }
}
