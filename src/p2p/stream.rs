//! A byte stream in two halves, each with one buffer, sealed (`protocol.md` 1.2) or not.
//!
//! Frames are opened where they were read and sealed where they are sent from: a byte is copied
//! once on its way in, from here into its message, and once on its way out.

use std::io;

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

/// The sending half: [`put`](Self::put) gathers, [`flush`](Self::flush) or
/// [`write_some`](Self::write_some) send.
#[derive(Debug)]
pub struct StreamWriter<W> {
    io: W,
    out: Vec<u8>,
    /// `out[..sent]` is gone.
    sent: usize,
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
        self.out.len() - self.sent
    }

    /// Adds bytes; nothing is sent yet.
    ///
    /// # Errors
    /// When there are no more nonces.
    pub fn put(&mut self, mut bytes: &[u8]) -> Result<(), SecretError> {
        let Some(sealer) = &mut self.sealer else {
            self.out.extend_from_slice(bytes);
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
        let end = end.min(self.sent.saturating_add(limit.max(1)));
        if end == self.sent {
            return Ok(0);
        }
        let n = self.io.write(&self.out[self.sent..end]).await?;
        if n == 0 {
            return Err(io::Error::from(io::ErrorKind::WriteZero).into());
        }
        self.sent += n;
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
        Ok(n)
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
}
