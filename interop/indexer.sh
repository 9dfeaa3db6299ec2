#!/bin/sh
# How fast an indexer is filled with blocks and their results, into a file: from a stock node's RPC, `block` and
# `block_results` one height after the other on one connection, as indexers ask; from our RPC in the same way; and by
# `export --json`, from a synced home and with the sync before it. RUNS times, one machine. Measure when nothing else runs.
#
#   BIN, BLOCKSYNC (here the release build), KEEP  as in lib.sh;  HEIGHTS default 2000;  RUNS default 3;  PORT default 31950
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
heights=${HEIGHTS:-2000}
port=${PORT:-31950}
BLOCKSYNC=${BLOCKSYNC:-$root/target/release/blocksync}
[ -x "$BLOCKSYNC" ] || (cd "$root" && cargo build --release --bin blocksync)
. "$root/interop/lib.sh"
need "the figures" "$root/interop/build.sh" chaingen-038 cometbft-038

echo "$(nproc) cores, load $(cut -d' ' -f1-3 /proc/loadavg); $heights blocks of 100 validators, 16 transactions of 400 bytes"
"$bin/chaingen-038" -out "$work/chain" -home "$work/server" -chain-id figures -validators 100 -heights "$heights" -txs 16 -txsize 400
sed -i -e "s#^laddr = \"tcp://127.0.0.1:26657\"#laddr = \"tcp://127.0.0.1:$((port + 1))\"#" \
    -e "s#^laddr = \"tcp://0.0.0.0:26656\"#laddr = \"tcp://127.0.0.1:$port\"#" -e 's/^indexer = .*/indexer = "null"/' \
    -e 's/^\(send\|recv\)_rate = .*/\1_rate = 1000000000/' "$work/server/config/config.toml"
start "$work/server.log" "$bin/cometbft-038" node --home "$work/server" --proxy_app persistent_kvstore
peer=$("$bin/cometbft-038" show-node-id --home "$work/server")@127.0.0.1:$port
until grep -q "Started node" "$work/server.log"; do sleep 0.2; done
sleep 2
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

    start "$work/serve.log" "$ours" serve --home "$work/ours$run" --http "127.0.0.1:$((port + 2))"
    served=$last
    until grep -q "http at" "$work/serve.log"; do sleep 0.1; done
    for at in "the stock node's RPC $((port + 1))" "our RPC $((port + 2))"; do
        urls "127.0.0.1:${at##* }" >"$work/urls"
        since=$(now)
        curl --silent --show-error --fail --config "$work/urls" >"$work/answers"
        timed "${at% *}" "$work/answers" "$since"
        answers "$work/answers"
    done
    kill "$served"
done
