//! A byte stream in two halves, each with one buffer, sealed (`protocol.md` 1.2) or not.
//!
//! Frames are opened where they were read and sealed where they are sent from: a byte is copied
//! once on its way in, from here into its message, and once on its way out. Long messages that are
//! not sealed go out from where they lie.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf as _, Bytes};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::seal::{FRAME, Opener, SEALED, Sealer, SecretError};
use crate::varint;
pub use crate::wire::codec::{LengthError, read_length};

/// Where the plaintext begins: room for the length of a chunk that is opened in front.
const HEAD: usize = 4;
/// Buffers start small, as most connections never carry much, …
const SMALL: usize = 8 * 1024;
/// … and double up to this while reads fill them.
const LARGE: usize = 256 * 1024;

/// Sealed frames without a byte that may come one after another. Nobody who means well sends any.
pub(super) const EMPTY_FRAMES: u32 = 16;

/// The receiving half: a window of plaintext that [`fill`](Self::fill) extends and
/// [`consume`](Self::consume) shortens.
#[derive(Debug)]
pub struct StreamReader<R> {
    io: R,
    buf: Vec<u8>,
    /// `start..end` is the window, `sealed..filled` what is not yet opened.
    start: usize,
    end: usize,
    sealed: usize,
    filled: usize,
    opener: Option<Opener>,
    /// Sealed frames without a byte since the last that had one.
    empty: u32,
}

impl<R: AsyncRead + Unpin> StreamReader<R> {
    /// Reads `io`, in the clear at first.
    pub fn new(io: R) -> Self {
        StreamReader {
            io,
            buf: vec![0; SMALL],
            start: HEAD,
            end: HEAD,
            sealed: HEAD,
            filled: HEAD,
            opener: None,
            empty: 0,
        }
    }

    /// Everything from the window's first byte on is sealed.
    ///
    /// # Errors
    /// When a frame that is there already does not open.
    pub fn set_opener(&mut self, opener: Opener) -> Result<(), SecretError> {
        self.opener = Some(opener);
        // The handshake has no roles: sealed bytes may have come together with the last clear
        // message.
        self.end = self.start;
        self.sealed = self.start;
        self.open()
    }

    /// The plaintext that has come and was not consumed.
    pub fn window(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }

    /// Takes `n` bytes off the window.
    pub fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
    }

    /// Reads once, at most `limit` bytes, and opens what is whole. The window may grow by nothing.
    /// Gives the bytes that came off the wire, never 0.
    ///
    /// Cancel safety: cancel safe; what was read is in the buffer or still in the socket.
    ///
    /// # Errors
    /// The end of the stream, and frames that do not open.
    pub async fn fill(&mut self, limit: usize) -> Result<usize, SecretError> {
        self.make_room()?;
        let free = &mut self.buf[self.filled..];
        // A read into no room gives 0 bytes, which is the end of the stream.
        let room = free.len().min(limit.max(1));
        let n = self.io.read(&mut free[..room]).await?;
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer hung up").into());
        }
        self.filled += n;
        if self.filled == self.buf.len() && self.buf.len() < LARGE {
            self.buf.resize(self.buf.len() * 2, 0);
        }
        self.open()?;
        Ok(n)
    }

    /// One delimited message of at most `limit` bytes, for handshakes. The bytes after it stay
    /// in the window.
    ///
    /// Cancel safety: cancel safe; nothing is consumed before the message is whole.
    ///
    /// # Errors
    /// As [`fill`](Self::fill); and a message above the limit.
    pub async fn read_delimited(&mut self, limit: usize) -> Result<Vec<u8>, SecretError> {
        loop {
            match read_length(self.window(), limit) {
                Ok(Some((head, length))) if self.window().len() >= head + length => {
                    let message = self.window()[head..head + length].to_vec();
                    self.consume(head + length);
                    return Ok(message);
                }
                Ok(_) => {
                    // Little at a time, and never without a pause: nobody is known yet.
                    tokio::task::yield_now().await;
                    self.fill(SMALL / 2).await?
                }
                Err(e) => return Err(SecretError::Malformed(e.to_string())),
            };
        }
    }

    /// Moves what is left to the front. The users of the window leave less than a message of 10 KB
    /// in it.
    fn make_room(&mut self) -> io::Result<()> {
        if self.start > HEAD {
            self.buf.copy_within(self.start..self.end, HEAD);
            self.end -= self.start - HEAD;
            self.start = HEAD;
        }
        // An opened frame is shorter than a sealed one: a gap grows between the two.
        if self.sealed > self.end {
            self.buf.copy_within(self.sealed..self.filled, self.end);
            self.filled -= self.sealed - self.end;
            self.sealed = self.end;
        }
        if self.buf.len() - self.filled < 2 * SEALED {
            if self.buf.len() >= LARGE {
                return Err(io::Error::other("the read buffer is full"));
            }
            self.buf.resize(self.buf.len() * 2, 0);
        }
        Ok(())
    }

    fn open(&mut self) -> Result<(), SecretError> {
        let Some(opener) = &mut self.opener else {
            self.end = self.filled;
            self.sealed = self.filled;
            return Ok(());
        };
        while self.filled - self.sealed >= SEALED {
            let n = opener.open(&mut self.buf, self.end, self.sealed)?;
            self.end += n;
            self.sealed += SEALED;
            self.empty = if n == 0 { self.empty + 1 } else { 0 };
            if self.empty > EMPTY_FRAMES {
                let why = format!("more than {EMPTY_FRAMES} sealed frames without a byte");
                return Err(SecretError::Malformed(why));
            }
        }
        Ok(())
    }
}

