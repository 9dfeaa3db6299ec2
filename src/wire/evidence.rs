//! Evidence from bytes, by the rules of CometBFT's decoder (`protocol.md` 0.2, 5.1, 5.9). Rare, so
//! it copies.

use bytes::Bytes;

use super::error::{Problem, WireError};
use super::parse::{self, Budget, RawBlockId, RawCommit, RawHeader};
use super::reader::Reader;
use crate::chain::evidence::{LightBlock, RawValidator, ValidatorForm};
use crate::chain::key::KeyType;
use crate::chain::{
    DuplicateVoteEvidence, Evidence, LightClientAttackEvidence, PublicKey, Signature, Time, Vote,
};

/// One item of an `EvidenceList`. A second item in the oneof replaces the first, even one of the
/// same kind: it is not merged.
pub(crate) fn item(bytes: &[u8], budget: &mut Budget) -> Result<Evidence, WireError> {
    enum Raw<'a> {
        Votes(Box<RawDuplicateVote<'a>>),
        Attack(Box<RawAttack<'a>>),
    }
    let mut raw = None;
    let mut reader = Reader::new("Evidence", bytes);
    while let Some(field) = reader.field()? {
        match field.number {
            1 => {
                let body = reader.bytes(field)?;
                // Charged before it is read: an item of a few bytes becomes a large struct.
                budget.spend::<DuplicateVoteEvidence>("evidence", 1)?;
                raw = Some(Raw::Votes(Box::new(RawDuplicateVote::read(body)?)));
            }
            2 => {
                let body = reader.bytes(field)?;
                // As above; its validators and signatures are charged apart, while they are read.
                budget.spend::<(LightClientAttackEvidence, LightBlock)>("evidence", 1)?;
                raw = Some(Raw::Attack(Box::new(RawAttack::read(body, budget)?)));
            }
            // A kind that a later version adds: without a known one beside it
            // the item is refused below.
            _ => reader.skip(field)?,
        }
    }
    match raw {
        Some(Raw::Votes(votes)) => Ok(Evidence::DuplicateVote(Box::new(votes.convert()?))),
        Some(Raw::Attack(attack)) => Ok(Evidence::LightClientAttack(Box::new(attack.convert()?))),
        None => Err(missing("Evidence", "kind")),
    }
}

fn missing(at: &'static str, what: &'static str) -> WireError {
    WireError::new(at, Problem::Missing(what))
}

#[derive(Default)]
struct RawVote<'a> {
    kind: i32,
    height: i64,
    round: i32,
    block_id: RawBlockId<'a>,
    timestamp: Time,
    address: &'a [u8],
    index: i32,
    signature: &'a [u8],
    extension: &'a [u8],
    extension_signature: &'a [u8],
}

impl<'a> RawVote<'a> {
    fn merge(&mut self, bytes: &'a [u8]) -> Result<(), WireError> {
        let mut reader = Reader::new("Vote", bytes);
        while let Some(field) = reader.field()? {
            match field.number {
                1 => self.kind = reader.varint(field)? as i32,
                2 => self.height = reader.varint(field)? as i64,
                3 => self.round = reader.varint(field)? as i32,
                4 => self.block_id.merge(reader.bytes(field)?)?,
                5 => self.timestamp = parse::time(reader.bytes(field)?)?,
                6 => self.address = reader.bytes(field)?,
                7 => self.index = reader.varint(field)? as i32,
                8 => self.signature = reader.bytes(field)?,
                9 => self.extension = reader.bytes(field)?,
                10 => self.extension_signature = reader.bytes(field)?,
                _ => reader.skip(field)?,
            }
        }
        Ok(())
    }

    fn convert(&self) -> Result<Vote, WireError> {
        let at = "Vote";
        // The longest of any version. A shorter limit of the height's own rules is
        // judged with the evidence.
        let signature = Signature::new(self.signature).ok_or(WireError::length(
            at,
            "signature",
            "1 to 3309",
            self.signature.len(),
        ))?;
        Ok(Vote {
            kind: self.kind,
            height: parse::height(at, self.height)?,
            round: self.round,
            block_id: self.block_id.convert()?,
            timestamp: self.timestamp,
            address: parse::address(at, "validator_address", self.address)?,
            index: self.index,
            signature,
            extension: Bytes::copy_from_slice(self.extension),
            extension_signature: Bytes::copy_from_slice(self.extension_signature),
        })
    }
}

#[derive(Default)]
struct RawDuplicateVote<'a> {
    vote_a: Option<RawVote<'a>>,
    vote_b: Option<RawVote<'a>>,
    total_voting_power: i64,
    validator_power: i64,
    timestamp: Time,
}

