//! Key agreement and sealed frames (`protocol.md` 1.1, 1.2): the arithmetic of a SecretConnection,
//! pure.

use hkdf::Hkdf;
use merlin::Transcript;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use sha2::Sha256;
use x25519_dalek::{X25519_BASEPOINT_BYTES, x25519};

/// Data bytes in one frame, at most.
pub const CHUNK: usize = 1024;
/// A frame before it is sealed: the chunk's length and the data area.
pub const FRAME: usize = 4 + CHUNK;
/// A frame on the wire.
pub const SEALED: usize = FRAME + TAG;
const TAG: usize = 16;

/// Why a SecretConnection ended. There are no error messages on the wire: the peer sees a closed
/// socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// Reading or writing failed, or the peer hung up.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A handshake message that is none.
    #[error("handshake message: {0}")]
    Malformed(String),
    /// The peer's ephemeral key has low order: the shared secret would be known to everybody.
    #[error("ephemeral key of low order")]
    LowOrder,
    /// The peer's node key is not ed25519, or no point of the curve.
    #[error("node key: {0}")]
    BadKey(&'static str),
    /// The signature of the challenge does not verify.
    #[error("bad signature of the challenge")]
    BadSignature,
    /// A frame that does not open.
    #[error("frame {0} does not open: altered, or out of order")]
    BadFrame(u64),
    /// A chunk length above 1024.
    #[error("chunk of {0} bytes, where {CHUNK} is the limit")]
    ChunkTooLong(u32),
    /// 2^64−1 frames.
    #[error("out of nonces")]
    Exhausted,
}

/// The outcome of two ephemeral keys: a key for each direction, and the challenge that both sides
/// sign.
#[derive(Debug)]
pub struct Agreement {
    /// Seals what we send.
    pub sealer: Sealer,
    /// Opens what we receive.
    pub opener: Opener,
    /// The bytes that the node keys sign.
    pub challenge: [u8; 32],
}

/// The public half of an ephemeral secret.
#[must_use]
pub fn ephemeral_public(secret: [u8; 32]) -> [u8; 32] {
    x25519(secret, X25519_BASEPOINT_BYTES)
}

/// Steps 3 to 6 of `protocol.md` 1.1: from our ephemeral secret and the peer's ephemeral key to
/// keys and challenge.
///
/// # Errors
/// [`SecretError::LowOrder`] when the peer's key gives a secret of zeros.
pub fn agree(secret: [u8; 32], theirs: [u8; 32]) -> Result<Agreement, SecretError> {
    let ours = ephemeral_public(secret);
    let shared = x25519(secret, theirs);
    // All bytes are looked at, so that the time tells nothing about the secret.
    if shared.iter().fold(0, |all, b| all | b) == 0 {
        return Err(SecretError::LowOrder);
    }
    // Both sides sort the keys alike; without roles the order has to come from the bytes.
    let we_are_lower = ours < theirs;
    let (lower, upper) = if we_are_lower {
        (ours, theirs)
    } else {
        (theirs, ours)
    };
    let mut transcript = Transcript::new(b"TENDERMINT_SECRET_CONNECTION_TRANSCRIPT_HASH");
    transcript.append_message(b"EPHEMERAL_LOWER_PUBLIC_KEY", &lower);
    transcript.append_message(b"EPHEMERAL_UPPER_PUBLIC_KEY", &upper);
    transcript.append_message(b"DH_SECRET", &shared);
    let mut challenge = [0; 32];
    transcript.challenge_bytes(b"SECRET_CONNECTION_MAC", &mut challenge);

    let keys = derive(&shared);
    let (first, second) = keys.split_at(32);
    let (receive, send) = if we_are_lower {
        (first, second)
    } else {
        (second, first)
    };
    Ok(Agreement {
        sealer: Sealer::new(send),
        opener: Opener::new(receive),
        challenge,
    })
}

/// The two frame keys; a third block that Go derives is not used by anybody.
fn derive(shared: &[u8; 32]) -> [u8; 64] {
    let mut keys = [0; 64];
    Hkdf::<Sha256>::new(None, shared)
        .expand(
            b"TENDERMINT_SECRET_CONNECTION_KEY_AND_CHALLENGE_GEN",
            &mut keys,
        )
        .expect("64 bytes are within HKDF's limit of 255 blocks");
    keys
}

