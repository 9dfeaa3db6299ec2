//! Evidence of misbehaviour in a block (`protocol.md` 5.1, 5.9, 5.11).

use std::fmt;

use bytes::Bytes;

use super::commit::{Commit, SignBytes, Signature, VoteForm};
use super::encode;
use super::header::Header;
use super::key::PublicKey;
use super::merkle;
use super::time::Time;
use crate::ids::{Address, BlockId, Hash, Height};

/// A signed vote, as evidence holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    /// 1 prevote, 2 precommit.
    pub kind: i32,
    /// Height voted on.
    pub height: Height,
    /// Round.
    pub round: i32,
    /// Id of the block voted for; zero is nil.
    pub block_id: BlockId,
    /// The time that the vote states.
    pub timestamp: Time,
    /// The validator's address.
    pub address: Address,
    /// Index in the set; not looked at when evidence is verified.
    pub index: i32,
    /// The signature.
    pub signature: Signature,
    /// Vote extension.
    pub extension: Bytes,
    /// Signature over the extension.
    pub extension_signature: Bytes,
}

/// One validator signed two votes of one height, round and type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuplicateVoteEvidence {
    /// The vote with the lower key (block hash, then part-set header bytes).
    pub vote_a: Vote,
    /// The other vote.
    pub vote_b: Vote,
    /// Total power of the validator set at that height.
    pub total_voting_power: i64,
    /// Power of the validator that signed both votes.
    pub validator_power: i64,
    /// Time of the block of that height.
    pub timestamp: Time,
}

/// A validator as evidence and light blocks carry it; its address need not be its key's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawValidator {
    /// The address as it is written.
    pub address: Bytes,
    /// The key; `None` where the oneof is unset or of another kind, which fails the stateless
    /// check.
    pub key: Option<PublicKey>,
    /// Power.
    pub power: i64,
    /// Proposer priority.
    pub priority: i64,
    /// The form in which it is encoded.
    pub form: ValidatorForm,
}

/// The ways in which versions of CometBFT write a validator in evidence (`versions.md` 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ValidatorForm {
    /// The key as a `PublicKey`: up to 0.40.
    #[default]
    Key,
    /// The key's bytes and the name of its type: 1.0.
    BytesAndType,
}

impl fmt::Display for ValidatorForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ValidatorForm::Key => "with a PublicKey, as up to CometBFT 0.40",
            ValidatorForm::BytesAndType => "with a key's bytes and type, as in CometBFT 1.0",
        })
    }
}

/// A header, its commit and its set, as a light client got them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LightBlock {
    /// The header.
    pub header: Header,
    /// Its commit.
    pub commit: Commit,
    /// Its set, in the order given.
    pub validators: Vec<RawValidator>,
    /// The proposer field of the set.
    pub proposer: RawValidator,
}

/// A light client was shown a conflicting header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LightClientAttackEvidence {
    /// The conflicting block.
    pub conflicting_block: Box<LightBlock>,
    /// The last height on which both agree.
    pub common_height: Height,
    /// The validators to blame.
    pub byzantine_validators: Vec<RawValidator>,
    /// Total power of the validator set at the common height.
    pub total_voting_power: i64,
    /// Time of the block of the common height.
    pub timestamp: Time,
}

/// An item of a block's evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Two votes.
    DuplicateVote(Box<DuplicateVoteEvidence>),
    /// A forged light block.
    LightClientAttack(Box<LightClientAttackEvidence>),
}

/// One offender, for the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misbehavior {
    /// 1 duplicate vote, 2 light-client attack.
    pub kind: i32,
    /// The validator's address.
    pub address: Address,
    /// Its power at the height of the offence.
    pub power: i64,
    /// Height of the offence.
    pub height: Height,
    /// Time of the block at that height.
    pub time: Time,
    /// Power of the whole set at that height.
    pub total_voting_power: i64,
}

impl Vote {
    /// Sign bytes of the vote, length prefix included (`protocol.md` 5.5), where votes have this
    /// form.
    #[must_use]
    pub fn sign_bytes(&self, chain_id: &[u8], form: VoteForm) -> Vec<u8> {
        let mut out = Vec::with_capacity(192);
        let signing = SignBytes::new(self.kind, self.height, self.round, &self.block_id, chain_id);
        // A vote for nil has the zero id, which is left out.
        signing.of(form).write_vote(true, self.timestamp, &mut out);
        out
    }
}