/// Shorter messages are copied: a slice of its own costs about as much.
const COPIED: usize = 1024;
/// Slices in one write.
const SLICES: usize = 64;

/// The sending half: [`put`](Self::put) gathers, [`flush`](Self::flush) or
/// [`write_some`](Self::write_some) send.
#[derive(Debug)]
pub struct StreamWriter<W> {
    io: W,
    out: Vec<u8>,
    /// `out[..sent]` is gone.
    sent: usize,
    /// Slices to be sent after `out`; none of a sealed stream.
    behind: VecDeque<Bytes>,
    /// Bytes in all of these.
    behind_bytes: usize,
    /// Where the frame begins that is not full yet.
    frame: Option<usize>,
    sealer: Option<Sealer>,
}

impl<W: AsyncWrite + Unpin> StreamWriter<W> {
    /// Bytes that are worth a write: a caller with more to put should send first.
    pub const BATCH: usize = LARGE;

    /// Writes `io`, in the clear at first.
    pub fn new(io: W) -> Self {
        StreamWriter {
            io,
            out: Vec::new(),
            sent: 0,
            behind: VecDeque::new(),
            behind_bytes: 0,
            frame: None,
            sealer: None,
        }
    }

    /// Everything that is put from now on is sealed. Flush before.
    pub fn set_sealer(&mut self, sealer: Sealer) {
        self.sealer = Some(sealer);
    }

    /// Bytes that wait to be sent.
    pub fn waiting(&self) -> usize {
        self.out.len() - self.sent + self.behind_bytes
    }

    /// Whether more may be put before something is sent. Bounds what waits: [`BATCH`](Self::BATCH)
    /// bytes and what is put then, in a few more slices than one write takes.
    pub fn has_room(&self) -> bool {
        self.waiting() < Self::BATCH && self.behind.len() < SLICES
    }

    /// Adds bytes, as [`put`](Self::put) does, and does not copy them where that can be saved. They
    /// are let go of when they are sent.
    ///
    /// # Errors
    /// When there are no more nonces.
    pub fn put_bytes(&mut self, bytes: Bytes) -> Result<(), SecretError> {
        if self.sealer.is_some() || bytes.len() < COPIED || !self.io.is_write_vectored() {
            return self.put(&bytes);
        }
        self.push_behind(bytes);
        Ok(())
    }

    fn push_behind(&mut self, bytes: Bytes) {
        self.behind_bytes += bytes.len();
        self.behind.push_back(bytes);
    }

    /// Adds bytes; nothing is sent yet.
    ///
    /// # Errors
    /// When there are no more nonces.
    pub fn put(&mut self, mut bytes: &[u8]) -> Result<(), SecretError> {
        let Some(sealer) = &mut self.sealer else {
            if self.behind.is_empty() {
                self.out.extend_from_slice(bytes);
            } else {
                self.push_behind(Bytes::copy_from_slice(bytes));
            }
            return Ok(());
        };
        while !bytes.is_empty() {
            // Room for the chunk's length, which is written when the frame is sealed.
            let start = *self.frame.get_or_insert_with(|| {
                self.out.extend_from_slice(&[0; 4]);
                self.out.len() - 4
            });
            let room = start + FRAME - self.out.len();
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.out.extend_from_slice(now);
            bytes = later;
            if now.len() == room {
                sealer.seal(&mut self.out, start)?;
                self.frame = None;
            }
        }
        Ok(())
    }

    /// Closes the frame that is not full; without it the last bytes put stay here. A frame without
    /// a byte is never made.
    ///
    /// # Errors
    /// When there are no more nonces.
    pub fn finish(&mut self) -> Result<(), SecretError> {
        if let (Some(start), Some(sealer)) = (self.frame.take(), &mut self.sealer) {
            sealer.seal(&mut self.out, start)?;
        }
        Ok(())
    }