#[derive(Debug)]
pub(super) struct FrameKey {
    key: LessSafeKey,
    pub(super) next: u64,
}

impl FrameKey {
    fn new(key: &[u8]) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("a key of 32 bytes");
        FrameKey {
            key: LessSafeKey::new(key),
            next: 0,
        }
    }

    /// Four zero bytes, then the frame's number in little endian.
    fn nonce(&mut self) -> Result<Nonce, SecretError> {
        let number = self.next;
        self.next = number.checked_add(1).ok_or(SecretError::Exhausted)?;
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&number.to_le_bytes());
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

/// Seals frames, in order.
#[derive(Debug)]
pub struct Sealer(pub(super) FrameKey);

impl Sealer {
    pub(super) fn new(key: &[u8]) -> Self {
        Sealer(FrameKey::new(key))
    }

    /// Seals the frame that begins at `start` and ends with `out`: four bytes of room, then the
    /// chunk. The rest of the data area is filled with zeros; length, padding and tag are added.
    ///
    /// # Errors
    /// When there are no more nonces.
    ///
    /// # Panics
    /// When `out` holds less than four bytes or more than a frame from `start` on: a mistake of the
    /// caller, whatever the peer sent.
    pub fn seal(&mut self, out: &mut Vec<u8>, start: usize) -> Result<(), SecretError> {
        let chunk = out.len() - start - 4;
        assert!(chunk <= CHUNK, "a chunk of {chunk} bytes");
        #[allow(clippy::cast_possible_truncation)] // at most 1024
        out[start..start + 4].copy_from_slice(&(chunk as u32).to_le_bytes());
        // Go leaves bytes of earlier chunks there; ours tell nothing (`protocol.md` 1.2).
        out.resize(start + FRAME, 0);
        self.seal_as_is(out, start)
    }

    /// Seals what there is from `start` on, length and all: what a peer that keeps to no rule can
    /// send.
    pub(super) fn seal_as_is(
        &mut self,
        out: &mut Vec<u8>,
        start: usize,
    ) -> Result<(), SecretError> {
        let nonce = self.0.nonce()?;
        let tag = self
            .0
            .key
            .seal_in_place_separate_tag(nonce, Aad::empty(), &mut out[start..])
            // Refused only for gigabytes at once, which no frame is.
            .map_err(|_| SecretError::Exhausted)?;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }
}

/// Opens frames, in order.
#[derive(Debug)]
pub struct Opener(FrameKey);

impl Opener {
    pub(super) fn new(key: &[u8]) -> Self {
        Opener(FrameKey::new(key))
    }

    /// Opens the sealed frame at `buf[from..from + SEALED]` and puts its chunk at `buf[to..]`, so
    /// that chunks of consecutive frames come to lie side by side. Gives the chunk's length, 0 to
    /// 1024. Bytes below `to` are kept; those between are not.
    ///
    /// # Errors
    /// A frame that was altered, or a chunk length above the limit. The connection is of no more
    /// use then.
    ///
    /// # Panics
    /// When `to < 4` or `to - 4 > from`, or the frame is not all there: mistakes of the caller.
    pub fn open(&mut self, buf: &mut [u8], to: usize, from: usize) -> Result<usize, SecretError> {
        let number = self.0.next;
        let nonce = self.0.nonce()?;
        // The chunk's length lands on the last four bytes of what is there already: they are put
        // back.
        let base = to - 4;
        let mut kept = [0; 4];
        kept.copy_from_slice(&buf[base..to]);
        self.0
            .key
            .open_within(
                nonce,
                Aad::empty(),
                &mut buf[base..from + SEALED],
                from - base..,
            )
            .map_err(|_| SecretError::BadFrame(number))?;
        let mut length = [0; 4];
        length.copy_from_slice(&buf[base..to]);
        buf[base..to].copy_from_slice(&kept);
        let length = u32::from_le_bytes(length);
        match usize::try_from(length) {
            Ok(n) if n <= CHUNK => Ok(n),
            _ => Err(SecretError::ChunkTooLong(length)),
        }
    }
}
