//! The calls: what is answered, out of the store and what is known of the node.

use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blocksync::chain::{PublicKey, Time, ValidatorSet};
use blocksync::ids::{Hash, Height};
use blocksync::store::{BlockRecord, Span, StoreError};
use blocksync::wire::decode;

use super::args::Arg;
use crate::json::{self, Json};
use crate::node::Node;

/// Blocks that one `blockchain` tells of.
const BLOCKCHAIN: u64 = 20;
/// Validators on a page, unless said otherwise, and at most.
const PER_PAGE: (usize, usize) = (30, 100);
/// Bytes of the genesis document in one chunk.
const CHUNK: usize = 16 << 20;
/// Sets with the priorities of a height that are kept: asking for every height of a chain is
/// common.
const SETS: usize = 16;

/// An answer, or the text of an internal error.
type Answer = Result<(), String>;

/// Answers calls; all of them read only. Blocks.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    sets: Mutex<Vec<(Height, std::sync::Arc<ValidatorSet>)>>,
}

fn failed(why: StoreError) -> String {
    why.to_string()
}

/// A part of a list.
#[derive(Debug, PartialEq, Eq)]
struct Page {
    /// Items before it.
    skip: usize,
    /// Its items.
    count: usize,
}

/// The page that is asked for, of a list of `total` items.
fn page_of(page: Option<i64>, per_page: Option<i64>, total: usize) -> Result<Page, String> {
    let per_page = match per_page {
        None => PER_PAGE.0,
        // Too small a page is the usual one and too large a one the largest,
        // without an error (`rpc.md` 3).
        Some(..1) => PER_PAGE.0,
        Some(n) => usize::try_from(n).map_or(PER_PAGE.1, |n| n.min(PER_PAGE.1)),
    };
    // An empty list has one page, an empty one.
    let pages = total.div_ceil(per_page).max(1);
    let page = match page {
        None => 1,
        Some(page) => usize::try_from(page)
            .ok()
            .filter(|p| (1..=pages).contains(p))
            .ok_or_else(|| format!("page should be within [1, {pages}] range, given {page}"))?,
    };
    let skip = (page - 1) * per_page;
    let count = per_page.min(total - skip.min(total));
    Ok(Page { skip, count })
}

impl Calls {
    /// The height meant, between base and `latest`.
    fn height(given: &Arg, span: Span, latest: Height) -> Result<Height, String> {
        let Some(height) = given.int() else {
            return Ok(latest);
        };
        let Some(height) = Height::from_wire(height).filter(|h| *h > Height::ZERO) else {
            return Err(format!("height must be greater than 0, but got {height}"));
        };
        // Light clients match these texts to tell "not yet" and "pruned"
        // from "broken" (`rpc.md` 5).
        if height > latest {
            return Err(format!(
                "height {height} must be less than or equal to the current blockchain height {latest}"
            ));
        }
        if height < span.base {
            return Err(format!(
                "height {height} is not available, lowest height is {}",
                span.base
            ));
        }
        Ok(height)
    }

    /// Blocks are told of up to the applied height.
    fn top(span: Span) -> Height {
        if span.base == Height::ZERO || span.applied < span.base {
            Height::ZERO
        } else {
            span.applied
        }
    }

    /// The highest height whose set and params are told: that of the next block, once we are in
    /// consensus with the others.
    fn uncommitted(node: &Node, span: Span) -> Height {
        let top = Self::top(span);
        if node.is_syncing() { top } else { top.next() }
    }

    fn block_at(node: &Node, height: Height) -> Result<Option<BlockRecord>, String> {
        node.store.block(height).map_err(failed)
    }

    pub(crate) fn block(node: &Node, json: &mut Json, height: &Arg) -> Answer {
        let span = node.store.span().map_err(failed)?;
        let height = Self::height(height, span, Self::top(span))?;
        let record = Self::block_at(node, height)?;
        block_answer(json, record.as_ref())
    }

    pub(crate) fn block_by_hash(node: &Node, json: &mut Json, hash: &Arg) -> Answer {
        let found = Self::find(node, hash)?;
        block_answer(json, found.as_ref())
    }

    fn find(node: &Node, hash: &Arg) -> Result<Option<BlockRecord>, String> {
        // A hash of another length names no block; that is no error in CometBFT.
        let Some(hash) = Hash::from_slice(hash.bytes()) else {
            return Ok(None);
        };
        let span = node.store.span().map_err(failed)?;
        let height = node.store.height_of(&hash).map_err(failed)?;
        // A block may be stored and indexed before it is applied.
        match height.filter(|h| *h <= Self::top(span)) {
            Some(height) => Self::block_at(node, height),
            None => Ok(None),
        }
    }