    /// Sends what the socket takes in one call, at most `limit` bytes, of what is
    /// [finished](Self::finish). Gives how many.
    ///
    /// Cancel safety: cancel safe; what was taken is off the buffer.
    ///
    /// # Errors
    /// The socket's error.
    pub async fn write_some(&mut self, limit: usize) -> Result<usize, SecretError> {
        let end = self.frame.unwrap_or(self.out.len());
        // With a limit of 0 it would look as if nothing were waiting.
        let limit = limit.max(1);
        let end = end.min(self.sent.saturating_add(limit));
        let n = if !self.behind.is_empty() {
            self.write_slices(limit).await?
        } else if end > self.sent {
            self.io.write(&self.out[self.sent..end]).await?
        } else {
            return Ok(0);
        };
        if n == 0 {
            return Err(io::Error::from(io::ErrorKind::WriteZero).into());
        }
        self.take_off(n);
        Ok(n)
    }

    /// Writes `out` and what is behind it, at most `limit` bytes in all.
    async fn write_slices(&mut self, limit: usize) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let (mut count, mut left) = (0, limit);
        let behind = self.behind.iter().map(|bytes| &bytes[..]);
        for bytes in std::iter::once(&self.out[self.sent..]).chain(behind) {
            if count == SLICES || left == 0 {
                break;
            }
            let bytes = &bytes[..bytes.len().min(left)];
            if !bytes.is_empty() {
                slices[count] = IoSlice::new(bytes);
                count += 1;
                left -= bytes.len();
            }
        }
        self.io.write_vectored(&slices[..count]).await
    }

    /// Takes off what was sent.
    fn take_off(&mut self, n: usize) {
        let of_out = n.min(self.out.len() - self.sent);
        self.sent += of_out;
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
        let mut rest = n - of_out;
        self.behind_bytes -= rest;
        while let Some(first) = self.behind.front_mut() {
            let now = rest.min(first.len());
            first.advance(now);
            rest -= now;
            if !first.is_empty() {
                break;
            }
            self.behind.pop_front();
        }
    }

    /// Finishes and sends everything.
    ///
    /// Cancel safety: cancel safe; call it again to send the rest.
    ///
    /// # Errors
    /// The socket's error.
    pub async fn flush(&mut self) -> Result<(), SecretError> {
        self.finish()?;
        while self.waiting() > 0 {
            self.write_some(usize::MAX).await?;
        }
        self.io.flush().await?;
        Ok(())
    }
}

/// A message with its length before it.
#[must_use]
pub fn delimited(message: &impl Message) -> Vec<u8> {
    message.encode_length_delimited_to_vec()
}

