//! An application behind a socket, in any version of ABCI, as CometBFT's own server is.

use std::sync::Arc;

use blocksync::app::{App, InitChain};
use blocksync::chain::execution::{CommitInfo, FinalizeBlock, UpdateKey};
use blocksync::chain::{AbciVersion, FinalizeResponse, Misbehavior, Rules, Time, Validator};
use blocksync::ids::{Address, Hash, Height};
use blocksync::varint::{self, Read};
use blocksync::wire::convert;
use blocksync::wire::proto::abci::{self, request, response};
use blocksync::wire::proto::types;
use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

/// Serves an application at a port of its own, in this version. Gives the address. Answers are kept
/// back until a flush, a call that the version does not have is an exception, and bytes that are no
/// request end the connection.
///
/// # Panics
/// When there is no port to be had.
pub async fn listen<A: App>(version: AbciVersion, app: Arc<Mutex<A>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("tcp://{}", listener.local_addr().expect("a port"));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            // Small answers that are waited for; should it fail, the test is merely slower.
            let _ = socket.set_nodelay(true);
            tokio::spawn(Served::new(version, app.clone()).serve(socket));
        }
    });
    address
}

/// An application as one connection to its server has it.
pub struct Served<A> {
    version: AbciVersion,
    app: Arc<Mutex<A>>,
    /// The block that is being delivered, before ABCI 2.0.
    begun: abci::RequestBeginBlock,
    txs: Vec<Bytes>,
}

/// A request off the buffer; `None` when it is not there whole, an error when it is none.
fn take(version: AbciVersion, buffer: &mut BytesMut) -> Result<Option<request::Value>, ()> {
    let Read::Value(number, prefix) = varint::read(buffer) else {
        return Ok(None);
    };
    // 0.34 writes lengths as signed varints: doubled, and odd only when negative.
    let doubled = version == AbciVersion::V034;
    if doubled && number % 2 == 1 {
        return Err(());
    }
    let length = usize::try_from(number >> u32::from(doubled)).map_err(|_| ())?;
    if buffer.len() < prefix + length {
        return Ok(None);
    }
    buffer.advance(prefix);
    let request = abci::Request::decode(buffer.split_to(length)).map_err(|_| ())?;
    request.value.map(Some).ok_or(())
}

fn write(version: AbciVersion, value: response::Value, out: &mut Vec<u8>) {
    let response = abci::Response { value: Some(value) };
    let length = response.encoded_len() as u64;
    varint::put(length << u32::from(version == AbciVersion::V034), out);
    out.extend_from_slice(&response.encode_to_vec());
}

impl<A: App> Served<A> {
    /// This application, in this version.
    pub fn new(version: AbciVersion, app: Arc<Mutex<A>>) -> Self {
        Served {
            version,
            app,
            begun: abci::RequestBeginBlock::default(),
            txs: Vec::new(),
        }
    }

    /// Serves one connection to its end.
    pub async fn serve(mut self, mut socket: TcpStream) {
        let (mut buffer, mut pending) = (BytesMut::new(), Vec::new());
        loop {
            let request = match take(self.version, &mut buffer) {
                Ok(Some(request)) => request,
                Ok(None) => match socket.read_buf(&mut buffer).await {
                    Ok(1..) => continue,
                    _ => return,
                },
                Err(()) => return,
            };
            let flush = matches!(request, request::Value::Flush(_));
            for answer in self.answers(request).await {
                write(self.version, answer, &mut pending);
            }
            if flush {
                if socket.write_all(&pending).await.is_err() {
                    return;
                }
                pending.clear();
            }
        }
    }

    /// The answers to a request. Those to the transactions come with that to `EndBlock`.
    ///
    /// # Panics
    /// When the application refuses, or the request makes no sense.
    pub async fn answers(&mut self, request: request::Value) -> Vec<response::Value> {
        let whole = self.version.has_finalize_block();
        let app = self.app.clone();
        let mut app = app.lock().await;
        let answer = match request {
            request::Value::FinalizeBlock(request) if whole => {
                let (block, misbehavior) = (request.height, request.misbehavior);
                let block = block_of(block, &request.hash, request.txs, misbehavior);
                let answer = app.finalize_block(block).await.expect("FinalizeBlock");
                response::Value::FinalizeBlock(self.response(&answer))
            }
            request::Value::BeginBlock(begun) if !whole => {
                self.begun = begun;
                response::Value::BeginBlock(abci::ResponseBeginBlock::default())
            }
            request::Value::DeliverTx(deliver) if !whole => {
                self.txs.push(deliver.tx);
                return Vec::new();
            }
            request::Value::EndBlock(end) if !whole => {
                // Before ABCI 2.0 the block is whole only now, so it is executed here.
                let begun = std::mem::take(&mut self.begun);
                let (txs, hash) = (std::mem::take(&mut self.txs), &begun.hash);
                let block = block_of(end.height, hash, txs, begun.byzantine_validators);
                let answer = app.finalize_block(block).await.expect("a block");
                let answer = self.response(&answer);
                let results = answer.tx_results.into_iter();
                let mut answers: Vec<_> = results.map(response::Value::DeliverTx).collect();
                answers.push(response::Value::EndBlock(abci::ResponseEndBlock {
                    validator_updates: answer.validator_updates,
                    consensus_param_updates: answer.consensus_param_updates,
                    events: Vec::new(),
                }));
                return answers;
            }
            request::Value::ProcessProposal(_) if self.version > AbciVersion::V034 => {
                response::Value::ProcessProposal(abci::ResponseProcessProposal { status: 1 })
            }
            // As an SDK application does whose chain has no extensions.
            request::Value::VerifyVoteExtension(asked) if whole => {
                let why = format!("vote extensions are not enabled at height {}", asked.height);
                response::Value::Exception(abci::ResponseException { error: why.into() })
            }
            other => common(&mut *app, self.version, other).await,
        };
        vec![answer]
    }