impl Evidence {
    /// The leaf of the evidence hash: the inner message, without the oneof around it (`protocol.md`
    /// 5.3).
    #[must_use]
    pub fn leaf(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        match self {
            Evidence::DuplicateVote(e) => e.encode(&mut out),
            Evidence::LightClientAttack(e) => e.encode(&mut out),
        }
        out
    }

    /// By what the evidence pool tells items apart (`protocol.md` 5.11). For an attack it covers 31
    /// bytes of the conflicting hash and the common height only, a quirk that must be kept.
    #[must_use]
    pub fn identity(&self) -> Hash {
        match self {
            Evidence::DuplicateVote(_) => merkle::sha256(&self.leaf()),
            Evidence::LightClientAttack(e) => {
                let mut bytes = vec![0; 32];
                if let Some(hash) = e.conflicting_block.header.hash() {
                    bytes[..31].copy_from_slice(&hash.0[..31]);
                }
                // Go's `binary.PutVarint`, which is zig-zag; a height is never negative.
                encode::uvarint(e.common_height.get() << 1, &mut bytes);
                merkle::sha256(&bytes)
            }
        }
    }

    /// The height at which the offence is judged: of the votes, or the common one.
    #[must_use]
    pub fn height(&self) -> Height {
        match self {
            Evidence::DuplicateVote(e) => e.vote_a.height,
            Evidence::LightClientAttack(e) => e.common_height,
        }
    }

    /// The time that the item states for that height.
    #[must_use]
    pub fn time(&self) -> Time {
        match self {
            Evidence::DuplicateVote(e) => e.timestamp,
            Evidence::LightClientAttack(e) => e.timestamp,
        }
    }

    /// Misbehavior as the application is told: one entry for two votes, one for each byzantine
    /// validator of an attack (`protocol.md` 7.4). A validator without a key, which the stateless
    /// checks refuse, is left out.
    #[must_use]
    pub fn misbehavior(&self) -> Vec<Misbehavior> {
        let entry = |kind, address, power, total_voting_power| Misbehavior {
            kind,
            address,
            power,
            height: self.height(),
            time: self.time(),
            total_voting_power,
        };
        match self {
            Evidence::DuplicateVote(e) => vec![entry(
                1,
                e.vote_a.address,
                e.validator_power,
                e.total_voting_power,
            )],
            Evidence::LightClientAttack(e) => e
                .byzantine_validators
                .iter()
                .filter_map(|v| {
                    // The key's own address, as in CometBFT, which the stated one must equal.
                    let address = v.key.as_ref()?.address();
                    Some(entry(2, address, v.power, e.total_voting_power))
                })
                .collect(),
        }
    }
}

impl Vote {
    /// Appends the message `Vote`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode::int(1, i64::from(self.kind), out);
        encode::int(2, self.height.to_wire(), out);
        encode::int(3, i64::from(self.round), out);
        encode::message(4, out, |out| encode::block_id(&self.block_id, out));
        encode::message(5, out, |out| self.timestamp.encode(out));
        encode::bytes(6, &self.address.0, out);
        encode::int(7, i64::from(self.index), out);
        encode::bytes(8, self.signature.as_slice(), out);
        encode::bytes(9, &self.extension, out);
        encode::bytes(10, &self.extension_signature, out);
    }
}

impl DuplicateVoteEvidence {
    /// Appends the message `DuplicateVoteEvidence`.
    fn encode(&self, out: &mut Vec<u8>) {
        encode::message(1, out, |out| self.vote_a.encode(out));
        encode::message(2, out, |out| self.vote_b.encode(out));
        encode::int(3, self.total_voting_power, out);
        encode::int(4, self.validator_power, out);
        encode::message(5, out, |out| self.timestamp.encode(out));
    }
}

impl RawValidator {
    /// Appends the message `Validator`.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        encode::bytes(1, &self.address, out);
        if self.form == ValidatorForm::Key {
            // Written even without a key: `PublicKey` is a struct in Go's
            // message, and not a pointer.
            encode::message(2, out, |out| {
                if let Some(key) = &self.key {
                    key.encode(out);
                }
            });
        }
        encode::int(3, self.power, out);
        encode::int(4, self.priority, out);
        if let (ValidatorForm::BytesAndType, Some(key)) = (self.form, &self.key) {
            encode::bytes(5, key.as_bytes(), out);
            encode::bytes(6, key.type_name().as_bytes(), out);
        }
    }
}

