//! A status that its sender has signed, and on demand proven (`serving.md` 6).
//!
//! It stands beside a status, and is given only to those who have asked for it, beside their
//! request for the status: a node of CometBFT never asks.

use bytes::Bytes;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use super::error::{Problem, WireError};
use super::message::{Kind, Message, field_of, walk, with_fields};
use super::reader::Reader;
use super::{ChainIdentity, decode};
use crate::chain::height_proof::HeightProof;
use crate::chain::{encode, merkle};
use crate::ids::{BlockId, Height, PeerId};

/// The field's number in `StatusRequest` and `StatusResponse`.
pub(crate) const ADVERTISEMENT: u8 = 16;
/// Length of the longest advertisement that is accepted, in bytes. With the status around it this
/// is less than a connection that owes us nothing may send in one message.
pub const MAX_ADVERTISEMENT: usize = 60 << 10;
/// First field of the sign bytes. It keeps them apart from everything else that the key signs.
const DOMAIN: &[u8] = b"blocksync/advertisement/1";

/// Random bytes, fresh for each request.
pub type Nonce = [u8; 16];

/// Asks for signed statuses; stands beside a status request. All later statuses are signed, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdvertisementRequest {
    /// Length of the longest advertisement that the sender accepts, in bytes.
    pub takes: u32,
    /// Repeated by the answer, under its signature.
    pub nonce: Nonce,
    /// Asks for a proof if the server's height is above this one.
    pub prove_above: Option<Height>,
}

impl AdvertisementRequest {
    /// The whole status request, encoded.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        with_fields(&Message::StatusRequest, &[(ADVERTISEMENT, &self.body())])
    }

    /// The field's body.
    pub(crate) fn body(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(40);
        encode::uint(1, self.takes.into(), &mut body);
        encode::bytes(2, &self.nonce, &mut body);
        if let Some(height) = self.prove_above {
            // One more, so that height 0 is not left out.
            encode::uint(3, height.next().get(), &mut body);
        }
        body
    }

    /// Reads the advertisement request in a status request; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(message: &[u8]) -> Result<Option<Self>, WireError> {
        let at = "AdvertisementRequest";
        let Some(body) = field_of(message, &[Kind::StatusRequest], ADVERTISEMENT)? else {
            return Ok(None);
        };
        let (mut takes, mut nonce, mut above) = (0, &[][..], 0i64);
        walk(at, body, |field, reader| {
            match field.number {
                // A number of more than 32 bits keeps its low ones, as every varint does here. The
                // server caps it at `MAX_ADVERTISEMENT` anyway.
                1 => takes = reader.varint(field)? as u32,
                2 => nonce = reader.bytes(field)?,
                3 => above = reader.varint(field)? as i64,
                _ => reader.skip(field)?,
            }
            Ok(())
        })?;
        let above = Height::from_wire(above)
            .ok_or_else(|| WireError::range(at, "prove_above", "0 or more", above))?;
        Ok(Some(AdvertisementRequest {
            takes,
            nonce: fixed(at, "nonce", "16", nonce)?,
            // On the wire it is one more, so that absence and "above height 0" differ.
            prove_above: (above > Height::ZERO).then(|| above.prev()),
        }))
    }
}

/// The claim that an advertisement signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Lowest height that is served.
    pub base: Height,
    /// Highest height that is served.
    pub height: Height,
    /// Rises with each advertisement of a process; begins with the microseconds of the Unix clock.
    pub sequence: u64,
    /// Seconds of the Unix clock.
    pub time: i64,
    /// Nonce of the request that this answers; `None` in a status that nobody asked for.
    pub nonce: Option<Nonce>,
}

/// A signed status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// The node's public key.
    pub key: [u8; 32],
    /// Heights, sequence, time and nonce.
    pub claim: Claim,
    /// Proof that the height has been decided.
    pub proof: Option<HeightProof>,
    /// Signature of the sign bytes by the key.
    pub signature: [u8; 64],
}

