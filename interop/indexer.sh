#!/bin/sh
# How fast an indexer is filled with blocks and their results, into a file: from a stock node's RPC, `block` and
# `block_results` one height after the other on one connection, as indexers ask; from our RPC in the same way; and by
# `export --json`, from a synced home and with the sync before it. RUNS times, one machine. Measure when nothing else runs.
#
#   BIN, BLOCKSYNC (here the release build), KEEP  as in lib.sh;  HEIGHTS default 2000;  RUNS default 3;  PORT default 31950
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
heights=${HEIGHTS:-2000}
p2p=${PORT:-31950}
rpc=$((p2p + 1))
v=038
BLOCKSYNC=${BLOCKSYNC:-$root/target/release/blocksync}
. "$root/interop/lib.sh"
hundred
top=$((heights - 1))

# urls ADDRESS: what an indexer asks for
urls() {
    height=1
    while [ $height -le $top ]; do
        printf 'url = "http://%s/block?height=%s"\nurl = "http://%s/block_results?height=%s"\n' "$1" $height "$1" $height
        height=$((height + 1))
    done
}

now() { date +%s.%N; }

# timed NAME FILE SINCE: blocks and megabytes a second of what is in the file
timed() {
    awk -v name="$1" -v bytes="$(stat -c %s "$2")" -v since="$3" -v now="$(now)" -v blocks=$top 'BEGIN {
        t = now - since; printf "%-34s %6.0f blocks/s %7.1f MB/s\n", name, blocks / t, bytes / t / 1e6 }'
}

# answers FILE: stops unless each height has its block and its results
answers() {
    [ "$(grep -o '"last_commit":' "$1" | wc -l)" = $top ] && [ "$(grep -o '"txs_results":' "$1" | wc -l)" = $top ] ||
        { echo "$1 does not have each block with its results"; exit 1; }
}

run=0
while [ $run -lt "${RUNS:-3}" ]; do
    run=$((run + 1))
    since=$(now)
    "$ours" sync --home "$work/ours$run" --genesis "$work/chain/genesis.json" --rules comet-0.38 --peer "$peer" \
        --retain-results all --until $top >"$work/report" 2>"$work/log" || { tail "$work/log"; exit 1; }
    exporting=$(now)
    "$ours" export --home "$work/ours$run" --json "$work/lines" 2>/dev/null
    timed "export --json, the sync included" "$work/lines" "$since"
    timed "export --json" "$work/lines" "$exporting"
    answers "$work/lines"

    start "$work/serve.log" "$ours" serve --home "$work/ours$run" --http "127.0.0.1:$((p2p + 2))"
    served=$last
    until grep -q "http at" "$work/serve.log"; do sleep 0.1; done
    for at in "the stock node's RPC $rpc" "our RPC $((p2p + 2))"; do
        urls "127.0.0.1:${at##* }" >"$work/urls"
        since=$(now)
        curl --silent --show-error --fail --config "$work/urls" >"$work/answers"
        timed "${at% *}" "$work/answers" "$since"
        answers "$work/answers"
    done
    kill "$served"
done