/// `length` as a varint, on the stack.
#[must_use]
pub(super) fn stack_varint(length: u64) -> ([u8; 10], usize) {
    let mut bytes = [0; 10];
    varint::put(length, &mut &mut bytes[..]);
    (bytes, varint::len(length))
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll};

    use tokio::io::duplex;

    use super::*;
    use crate::p2p::seal::{agree, ephemeral_public};

    #[test]
    fn lengths_are_checked_before_anything_is_allocated() {
        assert_eq!(read_length(&[], 10), Ok(None));
        assert_eq!(read_length(&[0x80], 10), Ok(None));
        assert_eq!(read_length(&[10, 1], 10), Ok(Some((1, 10))));
        assert_eq!(
            read_length(&[11], 10),
            Err(LengthError::TooLong {
                length: 11,
                limit: 10
            })
        );
        assert_eq!(read_length(&[0xff; 10], 10), Err(LengthError::NotVarint));
        assert_eq!(read_length(&[0xff; 9], 10), Ok(None));
        assert_eq!(read_length(&[0x80, 0x01], 1024), Ok(Some((2, 128))));
        let (bytes, n) = stack_varint(300);
        assert_eq!(bytes[..n], [0xac, 0x02]);
    }

    async fn through(sealed: bool, pieces: &[usize], pipe: usize) {
        let (a, b) = duplex(pipe);
        let (mut writer, mut reader) = (StreamWriter::new(a), StreamReader::new(b));
        if sealed {
            let (x, y) = ([1; 32], [2; 32]);
            writer.set_sealer(agree(x, ephemeral_public(y)).unwrap().sealer);
            reader
                .set_opener(agree(y, ephemeral_public(x)).unwrap().opener)
                .unwrap();
        }
        let total: usize = pieces.iter().sum();
        let data: Vec<u8> = (0..total).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let send = async {
            let mut rest = &data[..];
            for (i, n) in pieces.iter().enumerate() {
                let (now, later) = rest.split_at(*n);
                writer.put(now).unwrap();
                rest = later;
                if i % 3 == 0 {
                    writer.flush().await.unwrap();
                }
            }
            writer.flush().await.unwrap();
        };
        let receive = async {
            let mut got = Vec::new();
            while got.len() < total {
                reader.fill(usize::MAX).await.unwrap();
                let take = reader.window().len().saturating_sub(got.len() % 7); // leave some behind
                got.extend_from_slice(&reader.window()[..take]);
                reader.consume(take);
                if got.len() + reader.window().len() == total {
                    got.extend_from_slice(reader.window());
                }
            }
            got
        };
        let ((), got) = tokio::join!(send, receive);
        assert!(got == data, "{sealed} {pieces:?} {pipe}");
    }

    #[tokio::test]
    async fn bytes_come_out_as_they_went_in() {
        for sealed in [false, true] {
            for pipe in [1000, 5000, 1 << 20] {
                through(sealed, &[1, 1023, 1024, 1025, 0, 3, 300_000, 7], pipe).await;
                through(sealed, &[100_000; 30], pipe).await;
            }
        }
    }

    /// Takes a few bytes at a time, of however many slices.
    #[derive(Default)]
    struct Slices {
        wire: Vec<u8>,
        at_once: usize,
        most_slices: usize,
    }

    impl AsyncWrite for Slices {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let before = self.wire.len();
            self.most_slices = self.most_slices.max(slices.len());
            for slice in slices {
                let left = self.at_once - (self.wire.len() - before);
                self.wire.extend_from_slice(&slice[..slice.len().min(left)]);
            }
            Poll::Ready(Ok(self.wire.len() - before))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Bytes whose owners are counted while they live.
    struct Owned {
        bytes: Vec<u8>,
        _lives: Arc<()>,
    }

    impl AsRef<[u8]> for Owned {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }

    #[tokio::test]
    async fn long_messages_go_out_from_where_they_lie_and_in_order() {
        let lengths = [3, 1024, 5, 40_000, 1, 1023, 7, 2000, 1 << 19, 2];
        for at_once in [1, 999, 1025, 70_000, usize::MAX] {
            for limit in [1, 1500, usize::MAX] {
                let io = Slices {
                    at_once,
                    ..Slices::default()
                };
                let (mut writer, lives) = (StreamWriter::new(io), Arc::new(()));
                let (mut expected, mut waiting) = (Vec::new(), 0);
                for (n, length) in (0u8..).zip(lengths) {
                    let bytes = vec![n; length];
                    expected.extend_from_slice(&bytes);
                    waiting += length;
                    let owned = Bytes::from_owner(Owned {
                        bytes,
                        _lives: lives.clone(),
                    });
                    if n % 2 == 1 {
                        writer.put_bytes(owned).unwrap();
                    } else {
                        writer.put(&owned).unwrap();
                    }
                    assert_eq!(writer.waiting(), waiting);
                    if n == 4 {
                        waiting -= writer.write_some(limit).await.unwrap();
                        assert_eq!(writer.waiting(), waiting);
                    }
                }
                // The three long ones that were not merely lent are not copied.
                let kept = Arc::strong_count(&lives) - 1;
                assert!(kept == 3 || kept < 3 && at_once.min(limit) > 1, "{kept}");
                while writer.waiting() > 0 {
                    let before = Arc::strong_count(&lives);
                    assert!(writer.write_some(limit).await.unwrap() <= limit.min(at_once));
                    assert!(Arc::strong_count(&lives) <= before);
                }
                assert_eq!(Arc::strong_count(&lives), 1, "let go of when it is sent");
                assert!(writer.io.wire == expected, "{at_once} {limit}");
            }
        }
    }

    #[tokio::test]
    async fn slices_that_wait_are_bounded() {
        let io = Slices {
            at_once: usize::MAX,
            ..Slices::default()
        };
        let mut writer = StreamWriter::new(io);
        let mut messages = 0;
        while writer.has_room() {
            writer.put(&[1, 2]).unwrap();
            writer.put_bytes(vec![3; 1024].into()).unwrap();
            messages += 1;
        }
        assert_eq!(
            messages, 33,
            "32 that are behind, and the head of the first"
        );
        writer.flush().await.unwrap();
        assert_eq!(writer.io.wire.len(), messages * 1026);
        assert_eq!(writer.io.most_slices, SLICES);
        while writer.has_room() {
            writer.put(&[0; 1000]).unwrap();
        }
        assert_eq!(
            writer.waiting().div_ceil(1000),
            StreamWriter::<Slices>::BATCH.div_ceil(1000)
        );
    }
}
