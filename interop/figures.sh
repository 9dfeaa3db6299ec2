#!/bin/sh
# What a sync from a real node costs on each side: blocks a second and processor time of both, RUNS times. Blocks of 100 validators
# from CometBFT 0.40.0, unlimited rates, one machine. Measure when nothing else runs.
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
hundred

run=0
while [ $run -lt "${RUNS:-3}" ]; do
    run=$((run + 1))
    before=$(ticks $server)
    "$ours" sync --home "$work/ours$run" --genesis "$work/chain/genesis.json" --rules comet-0.40 --peer "$peer" \
        --until $((heights - 1)) --json >"$work/report" 2>"$work/log" &
    pid=$!
    mine=0
    while kill -0 $pid 2>/dev/null; do
        mine=$(ticks $pid 2>/dev/null || echo "$mine")
        sleep 0.05
    done
    wait $pid
    after=$(ticks $server)
    rate=$(sed 's/.*"blocks_per_second":\([0-9.]*\).*/\1/' "$work/report")
    awk -v r="$rate" -v s=$((after - before)) -v m="$mine" -v n="$heights" 'BEGIN {
        printf "%s blocks/s; processor time a block: CometBFT (server) %.0f us, ours %.0f us\n", r, s * 1e4 / n, m * 1e4 / n }'
done
