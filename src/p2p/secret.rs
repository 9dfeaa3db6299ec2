//! SecretConnection: who is at the other end, and sealed frames from there on (`protocol.md` 1).
//!
//! The arithmetic is `seal`'s; [`handshake`] moves it over a stream and leaves the
//! stream sealed in both directions. The caller sets the deadline.

use ed25519_dalek::{Signature, VerifyingKey};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};

use super::key::{NodeKey, id_of};
pub use super::seal::{
    Agreement, CHUNK, FRAME, Opener, SEALED, Sealer, SecretError, agree, ephemeral_public,
};
use super::stream::{StreamReader, StreamWriter, delimited};
use crate::ids::PeerId;
use crate::wire::proto::crypto::{PublicKey, public_key};
use crate::wire::proto::p2p::AuthSigMessage;

/// Handshake messages are 34 and 102 bytes; Go reads up to a megabyte, we need not.
const MAX_HANDSHAKE_MESSAGE: usize = 1024;

/// Does the whole of `protocol.md` 1.1 and gives the peer's proven id. From then on both halves of
/// the stream are sealed.
///
/// Bounded: nothing longer than a kilobyte is read before the peer is known. The deadline is the
/// caller's.
///
/// Cancel safety: not cancel safe, as half a handshake cannot be taken up again; drop the stream
/// then.
///
/// # Errors
/// Why the peer is not to be talked to. Close the connection.
pub async fn handshake<R, W>(
    reader: &mut StreamReader<R>,
    writer: &mut StreamWriter<W>,
    key: &NodeKey,
) -> Result<PeerId, SecretError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    handshake_with(reader, writer, key, rand::random()).await
}

async fn handshake_with<R, W>(
    reader: &mut StreamReader<R>,
    writer: &mut StreamWriter<W>,
    key: &NodeKey,
    secret: [u8; 32],
) -> Result<PeerId, SecretError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let ours = ephemeral_public(secret).to_vec(); // prost takes bytes for a google.protobuf.BytesValue
    writer.put(&delimited(&ours))?;
    // There is no order between the two sides: each writes at once and reads at the same time.
    let (theirs, ()) =
        tokio::try_join!(reader.read_delimited(MAX_HANDSHAKE_MESSAGE), writer.flush())?;
    let theirs =
        Vec::<u8>::decode(&theirs[..]).map_err(|e| SecretError::Malformed(e.to_string()))?;
    // Go pads or truncates a value of another length, but sends none (`protocol.md` 1.1).
    let theirs: [u8; 32] = theirs.try_into().map_err(|v: Vec<u8>| {
        SecretError::Malformed(format!("ephemeral key of {} bytes", v.len()))
    })?;

    let agreement = agree(secret, theirs)?;
    reader.set_opener(agreement.opener)?;
    writer.set_sealer(agreement.sealer);
    writer.put(&delimited(&auth_message(key, &agreement.challenge)))?;
    let (answer, ()) =
        tokio::try_join!(reader.read_delimited(MAX_HANDSHAKE_MESSAGE), writer.flush())?;
    authenticate(&answer, &agreement.challenge)
}

fn auth_message(key: &NodeKey, challenge: &[u8; 32]) -> AuthSigMessage {
    AuthSigMessage {
        pub_key: Some(PublicKey {
            sum: Some(public_key::Sum::Ed25519(key.public().to_vec().into())),
        }),
        sig: key.sign(challenge).to_vec().into(),
    }
}

/// Finds the id that has signed the challenge. Keys of small order, under which anybody can sign
/// anything, are refused; Go takes them.
fn authenticate(message: &[u8], challenge: &[u8; 32]) -> Result<PeerId, SecretError> {
    let message =
        AuthSigMessage::decode(message).map_err(|e| SecretError::Malformed(e.to_string()))?;
    let Some(public_key::Sum::Ed25519(public)) = message.pub_key.and_then(|k| k.sum) else {
        return Err(SecretError::BadKey("not of type ed25519"));
    };
    let public: [u8; 32] = public[..]
        .try_into()
        .map_err(|_| SecretError::BadKey("not of 32 bytes"))?;
    let key = VerifyingKey::from_bytes(&public)
        .map_err(|_| SecretError::BadKey("no point of the curve"))?;
    let signature = Signature::from_slice(&message.sig).map_err(|_| SecretError::BadSignature)?;
    key.verify_strict(challenge, &signature)
        .map_err(|_| SecretError::BadSignature)?;
    Ok(id_of(&public))
}