    pub(crate) fn header(node: &Node, json: &mut Json, height: &Arg) -> Answer {
        let span = node.store.span().map_err(failed)?;
        let height = Self::height(height, span, Self::top(span))?;
        let header = node.store.header(height).map_err(failed)?;
        header_answer(json, header.as_ref().map(|(header, _)| header));
        Ok(())
    }

    pub(crate) fn header_by_hash(node: &Node, json: &mut Json, hash: &Arg) -> Answer {
        let record = Self::find(node, hash)?;
        let header = record.map(|record| decode::header_of_block(&record.raw));
        let header = header.transpose().map_err(|why| why.to_string())?;
        header_answer(json, header.as_ref());
        Ok(())
    }

    /// The commit of the store's last block is the one that was seen; of all others the one in the
    /// next block.
    pub(crate) fn commit(node: &Node, json: &mut Json, height: &Arg) -> Answer {
        let span = node.store.span().map_err(failed)?;
        let top = Self::top(span);
        let height = Self::height(height, span, top)?;
        let Some((header, _)) = node.store.header(height).map_err(failed)? else {
            json.raw("null");
            return Ok(());
        };
        let seen = if height == top {
            node.store.seen_commit(height).map_err(failed)?
        } else {
            None
        };
        let commit = match seen {
            Some(seen) => Some(seen),
            None => node.store.commit_for(height).map_err(failed)?,
        };
        let Some(commit) = commit else {
            return Err(format!("commit for height {height} not found"));
        };
        let commit = decode::commit_from_bytes(&commit).map_err(|why| why.to_string())?;
        json.raw("{\"signed_header\":{\"header\":");
        json::header(json, &header);
        json.raw(",\"commit\":");
        json::commit(json, &commit);
        // The seen commit may have other signatures than the one that the next block will carry.
        json.raw("},\"canonical\":").boolean(height < top).raw("}");
        Ok(())
    }

    pub(crate) fn validators(
        &self,
        node: &Node,
        json: &mut Json,
        (height, page, per_page): (&Arg, &Arg, &Arg),
    ) -> Answer {
        let span = node.store.span().map_err(failed)?;
        let height = Self::height(height, span, Self::uncommitted(node, span))?;
        let set = self.set_at(node, height)?;
        let total = set.len();
        let Page { skip, count } = page_of(page.int(), per_page.int(), total)?;
        json.raw("{\"block_height\":").long(height);
        json.raw(",\"validators\":");
        let members = set.iter().zip(set.priorities());
        json::validators(json, members.skip(skip).take(count));
        json.raw(",\"count\":").long(count);
        json.raw(",\"total\":").long(total).raw("}");
        Ok(())
    }

    /// The set with the priorities of a height: the recorded one, with as many increments in one
    /// call as heights lie between.
    fn set_at(&self, node: &Node, height: Height) -> Result<std::sync::Arc<ValidatorSet>, String> {
        let missing = || format!("could not find validator set for height #{height}");
        let recorded = node.store.recorded_validators(height).map_err(failed)?;
        let (from, set) = recorded.ok_or_else(missing)?;
        if from == height {
            return Ok(set);
        }
        let mut known = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let hit = known
            .iter()
            // The height alone would do unless the store was rolled back and synced again.
            .find(|(at, known)| *at == height && known.same_members(&set));
        if let Some((_, set)) = hit {
            return Ok(set.clone());
        }
        // Increments over 100 000 heights take long; other calls must not wait for them.
        drop(known);
        let times = u32::try_from(height.above(from)).map_err(|_| missing())?;
        let set = std::sync::Arc::new(set.increment(times));
        known = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() == SETS {
            known.remove(0);
        }
        known.push((height, set.clone()));
        Ok(set)
    }

    pub(crate) fn blockchain(node: &Node, json: &mut Json, min: &Arg, max: &Arg) -> Answer {
        let span = node.store.span().map_err(failed)?;
        let top = Self::top(span);
        let (min, max) = (min.int().unwrap_or(0), max.int().unwrap_or(0));
        let (Some(min), Some(max)) = (Height::from_wire(min), Height::from_wire(max)) else {
            return Err("heights must be non-negative".to_owned());
        };
        let max = if max == Height::ZERO {
            top
        } else {
            max.min(top)
        };
        // 20 at most, counted from above: the newest are what is asked for.
        let floor = Height::new((max.get() + 1).saturating_sub(BLOCKCHAIN));
        let min = min.max(Height::new(1)).max(span.base).max(floor);
        if min > max {
            return Err(format!(
                "min height {min} can't be greater than max height {max}"
            ));
        }
        json.raw("{\"last_height\":").long(top);
        json.raw(",\"block_metas\":[");
        for height in (min.get()..=max.get()).rev().map(Height::new) {
            if height < max {
                json.raw(",");
            }
            let Some(record) = Self::block_at(node, height)? else {
                json.raw("null");
                continue;
            };
            let block = decode::block_from_bytes(&record.raw).map_err(|why| why.to_string())?;
            json::block_meta(json, &record.id, record.raw.len(), &block);
        }
        json.raw("]}");
        Ok(())
    }

