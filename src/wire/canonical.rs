//! Whether bytes are the encoding that CometBFT would write of what they say (`protocol.md` 0.2,
//! 5.4): a scan by tables, in one pass, without decoding.
//!
//! CometBFT keeps blocks decoded and encodes them again to serve and to hash them. So only a block
//! in this encoding has one part set for everyone. Whether the values themselves are legal is not
//! judged here.

use crate::chain::Time;
use crate::varint;

/// How a field is written.
#[derive(Clone, Copy)]
enum Form {
    /// A varint of 64 bits.
    Wide,
    /// An `int32` or enum: negative ones in ten bytes.
    Int32,
    /// A `uint32`.
    Uint32,
    /// A byte string.
    Bytes,
    /// A timestamp of years 1 to 9999.
    Time,
    /// A message.
    Message(&'static Schema),
    /// A message of either kind.
    Either(&'static Schema, &'static Schema),
}

/// When a field is written.
#[derive(Clone, Copy, PartialEq)]
enum When {
    /// Unless it is zero or empty.
    Set,
    /// Always: a sub-message that Go holds by value.
    Always,
    /// If at all, then even when empty: a sub-message that Go holds by pointer, or a member of a
    /// oneof.
    Perhaps,
    /// Any number of times, even when empty.
    Repeated,
}

/// A message's fields, ascending; all below 16, so that a tag is one byte.
struct Schema {
    fields: &'static [(u8, Form, When)],
    /// Whether at most one of them may be there.
    oneof: bool,
}

use Form::{Bytes, Either, Int32, Message, Uint32, Wide};
use When::{Always, Perhaps, Repeated, Set};

const fn message(fields: &'static [(u8, Form, When)]) -> Schema {
    Schema {
        fields,
        oneof: false,
    }
}

const fn oneof(fields: &'static [(u8, Form, When)]) -> Schema {
    Schema {
        fields,
        oneof: true,
    }
}

static CONSENSUS: Schema = message(&[(1, Wide, Set), (2, Wide, Set)]);
static PART_SET_HEADER: Schema = message(&[(1, Uint32, Set), (2, Bytes, Set)]);
static BLOCK_ID: Schema = message(&[(1, Bytes, Set), (2, Message(&PART_SET_HEADER), Always)]);
static HEADER: Schema = message(&[
    (1, Message(&CONSENSUS), Always),
    (2, Bytes, Set),
    (3, Wide, Set),
    (4, Form::Time, Always),
    (5, Message(&BLOCK_ID), Always),
    (6, Bytes, Set),
    (7, Bytes, Set),
    (8, Bytes, Set),
    (9, Bytes, Set),
    (10, Bytes, Set),
    (11, Bytes, Set),
    (12, Bytes, Set),
    (13, Bytes, Set),
    (14, Bytes, Set),
]);
static DATA: Schema = message(&[(1, Bytes, Repeated)]);
static COMMIT_SIG: Schema = message(&[
    (1, Int32, Set),
    (2, Bytes, Set),
    (3, Form::Time, Always),
    (4, Bytes, Set),
]);
static COMMIT: Schema = message(&[
    (1, Wide, Set),
    (2, Int32, Set),
    (3, Message(&BLOCK_ID), Always),
    (4, Message(&COMMIT_SIG), Repeated),
]);
/// A commit whose signatures are known to be canonical.
static COMMIT_OF_USUAL: Schema = message(&[
    (1, Wide, Set),
    (2, Int32, Set),
    (3, Message(&BLOCK_ID), Always),
    (4, Bytes, Repeated),
]);
static EXTENDED_COMMIT_SIG: Schema = message(&[
    (1, Int32, Set),
    (2, Bytes, Set),
    (3, Form::Time, Always),
    (4, Bytes, Set),
    (5, Bytes, Set),
    (6, Bytes, Set),
]);
static EXTENDED_COMMIT: Schema = message(&[
    (1, Wide, Set),
    (2, Int32, Set),
    (3, Message(&BLOCK_ID), Always),
    (4, Message(&EXTENDED_COMMIT_SIG), Repeated),
]);
static VOTE: Schema = message(&[
    (1, Int32, Set),
    (2, Wide, Set),
    (3, Int32, Set),
    (4, Message(&BLOCK_ID), Always),
    (5, Form::Time, Always),
    (6, Bytes, Set),
    (7, Int32, Set),
    (8, Bytes, Set),
    (9, Bytes, Set),
    (10, Bytes, Set),
]);
static DUPLICATE_VOTE: Schema = message(&[
    (1, Message(&VOTE), Perhaps),
    (2, Message(&VOTE), Perhaps),
    (3, Wide, Set),
    (4, Wide, Set),
    (5, Form::Time, Always),
]);
static PUBLIC_KEY: Schema = oneof(&[
    (1, Bytes, Perhaps),
    (2, Bytes, Perhaps),
    (3, Bytes, Perhaps),
    (4, Bytes, Perhaps),
    (5, Bytes, Perhaps),
]);
static VALIDATOR: Schema = message(&[
    (1, Bytes, Set),
    (2, Message(&PUBLIC_KEY), Always),
    (3, Wide, Set),
    (4, Wide, Set),
]);
/// The validator of CometBFT 1.0, which has no `PublicKey`. Which of the two forms a block must
/// have is for the rules of its height to say.
static VALIDATOR_OF_BYTES: Schema = message(&[
    (1, Bytes, Set),
    (3, Wide, Set),
    (4, Wide, Set),
    (5, Bytes, Set),
    (6, Bytes, Set),
]);
const ANY_VALIDATOR: Form = Either(&VALIDATOR, &VALIDATOR_OF_BYTES);
/// Without field 3, the total power: Go leaves it out, whatever it has read (`protocol.md` 5.1).
static VALIDATOR_SET: Schema =
    message(&[(1, ANY_VALIDATOR, Repeated), (2, ANY_VALIDATOR, Perhaps)]);
static SIGNED_HEADER: Schema = message(&[
    (1, Message(&HEADER), Perhaps),
    (2, Message(&COMMIT), Perhaps),
]);
static LIGHT_BLOCK: Schema = message(&[
    (1, Message(&SIGNED_HEADER), Perhaps),
    (2, Message(&VALIDATOR_SET), Perhaps),
]);
static LIGHT_CLIENT_ATTACK: Schema = message(&[
    (1, Message(&LIGHT_BLOCK), Perhaps),
    (2, Wide, Set),
    (3, ANY_VALIDATOR, Repeated),
    (4, Wide, Set),
    (5, Form::Time, Always),
]);
static EVIDENCE: Schema = oneof(&[
    (1, Message(&DUPLICATE_VOTE), Perhaps),
    (2, Message(&LIGHT_CLIENT_ATTACK), Perhaps),
]);
static EVIDENCE_LIST: Schema = message(&[(1, Message(&EVIDENCE), Repeated)]);
static BLOCK: Schema = message(&[
    (1, Message(&HEADER), Always),
    (2, Message(&DATA), Always),
    (3, Message(&EVIDENCE_LIST), Always),
    (4, Message(&COMMIT), Perhaps),
]);

static BLOCK_OF_USUAL: Schema = message(&[
    (1, Message(&HEADER), Always),
    (2, Message(&DATA), Always),
    (3, Message(&EVIDENCE_LIST), Always),
    (4, Message(&COMMIT_OF_USUAL), Perhaps),
]);

/// Like `block`, where the last commit's signatures are known to be canonical. They are nine tenths
/// of the work for a block of many validators.
#[must_use]
pub(super) fn block_of_usual(bytes: &[u8]) -> bool {
    scan(&BLOCK_OF_USUAL, bytes).is_some()
}

/// Whether these are the bytes that CometBFT would write of this `Block`.
#[must_use]
pub fn block(bytes: &[u8]) -> bool {
    scan(&BLOCK, bytes).is_some()
}

/// Whether these are the bytes that CometBFT would write of this `Commit`.
#[must_use]
pub fn commit(bytes: &[u8]) -> bool {
    scan(&COMMIT, bytes).is_some()
}

/// Whether these are the bytes that CometBFT would write of this `ExtendedCommit`.
#[must_use]
pub fn extended_commit(bytes: &[u8]) -> bool {
    scan(&EXTENDED_COMMIT, bytes).is_some()
}

/// Returns `None` when a message's bytes are not canonical. The schemas nest at most nine deep, and
/// so does the recursion.
fn scan(schema: &Schema, mut bytes: &[u8]) -> Option<()> {
    let mut fields = schema.fields.iter();
    let mut current = fields.next();
    while let Some((&found, rest)) = bytes.split_first() {
        // Fields ascend: one that is passed over is not there, and may not come later.
        let &(number, form, when) = current?;
        if tag(number, form) != found {
            // Go writes a non-nullable sub-message even when it is empty
            // (`protocol.md` 0.2, rule 3).
            if when == Always {
                return None;
            }
            current = fields.next();
            continue;
        }
        bytes = value(form, when, rest)?;
        if schema.oneof {
            // Another member would replace the first one when it is decoded.
            return bytes.is_empty().then_some(());
        }
        // A second occurrence of a singular field would be merged or replaced
        // when decoded: not canonical.
        if when != Repeated {
            current = fields.next();
        }
    }
    // The bytes ended: no field that must be written may still be to come.
    let mut missing = current.into_iter().chain(fields);
    missing.all(|field| field.2 != Always).then_some(())
}

/// A field's tag, in one byte.
#[inline]
fn tag(number: u8, form: Form) -> u8 {
    let wire = match form {
        Wide | Int32 | Uint32 => 0,
        Bytes | Form::Time | Message(_) | Either(..) => 2,
    };
    number << 3 | wire
}

/// Takes one value off `bytes` and returns what follows it.
#[inline]
fn value(form: Form, when: When, bytes: &[u8]) -> Option<&[u8]> {
    let (number, rest) = varint::shortest(bytes)?;
    match form {
        // Proto3 leaves zeros out, so a written zero is not canonical (`protocol.md` 0.2, rule 2).
        Wide => (number != 0).then_some(rest),
        Uint32 => (number != 0 && u32::try_from(number).is_ok()).then_some(rest),
        Int32 => {
            let narrow = number as i32; // what a decoder keeps
            (number != 0 && i64::from(narrow) as u64 == number).then_some(rest)
        }
        Bytes | Form::Time | Message(_) | Either(..) => {
            let (body, rest) = rest.split_at_checked(usize::try_from(number).ok()?)?;
            match form {
                Message(schema) => scan(schema, body)?,
                // Both forms decode; only the rules of the block's height know which
                // one Go would write again.
                Either(one, other) => scan(one, body).or_else(|| scan(other, body))?,
                Form::Time => drop(time(body)?),
                // An empty string is left out like a zero; an element of a list or oneof is not.
                _ if when == Set && body.is_empty() => return None,
                _ => {}
            }
            Some(rest)
        }
    }
}

/// Reads a timestamp's body (seconds, then nanoseconds, each left out when zero); `None` unless it
/// is canonical.
#[inline]
pub(crate) fn time(bytes: &[u8]) -> Option<Time> {
    let (mut seconds, mut nanos, mut rest) = (0, 0, bytes);
    if let Some((0x08, after)) = rest.split_first() {
        (seconds, rest) = varint::shortest(after).filter(|read| read.0 != 0)?;
    }
    if let Some((0x10, after)) = rest.split_first() {
        (nanos, rest) = varint::shortest(after).filter(|read| read.0 != 0)?;
    }
    let nanos = i32::try_from(nanos).ok()?;
    // The cast keeps the two's complement: years before 1970 have negative seconds in ten bytes.
    Time::new(seconds as i64, nanos).filter(|_| rest.is_empty())
}