    fn response(&self, answer: &FinalizeResponse) -> abci::ResponseFinalizeBlock {
        let bytes = convert::finalize_response_to_bytes(answer);
        let mut response = abci::ResponseFinalizeBlock::decode(bytes).expect("a response");
        if self.version == AbciVersion::V100 {
            let updates = answer.validator_updates.iter();
            response.validator_updates = updates.map(convert::named_update_to_proto).collect();
            if let Some(params) = &mut response.consensus_param_updates
                // 1.0 has this height in another group of the params.
                && let Some(group) = params.abci.take()
            {
                let value = group.vote_extensions_enable_height;
                let feature = params.feature.get_or_insert_default();
                feature.vote_extensions_enable_height = Some(types::Int64Value { value });
            }
        }
        response
    }
}

/// The answer to a request that all versions have, and an exception to any other.
async fn common(
    app: &mut impl App,
    version: AbciVersion,
    request: request::Value,
) -> response::Value {
    match request {
        request::Value::Flush(_) => response::Value::Flush(abci::ResponseFlush {}),
        request::Value::Echo(echo) => response::Value::Echo(abci::ResponseEcho {
            message: echo.message,
        }),
        request::Value::Info(_) => {
            let info = app.info().await.expect("Info");
            response::Value::Info(abci::ResponseInfo {
                data: info.data,
                version: info.version,
                app_version: info.app_version,
                last_block_height: info.last_height.to_wire(),
                last_block_app_hash: info.last_app_hash,
            })
        }
        request::Value::InitChain(request) => {
            let answer = app.init_chain(init_chain(request)).await;
            response::Value::InitChain(abci::ResponseInitChain {
                app_hash: answer.expect("InitChain").app_hash,
                ..Default::default()
            })
        }
        request::Value::Commit(_) => {
            let retain_height = app.commit().await.expect("Commit").to_wire();
            // Before ABCI 2.0 only `Commit` gives the hash.
            let data = if version.has_finalize_block() {
                Bytes::new()
            } else {
                app.info().await.expect("Info").last_app_hash
            };
            response::Value::Commit(abci::ResponseCommit {
                data,
                retain_height,
            })
        }
        _ => response::Value::Exception(abci::ResponseException {
            error: Bytes::from_static(b"Unknown request"),
        }),
    }
}

fn init_chain(request: abci::RequestInitChain) -> InitChain {
    let keys = request.validators.iter().map(convert::update_from_proto);
    let validators = keys.map(|update| match update.key {
        UpdateKey::Known(key) => Validator::new(key, update.power),
        other => panic!("{other:?}"),
    });
    let mut params = request.consensus_params.expect("params");
    params.version.get_or_insert_default();
    InitChain {
        time: convert::time_from_proto(request.time.as_ref()).expect("a time"),
        chain_id: request.chain_id,
        params: convert::params_from_proto(&params).expect("params"),
        validators: validators.collect(),
        app_state: request.app_state_bytes,
        initial_height: Height::from_wire(request.initial_height).expect("a height"),
        rules: Rules::COMET_038,
    }
}

/// The block, as far as the applications of this crate look at it.
fn block_of(
    height: i64,
    hash: &[u8],
    txs: Vec<Bytes>,
    misbehavior: Vec<abci::Misbehavior>,
) -> FinalizeBlock {
    let height = Height::from_wire(height).expect("a height");
    let misbehavior = misbehavior.into_iter().map(|m| {
        let offender = m.validator.expect("an offender");
        Misbehavior {
            kind: m.r#type,
            address: Address::from_slice(&offender.address).expect("an address"),
            power: offender.power,
            height: Height::from_wire(m.height).expect("a height"),
            time: convert::time_from_proto(m.time.as_ref()).expect("a time"),
            total_voting_power: m.total_voting_power,
        }
    });
    FinalizeBlock {
        txs,
        decided_last_commit: CommitInfo::default(),
        misbehavior: misbehavior.collect(),
        hash: Hash::from_slice(hash).expect("a hash"),
        height,
        time: Time::ZERO,
        next_validators_hash: None,
        proposer_address: Address([0; 20]),
        header: None,
        syncing_to: height,
    }
}