    pub(crate) fn consensus_params(node: &Node, json: &mut Json, height: &Arg) -> Answer {
        let span = node.store.span().map_err(failed)?;
        let height = Self::height(height, span, Self::uncommitted(node, span))?;
        let params = node.store.params(height).map_err(failed)?;
        let params = params
            .ok_or_else(|| format!("could not find consensus params for height #{height}"))?;
        json.raw("{\"block_height\":").long(height);
        json.raw(",\"consensus_params\":");
        json::consensus_params(json, &params, node.dialect(height));
        json.raw("}");
        Ok(())
    }

    pub(crate) fn block_results(node: &Node, json: &mut Json, height: &Arg) -> Answer {
        let span = node.store.span().map_err(failed)?;
        let height = Self::height(height, span, Self::top(span))?;
        // Known without the store, and said in CometBFT's words for such a node.
        if !node.keeps_results {
            return Err("node is not persisting finalize block responses".to_owned());
        }
        let response = node.store.results_at(height).map_err(failed)?;
        let response =
            response.ok_or_else(|| format!("could not find results for height #{height}"))?;
        json::block_results(json, height, response).map_err(|why| why.to_string())
    }

    pub(crate) fn genesis(node: &Node, json: &mut Json) -> Answer {
        let document = document(node);
        if document.len() > CHUNK {
            return Err(
                "genesis response is large, please use the genesis_chunked API instead".to_owned(),
            );
        }
        json.raw("{\"genesis\":").raw_bytes(&document).raw("}");
        Ok(())
    }

    pub(crate) fn genesis_chunked(node: &Node, json: &mut Json, chunk: &Arg) -> Answer {
        let document = document(node);
        let total = document.len().div_ceil(CHUNK);
        let id = chunk.int().unwrap_or(0);
        let index = usize::try_from(id).ok().filter(|id| *id < total);
        let Some(index) = index else {
            // CometBFT names the highest number as if it were the count.
            let highest = total.saturating_sub(1);
            return Err(format!("there are {highest} chunks, {id} is invalid"));
        };
        let data = &document[index * CHUNK..document.len().min((index + 1) * CHUNK)];
        json.raw("{\"chunk\":").long(index);
        json.raw(",\"total\":").long(total);
        json.raw(",\"data\":\"")
            .raw(&STANDARD.encode(data))
            .raw("\"}");
        Ok(())
    }

    pub(crate) fn status(node: &Node, json: &mut Json) -> Answer {
        let span = node.store.span().map_err(failed)?;
        let state = node.store.state().map_err(failed)?;
        let app = state.map_or(0, |state| state.version_app);
        json.raw("{\"node_info\":");
        node_info(node, json, app);
        json.raw(",\"sync_info\":{");
        let top = Self::top(span);
        let base = if top == Height::ZERO { top } else { span.base };
        for (n, (name, height)) in [("latest", top), ("earliest", base)]
            .into_iter()
            .enumerate()
        {
            let found = node.store.header(height).map_err(failed)?;
            let (hash, app_hash, time) = match &found {
                Some((header, id)) => (id.hash, header.app_hash.clone(), header.time),
                // An empty store has times of 1970 and not of year 1 (`rpc.md` 8).
                None => (
                    None,
                    bytes::Bytes::new(),
                    Time {
                        seconds: 0,
                        nanos: 0,
                    },
                ),
            };
            if n > 0 {
                json.raw(",");
            }
            let hash = hash.map_or_else(Vec::new, |hash| hash.0.to_vec());
            json.raw("\"").raw(name).raw("_block_hash\":").hex(&hash);
            json.raw(",\"").raw(name).raw("_app_hash\":").hex(&app_hash);
            json.raw(",\"")
                .raw(name)
                .raw("_block_height\":")
                .long(height);
            json.raw(",\"").raw(name).raw("_block_time\":").time(time);
        }
        json.raw(",\"catching_up\":").boolean(node.is_syncing());
        let key = PublicKey::Ed25519(node.identity.public_key);
        json.raw("},\"validator_info\":{\"address\":")
            .hex(&key.address().0);
        json.raw(",\"pub_key\":");
        json::public_key(json, &key);
        // The node's key is no validator's here: nothing is signed with it.
        json.raw(",\"voting_power\":\"0\"}}");
        Ok(())
    }

