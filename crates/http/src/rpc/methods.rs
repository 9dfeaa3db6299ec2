//! The methods: names, arguments, and what may be cached.

use super::Rpc;
use super::args::{Arg, Kind, Params};
use super::calls::Calls;
use crate::json::Json;

/// When an answer may be kept by caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cache {
    Never,
    Always,
    /// When the first argument, the height, was given.
    WithHeight,
}

/// One method.
pub(crate) struct Method {
    pub(crate) name: &'static str,
    pub(crate) params: Params,
    cache: Cache,
    pub(crate) run: fn(&Rpc, &mut Json, &[Arg]) -> Result<(), String>,
}

const HEIGHT: Params = &[("height", Kind::Int64)];

/// All of them, by name.
pub(crate) const METHODS: [Method; 15] = [
    Method {
        name: "abci_info",
        params: &[],
        cache: Cache::Always,
        run: |rpc, json, _| Calls::abci_info(&rpc.node, json),
    },
    Method {
        name: "block",
        params: HEIGHT,
        cache: Cache::WithHeight,
        run: |rpc, json, args| Calls::block(&rpc.node, json, &args[0]),
    },
    Method {
        name: "block_by_hash",
        params: &[("hash", Kind::Bytes)],
        cache: Cache::Always,
        run: |rpc, json, args| Calls::block_by_hash(&rpc.node, json, &args[0]),
    },
    Method {
        name: "block_results",
        params: HEIGHT,
        cache: Cache::WithHeight,
        run: |rpc, json, args| Calls::block_results(&rpc.node, json, &args[0]),
    },
    Method {
        name: "blockchain",
        params: &[("minHeight", Kind::Int64), ("maxHeight", Kind::Int64)],
        cache: Cache::Always,
        run: |rpc, json, args| Calls::blockchain(&rpc.node, json, &args[0], &args[1]),
    },
    Method {
        name: "commit",
        params: HEIGHT,
        cache: Cache::WithHeight,
        run: |rpc, json, args| Calls::commit(&rpc.node, json, &args[0]),
    },
    Method {
        name: "consensus_params",
        params: HEIGHT,
        cache: Cache::WithHeight,
        run: |rpc, json, args| Calls::consensus_params(&rpc.node, json, &args[0]),
    },
    Method {
        name: "genesis",
        params: &[],
        cache: Cache::Always,
        run: |rpc, json, _| Calls::genesis(&rpc.node, json),
    },
    Method {
        name: "genesis_chunked",
        params: &[("chunk", Kind::Uint)],
        cache: Cache::Always,
        run: |rpc, json, args| Calls::genesis_chunked(&rpc.node, json, &args[0]),
    },
    Method {
        name: "header",
        params: HEIGHT,
        cache: Cache::WithHeight,
        run: |rpc, json, args| Calls::header(&rpc.node, json, &args[0]),
    },
    Method {
        name: "header_by_hash",
        params: &[("hash", Kind::Hex)],
        cache: Cache::Always,
        run: |rpc, json, args| Calls::header_by_hash(&rpc.node, json, &args[0]),
    },
    Method {
        name: "health",
        params: &[],
        cache: Cache::Never,
        run: |_, json, _| {
            json.raw("{}");
            Ok(())
        },
    },
    Method {
        name: "net_info",
        params: &[],
        cache: Cache::Never,
        run: |rpc, json, _| Calls::net_info(&rpc.node, json),
    },
    Method {
        name: "status",
        params: &[],
        cache: Cache::Never,
        run: |rpc, json, _| Calls::status(&rpc.node, json),
    },
    Method {
        name: "validators",
        params: &[
            ("height", Kind::Int64),
            ("page", Kind::Int),
            ("per_page", Kind::Int),
        ],
        cache: Cache::WithHeight,
        run: |rpc, json, args| {
            rpc.calls
                .validators(&rpc.node, json, (&args[0], &args[1], &args[2]))
        },
    },
];

impl Method {
    pub(crate) fn is_cacheable(&self, args: &[Arg]) -> bool {
        match self.cache {
            Cache::Never => false,
            Cache::Always => true,
            Cache::WithHeight => args.first().is_some_and(|height| *height != Arg::None),
        }
    }
}

/// The method of a name, with its place in the table.
pub(crate) fn find(name: &str) -> Option<(usize, &'static Method)> {
    let index = METHODS
        // The table is in order of names.
        .binary_search_by(|method| method.name.cmp(name))
        .ok()?;
    Some((index, &METHODS[index]))
}

/// Whether a method exists on websockets alone.
pub(crate) fn is_websocket(name: &str) -> bool {
    matches!(name, "subscribe" | "unsubscribe" | "unsubscribe_all")
}