#[cfg(test)]
mod tests {
    use tokio::io::{
        AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split,
    };

    use super::*;
    use crate::p2p::vectors;

    type Halves = (
        StreamReader<ReadHalf<DuplexStream>>,
        StreamWriter<WriteHalf<DuplexStream>>,
    );

    fn halves(io: DuplexStream) -> Halves {
        let (r, w) = split(io);
        (StreamReader::new(r), StreamWriter::new(w))
    }

    fn array(bytes: &[u8]) -> [u8; 32] {
        bytes.try_into().unwrap()
    }

    /// Replays `party` of a recorded handshake: the bytes it puts on the wire, and those it must
    /// see.
    async fn replay(case: &serde_json::Value, party: &str, other: &str) {
        let (ours, mut wire) = duplex(1 << 20);
        let (mut reader, mut writer) = halves(ours);
        let (me, them) = (&case[party], &case[other]);
        let secret = array(&vectors::hex_field(me, "ephemeral_secret"));
        let key = NodeKey::from_seed(array(&vectors::hex_field(me, "node_seed")));

        let mut incoming = vec![0x22, 0x0a, 0x20];
        incoming.extend(vectors::hex_field(them, "ephemeral_pub"));
        for frame in them["frames"].as_array().unwrap() {
            incoming.extend(vectors::hex_field(frame, "sealed"));
        }
        wire.write_all(&incoming).await.unwrap();

        let id = handshake_with(&mut reader, &mut writer, &key, secret)
            .await
            .unwrap();
        assert_eq!(id.to_string(), them["node_id"].as_str().unwrap());
        let mut expected = Vec::new();
        for part in them["data_sent_after"].as_array().unwrap() {
            expected.extend(vectors::segments(&serde_json::json!([part])));
        }
        while reader.window().len() < expected.len() {
            reader.fill(usize::MAX).await.unwrap();
        }
        assert_eq!(reader.window(), expected);

        for part in me["data_sent_after"].as_array().unwrap() {
            writer
                .put(&vectors::segments(&serde_json::json!([part])))
                .unwrap();
            writer.flush().await.unwrap();
        }
        let mut sent = vec![0; 35];
        wire.read_exact(&mut sent).await.unwrap();
        assert_eq!(sent[3..], vectors::hex_field(me, "ephemeral_pub"));
        for frame in me["frames"].as_array().unwrap() {
            let mut sealed = vec![0; SEALED];
            wire.read_exact(&mut sealed).await.unwrap();
            if frame["rest_is_zero"].as_bool().unwrap() {
                assert_eq!(sealed, vectors::hex_field(frame, "sealed"));
            }
        }
    }

    #[tokio::test]
    async fn recorded_handshakes_are_reproduced_from_both_sides() {
        for case in vectors::group("secret_connection") {
            let secret = array(&vectors::hex_field(&case["a"], "ephemeral_secret"));
            let theirs = array(&vectors::hex_field(&case["b"], "ephemeral_pub"));
            let agreement = agree(secret, theirs).unwrap();
            assert_eq!(
                agreement.challenge.to_vec(),
                vectors::hex_field(&case, "challenge")
            );
            replay(&case, "a", "b").await;
            replay(&case, "b", "a").await;
        }
    }

    #[test]
    fn low_order_keys_are_refused() {
        for point in [
            [0; 32],
            array(
                &hex::decode("0100000000000000000000000000000000000000000000000000000000000000")
                    .unwrap(),
            ),
            array(
                &hex::decode("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")
                    .unwrap(),
            ),
            array(
                &hex::decode("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f")
                    .unwrap(),
            ),
        ] {
            assert!(matches!(agree([7; 32], point), Err(SecretError::LowOrder)));
        }
    }

    /// Two agreed ends.
    fn pair() -> (Agreement, Agreement) {
        let (a, b) = ([1; 32], [2; 32]);
        (
            agree(a, ephemeral_public(b)).unwrap(),
            agree(b, ephemeral_public(a)).unwrap(),
        )
    }

    #[test]
    fn chunks_come_to_lie_side_by_side_whatever_their_length() {
        let (mut a, mut b) = pair();
        let mut wire = vec![0xee; 8]; // what is there already
        let chunks: [&[u8]; 5] = [b"x", &[5; CHUNK], b"", b"yz", &[6; 1000]];
        for chunk in chunks {
            let start = wire.len();
            wire.extend_from_slice(&[0; 4]);
            wire.extend_from_slice(chunk);
            a.sealer.seal(&mut wire, start).unwrap();
        }
        let mut end = 8;
        for (i, chunk) in chunks.iter().enumerate() {
            let n = b.opener.open(&mut wire, end, 8 + i * SEALED).unwrap();
            assert_eq!(n, chunk.len());
            end += n;
        }
        assert_eq!(wire[..8], [0xee; 8]);
        assert_eq!(wire[8..end], chunks.concat());
    }