    pub(crate) fn net_info(node: &Node, json: &mut Json) -> Answer {
        let peers = node.peers();
        json.raw("{\"listening\":")
            .boolean(!node.identity.listening.is_empty());
        json.raw(",\"listeners\":")
            .list(&node.identity.listening, |json, at| {
                json.string(format!("Listener(@{at})").as_bytes());
            });
        json.raw(",\"n_peers\":").long(peers.len());
        json.raw(",\"peers\":")
            .list(&peers, |json, peer| peer.write(node, json));
        json.raw("}");
        Ok(())
    }

    pub(crate) fn abci_info(node: &Node, json: &mut Json) -> Answer {
        let state = node.store.state().map_err(failed)?;
        json.raw("{\"response\":{");
        // Out of our state: the application is not called, so no client can slow it down.
        if let Some(state) = state {
            if state.version_app != 0 {
                json.raw("\"app_version\":")
                    .long(state.version_app)
                    .raw(",");
            }
            json.raw("\"last_block_height\":").long(state.last_height);
            json.raw(",\"last_block_app_hash\":")
                .base64(&state.app_hash);
        }
        json.raw("}}");
        Ok(())
    }
}

fn document(node: &Node) -> Vec<u8> {
    let mut json = Json::new();
    let first = node.genesis.initial_height;
    json::genesis(
        &mut json,
        &node.genesis,
        &node.genesis_file,
        node.dialect(first),
    );
    json.into_bytes()
}

fn block_answer(json: &mut Json, record: Option<&BlockRecord>) -> Answer {
    json.raw("{\"block_id\":");
    // A block that is not there has the zero id and 200, as in CometBFT.
    json::block_id(json, &record.map(|r| r.id).unwrap_or_default());
    json.raw(",\"block\":");
    match record {
        Some(record) => {
            let block = decode::block_from_bytes(&record.raw).map_err(|why| why.to_string())?;
            json::block(json, &block);
        }
        None => {
            json.raw("null");
        }
    }
    json.raw("}");
    Ok(())
}

fn header_answer(json: &mut Json, header: Option<&blocksync::chain::Header>) {
    json.raw("{\"header\":");
    match header {
        Some(header) => json::header(json, header),
        None => {
            json.raw("null");
        }
    }
    json.raw("}");
}

/// Address that a node says which does not listen: the one that it tells its peers, too.
const NOWHERE: &str = "tcp://0.0.0.0:0";

/// A text, or another where it is empty: cosmjs refuses a node without an address or a moniker.
fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

/// Clients choose their dialect by this: the version is that of the JSON, and who we are stands in
/// the moniker.
fn node_info(node: &Node, json: &mut Json, app: u64) {
    let identity = &node.identity;
    json.raw("{\"protocol_version\":{\"p2p\":\"8\",\"block\":\"11\",\"app\":")
        .long(app);
    json.raw("},\"id\":\"").raw(&identity.id.to_string());
    json.raw("\",\"listen_addr\":")
        .string(or(&identity.listen_addr, NOWHERE).as_bytes());
    json.raw(",\"network\":")
        .string(node.genesis.chain_id.as_bytes());
    json.raw(",\"version\":\"0.38.25\",\"channels\":\"4000\",\"moniker\":");
    json.string(or(&identity.moniker, "blocksync").as_bytes());
    json.raw(",\"other\":{\"tx_index\":\"off\",\"rpc_address\":");
    json.string(identity.rpc_address.as_bytes()).raw("}}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_as_long_as_comets() {
        let page = |page, per_page, total| page_of(page, per_page, total);
        let found = |skip, count| Ok(Page { skip, count });
        assert_eq!(page(None, None, 150), found(0, 30));
        assert_eq!(page(Some(1), Some(0), 150), found(0, 30));
        assert_eq!(page(Some(1), Some(101), 150), found(0, 100));
        assert_eq!(page(Some(2), Some(i64::MAX), 150), found(100, 50));
        assert_eq!(page(Some(1), Some(5), 0), found(0, 0));
        let refused = page(Some(3), Some(100), 150).unwrap_err();
        assert_eq!(refused, "page should be within [1, 2] range, given 3");
    }
}
