#!/bin/sh
# What a sync into an application of its own process costs, beside a stock node's: the same chain, the same server, the same
# application (CometBFT 0.40's kvstore behind a socket), in turn. "alone" is a home of ours whose stored blocks are executed
# on an empty application: what the application can do. Blocks a second, the ratio to "alone", and processor time a block of
# node, application and server. Measure when nothing else runs.
#
#   BIN, BLOCKSYNC (here the release build), KEEP  as in lib.sh;  HEIGHTS default 2000;  RUNS default 3;  PORT default 31900
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
heights=${HEIGHTS:-2000}
p2p=${PORT:-31900}
rpc=$((p2p + 1))
v=040
BLOCKSYNC=${BLOCKSYNC:-$root/target/release/blocksync}
. "$root/interop/lib.sh"
need "a sync into an application" "$root/interop/build.sh" "abci-cli-$v"
hundred
at=tcp://127.0.0.1:$((p2p + 2))

empty_application() {
    rm -rf "$work/app"
    mkdir "$work/app"
    start "$work/app.log" "$bin/abci-cli-$v" kvstore --address "$at" --persist "$work/app" --log_level error
    app=$last
    sleep 1
}

sync() {
    echo "$ours" sync --home "$work/ours$run" --genesis "$work/chain/genesis.json" --rules comet-0.40 --app "$at" \
        --peer "$peer" --until "$until"
}

stock() {
    "$bin/cometbft-$v" init --home "$work/stock$run" >/dev/null 2>&1
    cp "$work/chain/genesis.json" "$work/stock$run/config/"
    (p2p=$((p2p + 10)) && rpc=$((p2p + 1)) && settings "$work/stock$run")
    empty_application
    measure stock 'ommitted state.* height=1 ' "ommitted state.* height=$until " \
        "$bin/cometbft-$v" node --home "$work/stock$run" --proxy_app "$at" --p2p.persistent_peers "$peer"
}

until=$((heights - 2))
compare_all