/// The chain and the receiver, which are signed and not sent.
#[derive(Clone, Copy, Debug)]
pub struct Audience<'a> {
    /// The chain.
    pub chain: &'a ChainIdentity,
    /// The receiver's node id where the connection has shown it; zero bytes elsewhere.
    pub receiver: PeerId,
}

/// The node's key, which signs its advertisements.
#[derive(Clone)]
pub struct Signer(SigningKey);

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Signer").field(&self.id()).finish()
    }
}

impl Signer {
    /// The key of this ed25519 seed.
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Signer(SigningKey::from_bytes(&seed))
    }

    /// The node's id.
    #[must_use]
    pub fn id(&self) -> PeerId {
        node_id(self.0.verifying_key().as_bytes())
    }

    /// Signs a claim.
    #[must_use]
    pub fn sign(
        &self,
        claim: Claim,
        proof: Option<HeightProof>,
        audience: Audience<'_>,
    ) -> Advertisement {
        // Of the proof only the block id is signed: header and votes must hash to it
        // and verify by themselves.
        let id = proof.as_ref().map(|proof| &proof.commit.block_id);
        let signature = self.0.sign(&sign_bytes(&claim, id, audience)).to_bytes();
        Advertisement {
            key: self.0.verifying_key().to_bytes(),
            claim,
            proof,
            signature,
        }
    }
}

/// Id of the node with this public key (`protocol.md` 1.3).
#[must_use]
pub fn node_id(key: &[u8; 32]) -> PeerId {
    let hash = merkle::sha256(key).0;
    let mut id = [0; 20];
    id.copy_from_slice(&hash[..20]);
    PeerId(id)
}

impl Advertisement {
    /// The field's body.
    pub(crate) fn body(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        encode::bytes(1, &self.key, &mut out);
        // Fixed width: it begins with microseconds of the Unix clock, a
        // varint of eight bytes already.
        fixed64(2, self.claim.sequence, &mut out);
        encode::sfixed64(3, self.claim.time, &mut out);
        encode::bytes(
            4,
            self.claim.nonce.as_ref().map_or(&[], |n| &n[..]),
            &mut out,
        );
        encode::int(5, self.claim.base.to_wire(), &mut out);
        encode::int(6, self.claim.height.to_wire(), &mut out);
        if let Some(proof) = &self.proof {
            encode::message(7, &mut out, |out| {
                encode::message(1, out, |out| proof.header.encode(out));
                encode::message(2, out, |out| proof.commit.encode(out));
            });
        }
        encode::bytes(8, &self.signature, &mut out);
        out
    }

    /// A status with this advertisement beside it, encoded.
    #[must_use]
    pub fn beside(&self, status: &Message) -> Bytes {
        with_fields(status, &[(ADVERTISEMENT, &self.body())])
    }

    /// Reads the advertisement in a status; `None` when there is none. Nothing is verified.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(message: &[u8]) -> Result<Option<Self>, WireError> {
        match field_of(message, &[Kind::Status], ADVERTISEMENT)? {
            Some(body) => parse(body).map(Some),
            None => Ok(None),
        }
    }

    /// Tells whether the signature is the key's, for this audience.
    #[must_use]
    pub fn is_signed_for(&self, audience: Audience<'_>) -> bool {
        let id = self.proof.as_ref().map(|proof| &proof.commit.block_id);
        let Ok(key) = VerifyingKey::from_bytes(&self.key) else {
            return false;
        };
        let signature = Signature::from_bytes(&self.signature);
        let bytes = sign_bytes(&self.claim, id, audience);
        // Stricter than consensus: under a key of small order anybody could sign.
        key.verify_strict(&bytes, &signature).is_ok()
    }
}

