//! The length-prefixed framing ([`Codec`]) of a connection's channels, against MConnection's
//! packets of a kilobyte (`design.md` 8).

use super::packet::{Channel, Piece};
use super::secret::SecretError;
use super::stream::StreamWriter;
use crate::wire::codec::{Accepts, Codec, head};

/// The reading half for these channels; with more than one, frames are marked.
#[must_use]
pub(crate) fn reader(channels: &[Channel], marked: bool) -> Codec {
    let accepts = |c: &Channel| Accepts {
        channel: c.id,
        longest: c.capacity,
        small: c.capacity,
    };
    Codec::with(channels.iter().map(accepts).collect(), marked)
}

/// Puts a piece of a message; the first one with the frame's head before it. Pieces of one message
/// may not be interrupted.
///
/// # Errors
/// When the stream is out of nonces.
pub(crate) fn put_frame<W>(
    piece: Piece,
    marked: bool,
    to: &mut StreamWriter<W>,
) -> Result<(), SecretError>
where
    W: tokio::io::AsyncWrite + Unpin,
{
    if piece.first {
        to.put(&head(piece.total, marked.then_some(piece.channel)))?;
    }
    to.put_bytes(piece.data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::codec::{Frame, FrameError, RESERVE};

    const BLOCKS: Channel = Channel {
        id: 0x40,
        priority: 5,
        capacity: 200_000,
        keep: true,
    };
    const PEX: Channel = Channel {
        id: 0,
        priority: 1,
        capacity: 100,
        keep: true,
    };

    fn frames(reader: &mut Codec, wire: &[u8], step: usize) -> Result<Vec<Frame>, FrameError> {
        let (mut out, mut from, mut to) = (Vec::new(), 0, 0);
        while to < wire.len() {
            to = wire.len().min(to + step);
            loop {
                let (taken, frame) = reader.take(&wire[from..to])?;
                from += taken;
                out.extend(frame);
                if taken == 0 {
                    break;
                }
            }
        }
        Ok(out)
    }

    async fn wire(messages: &[(u8, usize)], marked: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = StreamWriter::new(&mut bytes);
        for (channel, n) in messages {
            let piece = Piece {
                channel: *channel,
                data: vec![*channel; *n].into(),
                first: true,
                last: true,
                total: *n,
            };
            put_frame(piece, marked, &mut writer).unwrap();
        }
        writer.flush().await.unwrap();
        bytes
    }

    #[tokio::test]
    async fn frames_are_found_however_the_bytes_come() {
        for marked in [false, true] {
            let other = if marked { 0 } else { 0x40 };
            let messages = [
                (0x40, 1),
                (0x40, 200_000),
                (other, 100),
                (0x40, 127),
                (0x40, 70_000),
            ];
            let mut bytes = wire(&messages, marked).await;
            bytes.push(0);
            for step in [1, 2, 1000, 1 << 20] {
                let mut reader = super::reader(&[BLOCKS, PEX], marked);
                let got = frames(&mut reader, &bytes, step).unwrap();
                let mut expected: Vec<Frame> = messages
                    .iter()
                    .map(|(c, n)| Frame::Message(*c, vec![*c; *n].into()))
                    .collect();
                expected.push(Frame::Alive);
                assert!(got == expected, "{marked} {step}");
            }
        }
    }

    #[tokio::test]
    async fn limits_hold_before_allocation() {
        let mut reader = super::reader(&[BLOCKS, PEX], true);
        let bytes = wire(&[(0x40, 200_001)], true).await;
        assert!(matches!(
            frames(&mut reader, &bytes[..4], 1),
            Err(FrameError::Length(_))
        ));
        let mut reader = super::reader(&[BLOCKS, PEX], true);
        let bytes = wire(&[(0, 101)], true).await;
        assert!(matches!(
            frames(&mut reader, &bytes[..2], 1),
            Err(FrameError::Length(_))
        ));
        let mut reader = super::reader(&[BLOCKS, PEX], true);
        assert_eq!(
            frames(&mut reader, &[2, 9, 9], 3),
            Err(FrameError::UnknownChannel(9))
        );
        let mut reader = super::reader(&[BLOCKS], false);
        let bytes = wire(&[(0x40, 200_000)], false).await;
        frames(&mut reader, &bytes[..10], 10).unwrap();
        assert_eq!(reader.partial(0x40), 7);
        assert!(reader.reserved() <= RESERVE);
    }
}