    #[test]
    fn altered_and_repeated_frames_do_not_open() {
        let (mut a, mut b) = pair();
        let mut wire = vec![0; 4];
        a.sealer.seal(&mut wire, 0).unwrap();
        let good = wire.clone();
        wire[SEALED - 1] ^= 1;
        assert!(matches!(
            b.opener.open(&mut wire, 4, 0),
            Err(SecretError::BadFrame(0))
        ));
        let (_, mut b) = pair();
        assert_eq!(b.opener.open(&mut good.clone(), 4, 0).unwrap(), 0);
        assert!(matches!(
            b.opener.open(&mut good.clone(), 4, 0),
            Err(SecretError::BadFrame(1))
        ));
    }

    #[test]
    fn a_chunk_length_above_the_limit_is_refused() {
        let (mut a, mut b) = pair();
        let mut frame = 1025u32.to_le_bytes().to_vec();
        frame.resize(FRAME, 0);
        a.sealer.seal_as_is(&mut frame, 0).unwrap();
        assert!(matches!(
            b.opener.open(&mut frame, 4, 0),
            Err(SecretError::ChunkTooLong(1025))
        ));
    }

    #[test]
    fn the_last_nonce_is_never_used() {
        let (mut a, _) = pair();
        a.sealer.0.next = u64::MAX;
        assert!(matches!(
            a.sealer.seal(&mut vec![0; 4], 0),
            Err(SecretError::Exhausted)
        ));
    }

    #[test]
    fn only_the_key_that_signed_is_believed() {
        let challenge = [9; 32];
        let (honest, liar) = (NodeKey::from_seed([1; 32]), NodeKey::from_seed([2; 32]));
        let mut message = auth_message(&liar, &challenge);
        assert_eq!(
            authenticate(&message.encode_to_vec(), &challenge).unwrap(),
            liar.id()
        );
        message.pub_key = auth_message(&honest, &challenge).pub_key;
        let verdict = authenticate(&message.encode_to_vec(), &challenge);
        assert!(matches!(verdict, Err(SecretError::BadSignature)));
        message.pub_key = Some(PublicKey {
            sum: Some(public_key::Sum::Secp256k1(vec![2; 33].into())),
        });
        assert!(matches!(
            authenticate(&message.encode_to_vec(), &challenge),
            Err(SecretError::BadKey(_))
        ));
        // the neutral element: every message has a signature under it
        let mut neutral = vec![0; 32];
        neutral[0] = 1;
        message.pub_key = Some(PublicKey {
            sum: Some(public_key::Sum::Ed25519(neutral.clone().into())),
        });
        neutral.resize(64, 0);
        message.sig = neutral.into();
        assert!(matches!(
            authenticate(&message.encode_to_vec(), &challenge),
            Err(SecretError::BadSignature)
        ));
    }

    #[tokio::test]
    async fn one_byte_at_a_time_is_fast_enough() {
        let (a, b) = duplex(1);
        let (mut ar, mut aw) = halves(a);
        let (mut br, mut bw) = halves(b);
        let (ka, kb) = (NodeKey::generate(), NodeKey::generate());
        let (ida, idb) = tokio::join!(
            handshake(&mut br, &mut bw, &kb),
            handshake(&mut ar, &mut aw, &ka)
        );
        assert_eq!((ida.unwrap(), idb.unwrap()), (ka.id(), kb.id()));
    }

    #[tokio::test]
    async fn an_oversize_or_cut_handshake_message_is_refused() {
        for bytes in [
            &[0xff, 0xff, 0xff, 0xff, 0x7f][..],
            &[0x22, 0x0a, 0x20, 1],
            &[0x03, 0x0a, 0x01, 0x01],
            &[],
        ] {
            let (ours, mut wire) = duplex(1 << 16);
            let (mut r, mut w) = halves(ours);
            wire.write_all(bytes).await.unwrap();
            wire.shutdown().await.unwrap();
            assert!(
                handshake(&mut r, &mut w, &NodeKey::generate())
                    .await
                    .is_err()
            );
        }
    }
}
