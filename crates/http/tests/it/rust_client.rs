//! The client of the tendermint-rs project asks and reads: its requests as it writes them, its
//! types for our answers, its own hashes over them.

use blocksync_testkit::peers::Behaviour;
use tendermint::block::Height;
use tendermint::validator::Set;
use tendermint_rpc::dialect::LatestDialect;
use tendermint_rpc::endpoint::{
    abci_info, block, block_by_hash, block_results, blockchain, commit, consensus_params,
    genesis_chunked, header, header_by_hash, health, net_info, status, validators,
};
use tendermint_rpc::{Error, Request, Response as _, SimpleRequest};

use crate::client::{Synced, post};
use blocksync_http::Http;

/// The chain's first and last height, as it is synced here.
const FIRST: u64 = 7;
const LAST: u64 = 245;
/// A light client's attack stands in this block. The client wants other names in its evidence than
/// any node of CometBFT writes.
const ATTACK: u64 = 90;

async fn call<R>(http: &Http, request: R) -> Result<R::Output, Error>
where
    R: SimpleRequest<LatestDialect>,
{
    let answer = post(http, &request.into_json()).await;
    <R as Request<LatestDialect>>::Response::from_string(answer.text()).map(Into::into)
}

fn height(height: u64) -> Height {
    Height::try_from(height).unwrap()
}

/// A whole set, page by page, as the client fetches it.
async fn set_at(http: &Http, at: u64) -> Set {
    let mut members = Vec::new();
    for page in 1.. {
        let request = validators::Request::new(Some(height(at)), Some(page.into()), Some(3.into()));
        let answer = call(http, request).await.unwrap();
        assert_eq!(answer.block_height, height(at));
        members.extend(answer.validators);
        if members.len() == usize::try_from(answer.total).unwrap() {
            break;
        }
    }
    Set::without_proposer(members)
}

/// Everything that belongs to one height, and that it fits together.
async fn reads_height(http: &Http, at: u64) {
    let signed = call(http, commit::Request::new(height(at))).await.unwrap();
    assert_eq!(signed.canonical, at < LAST);
    let (head, vote) = (signed.signed_header.header, signed.signed_header.commit);
    assert_eq!(head.hash(), vote.block_id.hash, "height {at}");
    assert_eq!(set_at(http, at).await.hash(), head.validators_hash);
    let alone = call(http, header::Request::new(height(at))).await.unwrap();
    assert_eq!(alone.header, head);
    let by_hash = header_by_hash::Request::new(head.hash());
    let by_hash = call(http, by_hash).await.unwrap();
    assert_eq!(by_hash.header.as_ref(), Some(&head));
    let whole = call(http, block::Request::new(height(at))).await;
    if at == ATTACK {
        let why = whole.unwrap_err().to_string();
        assert!(why.contains("serde"), "{why}");
    } else {
        let whole = whole.unwrap();
        assert_eq!(whole.block.header, head);
        let again = block_by_hash::Request::new(head.hash());
        let again = call(http, again).await.unwrap();
        assert_eq!(again.block, Some(whole.block));
    }
    let results = block_results::Request::new(height(at));
    let results = call(http, results).await.unwrap();
    assert_eq!(results.height, height(at));
    let params = consensus_params::Request::new(Some(height(at)));
    let params = call(http, params).await.unwrap();
    assert_eq!(params.block_height, height(at));
}

#[tokio::test(flavor = "multi_thread")]
async fn tendermint_rs_reads_every_height() {
    let synced = Synced::new("full-038", "comet-0.38", LAST, &[Behaviour::Honest]).await;
    let http = synced.serve();
    for at in FIRST..=LAST {
        reads_height(&http, at).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tendermint_rs_reads_what_is_latest_and_what_is_of_the_node() {
    let synced = Synced::new("full-038", "comet-0.38", LAST, &[Behaviour::Honest]).await;
    let http = synced.serve();
    let state = call(&http, status::Request).await.unwrap();
    // The client takes its dialect from the version.
    assert!(state.node_info.version.to_string().starts_with("0.38."));
    assert_eq!(state.sync_info.latest_block_height, height(LAST));
    assert_eq!(state.sync_info.earliest_block_height, height(FIRST));
    assert!(!state.sync_info.catching_up);
    call(&http, health::Request).await.unwrap();
    let net = call(&http, net_info::Request).await.unwrap();
    assert_eq!(net.peers.len(), 1);
    let info = call(&http, abci_info::Request).await.unwrap();
    assert_eq!(info.response.last_block_height, height(LAST));
    let latest = call(&http, block::Request::default()).await.unwrap();
    assert_eq!(latest.block.header.height, height(LAST));
    let metas = blockchain::Request::new(height(200), height(210));
    let metas = call(&http, metas).await.unwrap().block_metas;
    assert_eq!(metas.len(), 11);
    assert!(
        metas
            .iter()
            .all(|meta| meta.header.hash() == meta.block_id.hash)
    );
    let chunk = call(&http, genesis_chunked::Request::new(0)).await.unwrap();
    assert_eq!((chunk.chunk, chunk.total), (0, 1));
    // An error is one to the client, too, with the text that tells "not yet" from "broken".
    let above = call(&http, commit::Request::new(height(LAST + 1))).await;
    let why = format!("{:?}", above.unwrap_err());
    assert!(why.contains("must be less than or equal to"), "{why}");
}
