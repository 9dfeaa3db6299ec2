//! The records of `blockstore.db`, `state.db` and `evidence.db`: keys, and values as CometBFT
//! encodes them.
//!
//! gogoproto, with which CometBFT writes, leaves out what is zero, but always writes a sub-message
//! that is not a pointer, even an empty one.

use blocksync::chain::{ChainState, Time, ValidatorSet, encode, merkle};
use blocksync::ids::{BlockId, Hash, Height};
use blocksync::varint;
use blocksync::wire::convert;
use bytes::Bytes;
use prost::Message;

/// The block protocol's version that every supported CometBFT writes.
const BLOCK_PROTOCOL: u64 = 11;

/// Keys.
pub(crate) mod key {
    use super::{Hash, Height};

    pub(crate) const BLOCK_STORE: &[u8] = b"blockStore";
    pub(crate) const STATE: &[u8] = b"stateKey";
    pub(crate) const GENESIS: &[u8] = b"genesisDoc";
    pub(crate) const LAST_RESPONSE: &[u8] = b"lastABCIResponseKey";
    /// The beginning of every key of committed evidence.
    pub(crate) const COMMITTED: &[u8] = &[0];

    fn of(prefix: &str, height: Height) -> Vec<u8> {
        format!("{prefix}{height}").into_bytes()
    }

    pub(crate) fn meta(height: Height) -> Vec<u8> {
        of("H:", height)
    }

    pub(crate) fn part(height: Height, index: u32) -> Vec<u8> {
        format!("P:{height}:{index}").into_bytes()
    }

    pub(crate) fn commit(height: Height) -> Vec<u8> {
        of("C:", height)
    }

    pub(crate) fn seen_commit(height: Height) -> Vec<u8> {
        of("SC:", height)
    }

    pub(crate) fn extended_commit(height: Height) -> Vec<u8> {
        of("EC:", height)
    }

    pub(crate) fn by_hash(hash: &Hash) -> Vec<u8> {
        format!("BH:{}", hex::encode(hash.0)).into_bytes()
    }

    pub(crate) fn validators(height: Height) -> Vec<u8> {
        of("validatorsKey:", height)
    }

    pub(crate) fn response(height: Height) -> Vec<u8> {
        of("abciResponsesKey:", height)
    }

    pub(crate) fn params(height: Height) -> Vec<u8> {
        of("consensusParamsKey:", height)
    }

    pub(crate) fn evidence(height: Height, identity: &Hash) -> Vec<u8> {
        let mut key = COMMITTED.to_vec();
        let text = format!("{:016X}/{}", height.get(), hex::encode_upper(identity.0));
        key.extend_from_slice(text.as_bytes());
        key
    }

    /// The height and identity out of a key of `evidence`.
    pub(crate) fn read_evidence(key: &[u8]) -> Option<(Height, Hash)> {
        let text = std::str::from_utf8(key.strip_prefix(COMMITTED)?).ok()?;
        let (height, hash) = text.split_once('/')?;
        // Signed, since CometBFT formats an int64; a negative one has no place in a key.
        let height = i64::from_str_radix(height, 16).ok()?;
        Some((
            Height::from_wire(height)?,
            Hash::from_hex(&hash.to_lowercase())?,
        ))
    }
}

/// `tendermint.types.BlockMeta`.
pub(crate) fn block_meta(id: &BlockId, block: &BlockParts<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    encode::message(1, &mut out, |out| encode::block_id(id, out));
    encode::int(2, block.size, &mut out);
    encode::element(3, block.header, &mut out);
    encode::int(4, block.txs, &mut out);
    out
}

/// The parts of an encoded block that its records name.
pub(crate) struct BlockParts<'a> {
    pub(crate) size: i64,
    pub(crate) header: &'a [u8],
    pub(crate) txs: i64,
}

impl<'a> BlockParts<'a> {
    /// Of a proven block. `None` when it has not the form that every proven block has.
    pub(crate) fn of(raw: &'a [u8]) -> Option<Self> {
        let (mut header, mut txs) = (None, 0);
        for (field, value) in fields(raw)? {
            match field {
                1 => header = Some(value),
                2 => {
                    txs = fields(value)?
                        .iter()
                        // Each occurrence of field 1 is a transaction, even an empty one.
                        .filter(|(field, _)| *field == 1)
                        .count()
                }
                _ => {}
            }
        }
        Some(BlockParts {
            size: i64::try_from(raw.len()).ok()?,
            header: header?,
            txs: i64::try_from(txs).ok()?,
        })
    }
}