fn parse(body: &[u8]) -> Result<Advertisement, WireError> {
    let at = "Advertisement";
    let (mut key, mut nonce, mut signature) = (&[][..], &[][..], &[][..]);
    let (mut sequence, mut time, mut base, mut height) = (0, 0, 0, 0);
    let mut proof = None;
    walk(at, body, |field, reader| {
        match field.number {
            1 => key = reader.bytes(field)?,
            2 => sequence = reader.fixed64(field)?,
            3 => time = reader.fixed64(field)? as i64,
            4 => nonce = reader.bytes(field)?,
            5 => base = reader.varint(field)? as i64,
            6 => height = reader.varint(field)? as i64,
            7 => proof = Some(reader.bytes(field)?),
            8 => signature = reader.bytes(field)?,
            _ => reader.skip(field)?,
        }
        Ok(())
    })?;
    let number = |field, found| {
        Height::from_wire(found).ok_or(WireError::range(at, field, "0 or more", found))
    };
    // Absent in a status that nobody asked for; any other length cannot be the echo of a request.
    let nonce = match nonce {
        [] => None,
        nonce => Some(fixed(at, "nonce", "0 or 16", nonce)?),
    };
    Ok(Advertisement {
        key: fixed(at, "public_key", "32", key)?,
        claim: Claim {
            base: number("base", base)?,
            height: number("height", height)?,
            sequence,
            time,
            nonce,
        },
        proof: proof.map(parse_proof).transpose()?,
        signature: fixed(at, "signature", "64", signature)?,
    })
}

fn parse_proof(body: &[u8]) -> Result<HeightProof, WireError> {
    let at = "HeightProof";
    let (mut header, mut commit) = (None, None);
    let mut reader = Reader::new(at, body);
    while let Some(field) = reader.field()? {
        match field.number {
            1 => header = Some(reader.bytes(field)?),
            2 => commit = Some(reader.bytes(field)?),
            _ => reader.skip(field)?,
        }
    }
    let missing = |what| WireError::new(at, Problem::Missing(what));
    Ok(HeightProof {
        header: decode::header_from_bytes(header.ok_or(missing("header"))?)?,
        commit: decode::commit_from_bytes(commit.ok_or(missing("commit"))?)?,
    })
}

/// The bytes to sign: every field, written even when empty, behind their length.
fn sign_bytes(claim: &Claim, id: Option<&BlockId>, audience: Audience<'_>) -> Bytes {
    let mut out = Vec::with_capacity(256);
    encode::delimited(&mut out, |out| {
        encode::element(1, DOMAIN, out);
        // Neither the chain nor the receiver is sent: a signature replayed on another chain or to
        // another node simply does not verify.
        encode::element(2, audience.chain.chain_id.as_bytes(), out);
        encode::element(3, &audience.chain.genesis.0, out);
        encode::element(4, &audience.receiver.0, out);
        encode::element(5, claim.nonce.as_ref().map_or(&[], |n| &n[..]), out);
        always_fixed64(6, claim.sequence, out);
        always_fixed64(7, claim.time as u64, out);
        always_fixed64(8, claim.base.get(), out);
        always_fixed64(9, claim.height.get(), out);
        let mut block = Vec::with_capacity(68);
        if let Some(id) = id {
            block.extend_from_slice(id.hash.as_ref().map_or(&[], |hash| &hash.0[..]));
            // The total's width is fixed, so no two ids can run together into the same bytes.
            block.extend_from_slice(&id.parts.total.to_be_bytes());
            block.extend_from_slice(id.parts.hash.as_ref().map_or(&[], |hash| &hash.0[..]));
        }
        encode::element(10, &block, out);
    });
    out.into()
}

fn fixed64(field: u32, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        always_fixed64(field, value, out);
    }
}

fn always_fixed64(field: u32, value: u64, out: &mut Vec<u8>) {
    out.push((field << 3 | 1) as u8); // below 16
    out.extend_from_slice(&value.to_le_bytes());
}