impl<'a> RawDuplicateVote<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut raw = RawDuplicateVote::default();
        let mut reader = Reader::new("DuplicateVoteEvidence", bytes);
        while let Some(field) = reader.field()? {
            match field.number {
                1 => merge_vote(&mut raw.vote_a, reader.bytes(field)?)?,
                2 => merge_vote(&mut raw.vote_b, reader.bytes(field)?)?,
                3 => raw.total_voting_power = reader.varint(field)? as i64,
                4 => raw.validator_power = reader.varint(field)? as i64,
                5 => raw.timestamp = parse::time(reader.bytes(field)?)?,
                _ => reader.skip(field)?,
            }
        }
        Ok(raw)
    }

    fn convert(self) -> Result<DuplicateVoteEvidence, WireError> {
        let at = "DuplicateVoteEvidence";
        let vote =
            |vote: Option<RawVote<'_>>, name| vote.ok_or_else(|| missing(at, name))?.convert();
        Ok(DuplicateVoteEvidence {
            vote_a: vote(self.vote_a, "vote_a")?,
            vote_b: vote(self.vote_b, "vote_b")?,
            total_voting_power: self.total_voting_power,
            validator_power: self.validator_power,
            timestamp: self.timestamp,
        })
    }
}

fn merge_vote<'a>(vote: &mut Option<RawVote<'a>>, bytes: &'a [u8]) -> Result<(), WireError> {
    vote.get_or_insert_default().merge(bytes)
}

/// A validator as a message has it, in either form.
#[derive(Default)]
struct ValidatorFields<'a> {
    address: &'a [u8],
    /// The last key of a known type.
    key: Option<(KeyType, &'a [u8])>,
    power: i64,
    priority: i64,
    /// The key's bytes as 1.0 writes them.
    key_bytes: &'a [u8],
    /// The name of its type.
    key_type: &'a [u8],
}

impl<'a> ValidatorFields<'a> {
    fn merge(&mut self, bytes: &'a [u8]) -> Result<(), WireError> {
        let mut reader = Reader::new("Validator", bytes);
        while let Some(field) = reader.field()? {
            match field.number {
                1 => self.address = reader.bytes(field)?,
                2 => self.merge_key(reader.bytes(field)?)?,
                3 => self.power = reader.varint(field)? as i64,
                4 => self.priority = reader.varint(field)? as i64,
                // Versions before 1.0 skip these two as unknown; `convert`
                // decides which form counts.
                5 => self.key_bytes = reader.bytes(field)?,
                6 => self.key_type = reader.bytes(field)?,
                _ => reader.skip(field)?,
            }
        }
        Ok(())
    }

    fn merge_key(&mut self, bytes: &'a [u8]) -> Result<(), WireError> {
        let mut reader = Reader::new("PublicKey", bytes);
        while let Some(field) = reader.field()? {
            let kind = u8::try_from(field.number)
                .ok()
                .and_then(KeyType::from_field);
            match kind {
                // A oneof: the last member on the wire is the one that a decoder keeps.
                Some(kind) => self.key = Some((kind, reader.bytes(field)?)),
                None => reader.skip(field)?,
            }
        }
        Ok(())
    }

    /// CometBFT refuses a key of another type or length when it decodes. Bytes and type come before
    /// a `PublicKey`, as in 1.0; older versions do not know these fields, and nobody writes both.
    fn convert(&self) -> Result<RawValidator, WireError> {
        let at = "Validator";
        let (key, form) = match self.key_of_type() {
            Some(key) => (key, ValidatorForm::BytesAndType),
            None => {
                let (kind, bytes) = self.key.ok_or_else(|| missing(at, "pub_key"))?;
                let key = PublicKey::new(kind, bytes)
                    .map_err(|why| WireError::new(at, Problem::Key(Box::new(why))))?;
                (key, ValidatorForm::Key)
            }
        };
        Ok(RawValidator {
            address: Bytes::copy_from_slice(self.address),
            key: Some(key),
            power: self.power,
            priority: self.priority,
            form,
        })
    }

    /// The key in 1.0's form; `None` where bytes or type are not there or unusable.
    fn key_of_type(&self) -> Option<PublicKey> {
        if self.key_bytes.is_empty() {
            return None;
        }
        let name = std::str::from_utf8(self.key_type).ok()?;
        PublicKey::from_type_bytes(name, self.key_bytes).ok()
    }
}

/// A list of validators. The first one that cannot be converted is kept in `bad`, since the
/// evidence that it stands in may yet be replaced.
#[derive(Default)]
struct RawValidators {
    list: Vec<RawValidator>,
    bad: Option<WireError>,
}

impl RawValidators {
    /// Takes one more, which is field `number` of its message, as are those to come.
    fn push(
        &mut self,
        bytes: &[u8],
        (reader, number): (&Reader<'_>, i32),
        budget: &mut Budget,
    ) -> Result<(), WireError> {
        let mut fields = ValidatorFields::default();
        fields.merge(bytes)?;
        // The list is lost already; the bytes were still read, since those that do
        // not decode are an error.
        if self.bad.is_some() {
            return Ok(());
        }
        match fields.convert() {
            Ok(validator) => {
                let most = usize::MAX - 1; // the budget bounds them
                parse::make_room("validators", &mut self.list, (reader, number), most, budget)?;
                self.list.push(validator);
            }
            Err(error) => self.bad = Some(error),
        }
        Ok(())
    }

    fn convert(self) -> Result<Vec<RawValidator>, WireError> {
        match self.bad {
            Some(error) => Err(error),
            None => Ok(self.list),
        }
    }
}

#[derive(Default)]
struct RawSet<'a> {
    validators: RawValidators,
    proposer: Option<ValidatorFields<'a>>,
}