impl LightBlock {
    /// Appends the message `LightBlock`. The set's total power is left out, as Go does whatever it
    /// had read.
    fn encode(&self, out: &mut Vec<u8>) {
        encode::message(1, out, |out| {
            encode::message(1, out, |out| self.header.encode(out));
            encode::message(2, out, |out| self.commit.encode(out));
        });
        encode::message(2, out, |out| {
            for validator in &self.validators {
                encode::message(1, out, |out| validator.encode(out));
            }
            encode::message(2, out, |out| self.proposer.encode(out));
        });
    }
}

impl LightClientAttackEvidence {
    /// Appends the message `LightClientAttackEvidence`.
    fn encode(&self, out: &mut Vec<u8>) {
        encode::message(1, out, |out| self.conflicting_block.encode(out));
        encode::int(2, self.common_height.to_wire(), out);
        for validator in &self.byzantine_validators {
            encode::message(3, out, |out| validator.encode(out));
        }
        encode::int(4, self.total_voting_power, out);
        encode::message(5, out, |out| self.timestamp.encode(out));
    }
}

impl Evidence {
    /// Appends the message `Evidence`, the oneof.
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Evidence::DuplicateVote(e) => encode::message(1, out, |out| e.encode(out)),
            Evidence::LightClientAttack(e) => encode::message(2, out, |out| e.encode(out)),
        }
    }
}

/// Appends the message `EvidenceList`.
pub fn encode_list(list: &[Evidence], out: &mut Vec<u8>) {
    for item in list {
        encode::message(1, out, |out| item.encode(out));
    }
}

/// How many bytes `encode_list` writes: what `evidence.max_bytes` limits (`protocol.md` 5.10).
#[must_use]
pub fn list_size(list: &[Evidence]) -> usize {
    // Nearly every block: no allocation for it.
    if list.is_empty() {
        return 0;
    }
    let mut out = Vec::new();
    encode_list(list, &mut out);
    out.len()
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::chain::block::evidence_hash;
    use crate::chain::testing::{evidence_list, group, hash, hex, list, name, size};
    use crate::wire::proto::abci;

    #[test]
    fn lists_leaves_and_identities_are_gos() {
        for case in group("evidence_lists") {
            let proto = hex(&case["list_proto"]);
            let items = evidence_list(&proto).unwrap();
            let mut out = Vec::new();
            encode_list(&items, &mut out);
            assert_eq!(hex::encode(out), hex::encode(proto), "{}", name(case));
            assert_eq!(list_size(&items), size(&case["byte_size"]));
            assert_eq!(Some(evidence_hash(&items)), hash(&case["evidence_hash"]));
            assert_eq!(items.len(), list(&case["evidence"]).len());
            for (item, expected) in items.iter().zip(list(&case["evidence"])) {
                assert_eq!(item.leaf(), hex(&expected["leaf"]), "{}", name(case));
                assert_eq!(Some(item.identity()), hash(&expected["hash"]));
                let told: Vec<_> = item.misbehavior();
                let told = told.iter().map(|m| to_proto(m).encode_to_vec());
                let expected = list(&expected["abci"]).iter().map(hex);
                assert!(told.eq(expected), "{}", name(case));
            }
        }
    }

    fn to_proto(m: &Misbehavior) -> abci::Misbehavior {
        abci::Misbehavior {
            r#type: m.kind,
            validator: Some(abci::Validator {
                address: Bytes::copy_from_slice(&m.address.0),
                power: m.power,
            }),
            height: m.height.to_wire(),
            time: Some(crate::wire::proto::types::Timestamp {
                seconds: m.time.seconds,
                nanos: m.time.nanos,
            }),
            total_voting_power: m.total_voting_power,
        }
    }

    #[test]
    fn sign_bytes_of_the_appendix() {
        let mut vote = Vote {
            kind: 0,
            height: Height::ZERO,
            round: 0,
            block_id: BlockId::ZERO,
            timestamp: Time::ZERO,
            address: Address([0; 20]),
            index: 0,
            signature: Signature::EMPTY,
            extension: Bytes::new(),
            extension_signature: Bytes::new(),
        };
        assert_eq!(
            hex::encode(vote.sign_bytes(b"", VoteForm::Timed)),
            "0d2a0b088092b8c398feffffff01"
        );
        (vote.height, vote.round) = (Height::new(1), 1);
        assert_eq!(
            hex::encode(vote.sign_bytes(b"test_chain_id", VoteForm::Timed)),
            "2e1101000000000000001901000000000000002a0b088092b8c398feffffff01320d746573745f636861696e5f6964"
        );
        vote.kind = 2;
        assert_eq!(
            hex::encode(vote.sign_bytes(b"", VoteForm::Timed)),
            "210802110100000000000000190100000000000000\
             2a0b088092b8c398feffffff01"
        );
    }
}
