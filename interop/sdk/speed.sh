#!/bin/sh
# What a sync into an SDK application costs, beside a stock node's: the same chain, the same server, in turn. "alone" is a home
# of ours whose stored blocks are executed on an empty application: what the application can do behind its socket. The stock
# node has the application in its own process. Blocks a second, the ratio to "alone", and processor time a block of node,
# application and server. Measure when nothing else runs.
#
#   BIN, BLOCKSYNC (here the release build), KEEP  as in lib.sh;  HEIGHTS default 1000;  RUNS default 3;  PORT default 32200
#   VERSION  default 040 (SDK 0.55 on CometBFT 0.40); 038 is SDK 0.53 on CometBFT 0.38
#   VALIDATORS  default 1: a real node makes ten a second; more are made, and signed for, by one process
#   APART=1  gives the application the first core for itself, and the second to the server and to ours, so that neither takes
#            from the application's what it has alone; the stock node has both
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
heights=${HEIGHTS:-1000}
validators=${VALIDATORS:-1}
port=${PORT:-32200}
v=${VERSION:-040}
BLOCKSYNC=${BLOCKSYNC:-$root/target/release/blocksync}
. "$root/interop/lib.sh"
[ -x "$ours" ] || (cd "$root" && cargo build --release --bin blocksync)
need "a sync into an SDK application" "$root/interop/sdk/build.sh" "sdkapp-$v"
. "$root/interop/sdk/lib.sh"
dir=$work
[ -z "${APART:-}" ] || ours_on="taskset -c 1"
ours_on=${ours_on:-}
p2p_a=$port rpc_a=$((port + 1)) abci=$((port + 2)) p2p_s=$((port + 3)) rpc_s=$((port + 4)) new=
echo "$(nproc) cores, load $(cut -d' ' -f1-3 /proc/loadavg); $heights blocks of $validators validator(s), an SDK application on CometBFT $v"
commit_every=1ms
if [ "$validators" = 1 ]; then
    validator
    within $((heights / 4)) at_least "$rpc_a" $((heights + 1))
    end "$last"
    # Its blocks are served by a node that does not sign: the chain stands still.
    fresh "$dir/server" "$p2p_s" "$rpc_s"
    for part in application blockstore state evidence; do
        rm -rf "$dir/server/data/$part.db"
        cp -r "$dir/a/data/$part.db" "$dir/server/data/"
    done
else
    fresh "$dir/server" "$p2p_s" "$rpc_s"
    app make-chain "$validators" $((heights + 1)) --home "$dir/server" --log_no_color >"$dir/make.log" 2>&1
    cp "$dir/server/config/genesis.json" "$dir/genesis.json"
fi
node "$dir/server.log" "$dir/server" ""
server=$last
[ -z "$ours_on" ] || taskset -a -p -c 1 "$server" >/dev/null
# In the field it is another machine: here it takes what the others leave.
for thread in /proc/"$server"/task/*; do renice -n 19 -p "${thread##*/}" >/dev/null; done
peer=$(node_id "$dir/server")@127.0.0.1:$p2p_s
within 60 at_least "$rpc_s" "$heights"

empty_application() {
    rm -rf "$dir/app" "$dir/app.app.log"
    fresh "$dir/app" 1 2
    pin=${ours_on:+taskset -c 0}
    application "$dir/app"
    app=$application
}

sync() {
    echo $ours_on "$ours" sync --home "$work/ours$run" --genesis "$work/genesis.json" --rules "$(rules)" --app "tcp://127.0.0.1:$abci" \
        --peer "$peer" --until "$until"
}

stock() {
    fresh "$dir/stock$run" "$p2p_a" "$rpc_a"
    app=
    measure stock 'ommitted state.* height=1 ' "ommitted state.* height=$until " \
        "$bin/sdkapp-$v" start --home "$dir/stock$run" --log_no_color --p2p.persistent_peers "$peer"
}

until=$((heights - 2))
compare_all