impl<'a> RawSet<'a> {
    fn merge(&mut self, bytes: &'a [u8], budget: &mut Budget) -> Result<(), WireError> {
        let mut reader = Reader::new("ValidatorSet", bytes);
        while let Some(field) = reader.field()? {
            match field.number {
                1 => {
                    let body = reader.bytes(field)?;
                    self.validators.push(body, (&reader, 1), budget)?;
                }
                2 => {
                    let body = reader.bytes(field)?;
                    self.proposer.get_or_insert_default().merge(body)?;
                }
                // The total power: Go writes none and believes none, and computes it.
                3 => {
                    reader.varint(field)?;
                }
                _ => reader.skip(field)?,
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct RawLightBlock<'a> {
    signed: bool,
    header: Option<RawHeader<'a>>,
    commit: Option<RawCommit<'a>>,
    set: Option<RawSet<'a>>,
}

impl<'a> RawLightBlock<'a> {
    fn merge(&mut self, bytes: &'a [u8], budget: &mut Budget) -> Result<(), WireError> {
        let mut reader = Reader::new("LightBlock", bytes);
        while let Some(field) = reader.field()? {
            match field.number {
                1 => self.merge_signed(reader.bytes(field)?, budget)?,
                2 => {
                    let body = reader.bytes(field)?;
                    self.set.get_or_insert_default().merge(body, budget)?;
                }
                _ => reader.skip(field)?,
            }
        }
        Ok(())
    }

    fn merge_signed(&mut self, bytes: &'a [u8], budget: &mut Budget) -> Result<(), WireError> {
        // An empty signed header is there, in Go a pointer that is set; its parts are then missing.
        self.signed = true;
        let mut reader = Reader::new("SignedHeader", bytes);
        while let Some(field) = reader.field()? {
            match field.number {
                1 => {
                    let body = reader.bytes(field)?;
                    self.header.get_or_insert_default().merge(body)?;
                }
                2 => {
                    let body = reader.bytes(field)?;
                    self.commit.get_or_insert_default().merge(body, budget)?;
                }
                _ => reader.skip(field)?,
            }
        }
        Ok(())
    }

    /// CometBFT's stateless check of a light block wants all of it there (`protocol.md` 5.9).
    fn convert(self) -> Result<LightBlock, WireError> {
        let at = "LightBlock";
        if !self.signed {
            return Err(missing(at, "signed_header"));
        }
        let header = self.header.ok_or_else(|| missing(at, "header"))?;
        let commit = self.commit.ok_or_else(|| missing(at, "commit"))?;
        let set = self.set.ok_or_else(|| missing(at, "validator_set"))?;
        let proposer = set.proposer.ok_or_else(|| missing(at, "proposer"))?;
        Ok(LightBlock {
            header: header.convert()?,
            commit: commit.convert()?,
            validators: set.validators.convert()?,
            proposer: proposer.convert()?,
        })
    }
}

#[derive(Default)]
struct RawAttack<'a> {
    conflicting_block: Option<RawLightBlock<'a>>,
    common_height: i64,
    byzantine_validators: RawValidators,
    total_voting_power: i64,
    timestamp: Time,
}

impl<'a> RawAttack<'a> {
    fn read(bytes: &'a [u8], budget: &mut Budget) -> Result<Self, WireError> {
        let mut raw = RawAttack::default();
        let mut reader = Reader::new("LightClientAttackEvidence", bytes);
        while let Some(field) = reader.field()? {
            match field.number {
                1 => {
                    let body = reader.bytes(field)?;
                    let block = raw.conflicting_block.get_or_insert_default();
                    block.merge(body, budget)?;
                }
                2 => raw.common_height = reader.varint(field)? as i64,
                3 => {
                    let body = reader.bytes(field)?;
                    raw.byzantine_validators.push(body, (&reader, 3), budget)?;
                }
                4 => raw.total_voting_power = reader.varint(field)? as i64,
                5 => raw.timestamp = parse::time(reader.bytes(field)?)?,
                _ => reader.skip(field)?,
            }
        }
        Ok(raw)
    }

    fn convert(self) -> Result<LightClientAttackEvidence, WireError> {
        let at = "LightClientAttackEvidence";
        let block = self
            .conflicting_block
            .ok_or_else(|| missing(at, "conflicting_block"))?;
        Ok(LightClientAttackEvidence {
            conflicting_block: Box::new(block.convert()?),
            common_height: parse::height(at, self.common_height)?,
            byzantine_validators: self.byzantine_validators.convert()?,
            total_voting_power: self.total_voting_power,
            timestamp: self.timestamp,
        })
    }
}
