//! The chain that a node is on, said beside its status and its requests for one.
//!
//! Over `comet://` the handshake names the chain; over `plain://` and a runtime's own streams
//! nothing does. So nodes of ours add a field to both messages, which CometBFT would skip and never
//! gets: the chain's id, for people, and a hash over the genesis, so that two chains of one name
//! differ. A node that says nothing is taken as before.

use bytes::Bytes;

use super::advertisement::ADVERTISEMENT;
use super::error::{Problem, WireError};
use super::message::{Kind, Message, field_of, walk, with_fields};
use crate::chain::{Genesis, ValidatorSet, encode, merkle};
use crate::ids::Hash;

/// The field's number in `StatusRequest` and `StatusResponse`.
const CHAIN: u8 = 19;
/// The messages that it stands beside.
const KINDS: [Kind; 2] = [Kind::Status, Kind::StatusRequest];
/// Length of the longest chain id (`protocol.md` 5.5).
const MAX_CHAIN_ID: usize = 50;

/// A chain, by name and by what it began with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChainIdentity {
    /// The chain's id.
    pub chain_id: String,
    /// Hash over what the genesis settles: validators, params, initial height, time and app hash.
    pub genesis: Hash,
}

impl std::fmt::Display for ChainIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let start = hex::encode_upper(&self.genesis.0[..8]);
        write!(f, "{:?} (genesis {start}…)", self.chain_id)
    }
}

impl ChainIdentity {
    /// The identity of the chain that begins with this genesis. Validators that only the
    /// application names are not in it.
    #[must_use]
    pub fn of(genesis: &Genesis) -> Self {
        let set = ValidatorSet::new(genesis.validators.clone());
        // A genesis without validators leaves them to the application (InitChain),
        // which we may not have asked.
        let set = set.map_or(Hash([0; 32]), |set| set.hash());
        let mut bytes = Vec::new();
        // The values, and not the file: another node may have it with other white space.
        bytes.extend_from_slice(&set.0);
        bytes.extend_from_slice(&genesis.params.hash().0);
        bytes.extend_from_slice(&genesis.initial_height.get().to_be_bytes());
        if let Some(time) = genesis.genesis_time {
            time.encode(&mut bytes);
        }
        bytes.extend_from_slice(&genesis.app_hash);
        ChainIdentity {
            chain_id: genesis.chain_id.clone(),
            genesis: merkle::sha256(&bytes),
        }
    }

    /// A status or a request for one, encoded, with this chain beside it. Any other message is
    /// encoded as it is.
    #[must_use]
    pub fn beside(&self, message: &Message) -> Bytes {
        self.and_signed_beside(message, None)
    }

    /// The same, with an advertisement or the wish for one before it.
    pub(crate) fn and_signed_beside(&self, message: &Message, signed: Option<&[u8]>) -> Bytes {
        if !KINDS.contains(&message.kind()) {
            return message.encode();
        }
        let mut body = Vec::new();
        encode::bytes(1, self.chain_id.as_bytes(), &mut body);
        encode::bytes(2, &self.genesis.0, &mut body);
        match signed {
            // Ascending field numbers, as everything that we write.
            Some(signed) => with_fields(message, &[(ADVERTISEMENT, signed), (CHAIN, &body)]),
            None => with_fields(message, &[(CHAIN, &body)]),
        }
    }

    /// The chain that stands beside a status or a request for one; `None` when the sender says
    /// nothing.
    ///
    /// # Errors
    /// When it cannot be read, or is no chain id and hash.
    pub fn read(message: &[u8]) -> Result<Option<Self>, WireError> {
        field_of(message, &KINDS, CHAIN)?.map(parse).transpose()
    }
}

fn parse(bytes: &[u8]) -> Result<ChainIdentity, WireError> {
    let at = "Chain";
    let (mut chain_id, mut genesis) = (&[][..], &[][..]);
    walk(at, bytes, |field, reader| {
        match field.number {
            1 => chain_id = reader.bytes(field)?,
            2 => genesis = reader.bytes(field)?,
            _ => reader.skip(field)?,
        }
        Ok(())
    })?;
    // The bound of a header's chain id: what is longer cannot name a chain,
    // and would fill our logs.
    if chain_id.len() > MAX_CHAIN_ID {
        let (expected, found) = ("at most 50", chain_id.len());
        return Err(WireError::length(at, "chain_id", expected, found));
    }
    let hash = genesis.try_into().map_err(|_| {
        let (expected, found) = ("32", genesis.len());
        WireError::length(at, "genesis", expected, found)
    })?;
    let chain_id = String::from_utf8(chain_id.to_vec());
    Ok(ChainIdentity {
        // CometBFT's chain ids need not be UTF-8, but ours come from a genesis in JSON, which is.
        chain_id: chain_id
            .map_err(|_| WireError::new(at, Problem::Missing("readable chain_id")))?,
        genesis: Hash(hash),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::Time;
    use crate::ids::Height;

    fn genesis() -> Genesis {
        Genesis {
            genesis_time: Time::new(1_700_000_000, 6),
            chain_id: "a-chain".into(),
            initial_height: Height::new(1),
            params: crate::chain::ConsensusParams::default(),
            validators: Vec::new(),
            app_hash: Bytes::new(),
            app_state: Bytes::new(),
        }
    }

    fn messages() -> [Message; 2] {
        let status = Message::Status {
            height: Height::new(300),
            base: Height::new(7),
            max_range: 64,
        };
        [Message::StatusRequest, status]
    }

    #[test]
    fn it_stands_beside_what_others_read_as_before() {
        let ours = ChainIdentity::of(&genesis());
        for message in messages() {
            let bytes = ours.beside(&message);
            assert!(bytes.len() <= super::super::MAX_SMALL_MESSAGE);
            assert_eq!(Message::decode_small(&bytes), Ok(message.clone()));
            assert_eq!(ChainIdentity::read(&bytes), Ok(Some(ours.clone())));
            assert_eq!(ChainIdentity::read(&message.encode()), Ok(None));
        }
        let height = Height::new(1);
        let other = Message::NoBlock { height };
        assert_eq!(ours.beside(&other), other.encode());
        assert_eq!(ChainIdentity::read(&other.encode()), Ok(None));
    }

    #[test]
    fn whatever_the_genesis_settles_makes_another_chain() {
        let ours = ChainIdentity::of(&genesis());
        let changes: [fn(&mut Genesis); 5] = [
            |g| g.chain_id.push('x'),
            |g| g.genesis_time = Time::new(1_700_000_000, 7),
            |g| g.initial_height = Height::new(2),
            |g| g.app_hash = Bytes::from_static(b"1"),
            |g| g.params.block_max_bytes += 1,
        ];
        for change in changes {
            let mut other = genesis();
            change(&mut other);
            assert_ne!(ChainIdentity::of(&other), ours);
        }
        let mut same = genesis();
        same.app_state = Bytes::from_static(b"{}"); // its effect is the app hash
        assert_eq!(ChainIdentity::of(&same), ours);
    }

    #[test]
    fn what_is_no_identity_is_refused() {
        let ours = ChainIdentity::of(&genesis());
        let long = ChainIdentity {
            chain_id: "x".repeat(51),
            ..ours.clone()
        };
        assert!(ChainIdentity::read(&long.beside(&Message::StatusRequest)).is_err());
        // a field of another form, and a hash that is none
        for bytes in [
            &[0x22, 3, 0x98, 0x01, 7][..],
            &[0x22, 7, 0x9a, 0x01, 4, 0x12, 2, 7, 7],
        ] {
            assert!(ChainIdentity::read(bytes).is_err(), "{bytes:?}");
        }
    }
}