/// The fields of a message all of whose fields are of length-delimited types.
fn fields(mut message: &[u8]) -> Option<Vec<(u32, &[u8])>> {
    let mut out = Vec::new();
    while !message.is_empty() {
        let mut number = || match varint::read(message) {
            varint::Read::Value(value, size) => {
                message = &message[size..];
                Some(value)
            }
            varint::Read::Short | varint::Read::TooLong => None,
        };
        let (tag, len) = (number()?, number()?);
        let (value, rest) = message.split_at_checked(usize::try_from(len).ok()?)?;
        // A proven block is canonical, and all fields of a block and of its
        // data are length-delimited.
        if tag & 7 != 2 {
            return None;
        }
        out.push((u32::try_from(tag >> 3).ok()?, value));
        message = rest;
    }
    Some(out)
}

/// `tendermint.types.Part`, all of a block's.
pub(crate) fn parts(raw: &[u8]) -> Vec<Vec<u8>> {
    let pieces: Vec<&[u8]> = raw.chunks(blocksync::chain::block::PART_SIZE).collect();
    // Hashed once for all: each part's proof needs all of them.
    let hashes: Vec<Hash> = pieces
        .iter()
        .map(|piece| merkle::leaf_hash(piece))
        .collect();
    let part = |(index, piece): (usize, &&[u8])| {
        let proof = merkle::Proof::new(&hashes, index).expect("a leaf of this index");
        let mut out = Vec::with_capacity(piece.len() + 256);
        encode::uint(1, index as u64, &mut out);
        encode::bytes(2, piece, &mut out);
        encode::message(3, &mut out, |out| {
            encode::uint(1, proof.total as u64, out);
            encode::uint(2, proof.index as u64, out);
            encode::bytes(3, &proof.leaf_hash.0, out);
            for aunt in &proof.aunts {
                encode::element(4, &aunt.0, out);
            }
        });
        out
    };
    pieces.iter().enumerate().map(part).collect()
}

/// `tendermint.types.Part`, as it is read.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Part {
    #[prost(uint32, tag = "1")]
    pub(crate) index: u32,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) bytes: Bytes,
}

/// `tendermint.types.BlockMeta`, as it is read.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BlockMeta {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) block_id: Bytes,
}

/// `tendermint.types.BlockID`, as it is read.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StoredBlockId {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) hash: Bytes,
    #[prost(message, optional, tag = "2")]
    pub(crate) parts: Option<StoredPartSetHeader>,
}

/// `tendermint.types.PartSetHeader`, as it is read.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StoredPartSetHeader {
    #[prost(uint32, tag = "1")]
    pub(crate) total: u32,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) hash: Bytes,
}

/// `tendermint.store.BlockStoreState`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BlockStoreState {
    #[prost(int64, tag = "1")]
    pub(crate) base: i64,
    #[prost(int64, tag = "2")]
    pub(crate) height: i64,
}

/// `tendermint.state.ValidatorsInfo`, and `ConsensusParamsInfo`: something, and the height at which
/// it came into force.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Info {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) value: Bytes,
    #[prost(int64, tag = "2")]
    pub(crate) last_height_changed: i64,
}

/// `google.protobuf.Int64Value`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Int64Value {
    #[prost(int64, tag = "1")]
    pub(crate) value: i64,
}

/// `tendermint.state.ABCIResponsesInfo`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LastResponse {
    #[prost(int64, tag = "2")]
    pub(crate) height: i64,
    #[prost(message, optional, tag = "3")]
    pub(crate) response: Option<blocksync::wire::proto::abci::ResponseFinalizeBlock>,
}

/// A validator set's record; without the set, its reader looks at the height named.
pub(crate) fn validators_info(set: Option<&ValidatorSet>, since: Height) -> Vec<u8> {
    Info {
        value: set.map(convert::set_to_bytes).unwrap_or_default(),
        last_height_changed: since.to_wire(),
    }
    .encode_to_vec()
}

/// The params' record of a height.
pub(crate) fn params_info(params: &[u8], since: Height) -> Vec<u8> {
    let mut out = Vec::with_capacity(params.len() + 16);
    // Always written, even when empty: gogoproto has it as a struct and not as a pointer.
    encode::element(1, params, &mut out);
    encode::int(2, since.to_wire(), &mut out);
    out
}

/// `tendermint.state.State`.
pub(crate) fn state(
    state: &ChainState,
    validators_changed: Height,
    software: &str,
    params: &[u8],
) -> Vec<u8> {
    let mut out = Vec::new();
    let empty = Bytes::new();
    encode::message(1, &mut out, |out| {
        encode::message(1, out, |out| {
            encode::version(BLOCK_PROTOCOL, state.version_app, out);
        });
        encode::bytes(2, software.as_bytes(), out);
    });
    encode::bytes(2, &state.chain_id, &mut out);
    encode::int(3, state.last_height.to_wire(), &mut out);
    encode::message(4, &mut out, |out| {
        encode::block_id(&state.last_block_id, out)
    });
    encode::message(5, &mut out, |out| state.last_block_time.encode(out));
    let last = state.last_validators.as_deref().map(convert::set_to_bytes);
    for (field, set) in [
        (6, &convert::set_to_bytes(&state.next_validators)),
        (7, &convert::set_to_bytes(&state.validators)),
        (8, last.as_ref().unwrap_or(&empty)),
    ] {
        encode::element(field, set, &mut out);
    }
    encode::int(9, validators_changed.to_wire(), &mut out);
    encode::element(10, params, &mut out);
    encode::int(11, state.last_height_params_changed.to_wire(), &mut out);
    encode::bytes(12, &state.last_results_hash.0, &mut out);
    encode::bytes(13, &state.app_hash, &mut out);
    encode::int(14, state.initial_height.to_wire(), &mut out);
    out
}