/// Converts a byte string that must have this one length.
fn fixed<const N: usize>(
    at: &'static str,
    field: &'static str,
    expected: &'static str,
    bytes: &[u8],
) -> Result<[u8; N], WireError> {
    bytes
        .try_into()
        .map_err(|_| WireError::length(at, field, expected, bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Hash;

    /// Every field as another encoder has it: prost, which leaves none of these out as none is
    /// zero.
    #[derive(Clone, PartialEq, prost::Message)]
    struct SignedClaim {
        #[prost(bytes = "vec", tag = "1")]
        domain: Vec<u8>,
        #[prost(string, tag = "2")]
        chain_id: String,
        #[prost(bytes = "vec", tag = "3")]
        genesis: Vec<u8>,
        #[prost(bytes = "vec", tag = "4")]
        audience: Vec<u8>,
        #[prost(bytes = "vec", tag = "5")]
        nonce: Vec<u8>,
        #[prost(fixed64, tag = "6")]
        sequence: u64,
        #[prost(sfixed64, tag = "7")]
        time: i64,
        #[prost(sfixed64, tag = "8")]
        base: i64,
        #[prost(sfixed64, tag = "9")]
        height: i64,
        #[prost(bytes = "vec", tag = "10")]
        block_id: Vec<u8>,
    }

    fn chain() -> ChainIdentity {
        ChainIdentity {
            chain_id: "a-chain".into(),
            genesis: Hash([6; 32]),
        }
    }

    fn claim() -> Claim {
        Claim {
            base: Height::new(3),
            height: Height::new(70_000),
            sequence: 1 << 50,
            time: 1_700_000_000,
            nonce: Some([9; 16]),
        }
    }

    #[test]
    fn sign_bytes_are_as_another_encoder_has_them() {
        use prost::Message as _;
        let id = BlockId {
            hash: Some(Hash([1; 32])),
            parts: crate::ids::PartSetHeader {
                total: 258,
                hash: Some(Hash([2; 32])),
            },
        };
        let identity = chain();
        let audience = Audience {
            chain: &identity,
            receiver: PeerId([8; 20]),
        };
        let block_id = [&[1; 32][..], &[0, 0, 1, 2], &[2; 32]].concat();
        let expected = SignedClaim {
            domain: b"blocksync/advertisement/1".to_vec(),
            chain_id: "a-chain".into(),
            genesis: vec![6; 32],
            audience: vec![8; 20],
            nonce: vec![9; 16],
            sequence: 1 << 50,
            time: 1_700_000_000,
            base: 3,
            height: 70_000,
            block_id,
        };
        let bytes = sign_bytes(&claim(), Some(&id), audience);
        assert_eq!(bytes, expected.encode_length_delimited_to_vec());
        // Nothing is left out when it is empty: the bytes of two claims never coincide.
        let empty = Claim {
            nonce: None,
            ..claim()
        };
        let empty = sign_bytes(&empty, None, audience);
        assert_eq!(bytes.len() - empty.len(), 16 + 68);
    }

    #[test]
    fn it_is_a_plain_status_to_those_who_do_not_know_it() {
        let identity = chain();
        let audience = Audience {
            chain: &identity,
            receiver: PeerId([0; 20]),
        };
        let signed = Signer::from_seed([4; 32]).sign(claim(), None, audience);
        let status = Message::Status {
            height: Height::new(70_000),
            base: Height::new(3),
            max_range: 64,
        };
        let bytes = signed.beside(&status);
        assert_eq!(Message::decode_small(&bytes), Ok(status));
        assert_eq!(Advertisement::read(&bytes), Ok(Some(signed.clone())));
        assert!(signed.is_signed_for(audience));
        let receiver = PeerId([1; 20]);
        assert!(!signed.is_signed_for(Audience {
            receiver,
            ..audience
        }));
    }

    #[test]
    fn a_wish_is_a_request_for_the_status() {
        for prove_above in [None, Some(Height::ZERO), Some(Height::new(300))] {
            let wish = AdvertisementRequest {
                takes: 65_536,
                nonce: [7; 16],
                prove_above,
            };
            let bytes = wish.encode();
            assert_eq!(Message::decode_small(&bytes), Ok(Message::StatusRequest));
            assert_eq!(AdvertisementRequest::read(&bytes), Ok(Some(wish)));
        }
    }
}
