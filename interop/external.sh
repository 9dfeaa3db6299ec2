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

# ticks PID: processor time of a process, in hundredths of a second
ticks() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }

now() { date +%s%N; }

# application: an empty one; its process is in $app
application() {
    rm -rf "$work/app"
    mkdir "$work/app"
    start "$work/app.log" "$bin/abci-cli-$v" kvstore --address "$at" --persist "$work/app" --log_level error
    app=$last
    sleep 1
}

# measure NAME BEGIN END COMMAND…: runs it on an empty application, and counts from when BEGIN is in its log until END is
measure() {
    name=$1 said=$work/$1$run.log begin=$2 end=$3 begun= spent=0
    shift 3
    application
    served=$(ticks "$server")
    start "$said" "$@"
    node=$last
    while ! grep -q "$end" "$said"; do
        kill -0 "$node" || grep -q "$end" "$said" || { tail -n 5 "$said" && exit 1; }
        [ -n "$begun" ] || ! grep -q "$begin" "$said" || begun=$(now)
        # A process that has ended has no time to be read any more.
        spent=$(ticks "$node" 2>/dev/null || echo "$spent")
        sleep 0.02
    done
    [ -n "$begun" ] || { echo "$name was done before it was looked at: more HEIGHTS are needed" && exit 1; }
    took=$(($(now) - begun))
    spent=$(ticks "$node" 2>/dev/null || echo "$spent")
    echo "$name $((heights * 1000000000 / took)) $spent $(ticks "$app") $(($(ticks "$server") - served))" >>"$work/figures"
    kill "$node" 2>/dev/null || true
    kill "$app"
    wait "$node" "$app" 2>/dev/null || true
}

# sync: ours, to its home of this run
sync() {
    echo "$ours" sync --home "$work/ours$run" --genesis "$work/chain/genesis.json" --rules comet-0.40 --app "$at" \
        --peer "$peer" --until "$until"
}

until=$((heights - 2))
run=0
while [ $run -lt "${RUNS:-3}" ]; do
    run=$((run + 1))
    measure ours ' connected ' "height $until: " $(sync)
    measure alone 'executing the stored blocks' "height $until: " $(sync)
    "$bin/cometbft-$v" init --home "$work/stock$run" >/dev/null 2>&1
    cp "$work/chain/genesis.json" "$work/stock$run/config/"
    (p2p=$((p2p + 10)) && rpc=$((p2p + 1)) && settings "$work/stock$run")
    measure stock 'ommitted state.* height=1 ' "ommitted state.* height=$until " \
        "$bin/cometbft-$v" node --home "$work/stock$run" --proxy_app "$at" --p2p.persistent_peers "$peer"
    awk -v run=$run -v n="$heights" '
        NR > 3 * (run - 1) { rate[$1] = $2; cpu[$1] = sprintf("%.0f / %.0f / %.0f us", $3 * 1e4 / n, $4 * 1e4 / n, $5 * 1e4 / n) }
        END {
            for (who in rate)
                printf "%-6s %5d blocks/s, %.2f of alone; processor time a block, node / application / server: %s\n",
                    who, rate[who], rate[who] / rate["alone"], cpu[who]
            printf "ours is %.1f times the stock node\n", rate["ours"] / rate["stock"]
        }' "$work/figures"
done