/// `tendermint.state.State`, as it is read.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StoredState {
    #[prost(message, optional, tag = "1")]
    version: Option<StateVersion>,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) chain_id: Bytes,
    #[prost(int64, tag = "3")]
    pub(crate) last_block_height: i64,
    #[prost(message, optional, tag = "4")]
    last_block_id: Option<StoredBlockId>,
    #[prost(message, optional, tag = "5")]
    last_block_time: Option<blocksync::wire::proto::types::Timestamp>,
    #[prost(bytes = "bytes", tag = "6")]
    next_validators: Bytes,
    #[prost(bytes = "bytes", tag = "7")]
    validators: Bytes,
    #[prost(bytes = "bytes", tag = "8")]
    last_validators: Bytes,
    #[prost(int64, tag = "9")]
    last_height_validators_changed: i64,
    #[prost(bytes = "bytes", tag = "10")]
    consensus_params: Bytes,
    #[prost(int64, tag = "11")]
    last_height_consensus_params_changed: i64,
    #[prost(bytes = "bytes", tag = "12")]
    last_results_hash: Bytes,
    #[prost(bytes = "bytes", tag = "13")]
    app_hash: Bytes,
    #[prost(int64, tag = "14")]
    initial_height: i64,
}

/// `tendermint.state.Version`.
#[derive(Clone, PartialEq, Message)]
struct StateVersion {
    #[prost(message, optional, tag = "1")]
    consensus: Option<ConsensusVersion>,
}

/// `tendermint.version.Consensus`.
#[derive(Clone, PartialEq, Message)]
struct ConsensusVersion {
    #[prost(uint64, tag = "2")]
    app: u64,
}

impl StoredBlockId {
    /// The id; `None` when a hash has another length than 0 or 32.
    pub(crate) fn id(&self) -> Option<BlockId> {
        let hash = |bytes: &[u8]| match bytes {
            [] => Some(None),
            bytes => Hash::from_slice(bytes).map(Some),
        };
        let parts = self.parts.clone().unwrap_or_default();
        Some(BlockId {
            hash: hash(&self.hash)?,
            parts: blocksync::ids::PartSetHeader {
                total: parts.total,
                hash: hash(&parts.hash)?,
            },
        })
    }
}

impl StoredState {
    /// The state that a node goes on from.
    ///
    /// # Errors
    /// Names the field that is missing or cannot be.
    pub(crate) fn state(&self) -> Result<ChainState, String> {
        let height = |name: &str, value: i64| {
            Height::from_wire(value).ok_or_else(|| format!("its {name} is {value}"))
        };
        let set = |name: &str, bytes: &[u8]| {
            let set = convert::set_from_bytes(bytes).map_err(|e| format!("its {name}: {e}"))?;
            Ok::<_, String>(std::sync::Arc::new(set))
        };
        let id = self.last_block_id.clone().unwrap_or_default().id();
        let time: Time = convert::time_from_proto(self.last_block_time.as_ref())
            .map_err(|e| format!("its last_block_time: {e}"))?;
        let version = self.version.clone().unwrap_or_default().consensus;
        // A state after at least one block, which import asks for, always has it.
        let results = Hash::from_slice(&self.last_results_hash)
            .ok_or("its last_results_hash has not 32 bytes")?;
        Ok(ChainState {
            chain_id: self.chain_id.clone(),
            initial_height: height("initial_height", self.initial_height)?,
            last_height: height("last_block_height", self.last_block_height)?,
            last_block_id: id.ok_or("its last_block_id cannot be read")?,
            last_block_time: time,
            last_validators: Some(set("last_validators", &self.last_validators)?),
            validators: set("validators", &self.validators)?,
            next_validators: set("next_validators", &self.next_validators)?,
            last_height_validators_changed: height(
                "last_height_validators_changed",
                self.last_height_validators_changed,
            )?,
            params: convert::params_from_bytes(&self.consensus_params)
                .map_err(|e| format!("its consensus_params: {e}"))?,
            last_height_params_changed: height(
                "last_height_consensus_params_changed",
                self.last_height_consensus_params_changed,
            )?,
            version_app: version.unwrap_or_default().app,
            last_results_hash: results,
            app_hash: self.app_hash.clone(),
        })
    }
}
