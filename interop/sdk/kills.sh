#!/bin/sh
# Kills `blocksync` at each step between FinalizeBlock and the next one, KILLS times each, while a Cosmos SDK application lives on,
# and holds the application's hash against the chain's afterwards. The application is started again where ours asks for it: one
# that has executed a block and not committed it cannot take it back. Minutes. Ends as run.sh does.
#
#   BIN, BLOCKSYNC, KEEP  as in lib.sh
#   KILLS           times that each step is killed; default 50, which takes a quarter of an hour
#   SEED            of the order of the steps; default 1
#   PORT            the first of the ports that are used; default 31800
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
kills=${KILLS:-50}
seed=${SEED:-1}
port=${PORT:-31800}
. "$root/interop/lib.sh"
need "interop with the Cosmos SDK" "$root/interop/sdk/build.sh" sdkapp-040
. "$root/interop/sdk/lib.sh"

v=040 new='' dir=$work/kills
p2p_a=$port rpc_a=$((port + 1)) abci=$((port + 2)) between=$((port + 3))

killed() {
    python3 "$root/interop/sdk/killer.py" "$between" "$abci" "$kills" "$seed" "$dir/killed.log" \
        "exec $bin/sdkapp-$v start --home $dir/c --with-comet=false --log_no_color --transport=socket --address tcp://127.0.0.1:$abci \
            >>$dir/c.app.log 2>&1" "$ours" sync --home "$dir/ours" --genesis "$dir/genesis.json" --rules "$(rules)" --app "tcp://127.0.0.1:$between" \
        --peer "$peer_a" || {
        tail -n 10 "$dir/killed.log"
        return 1
    }
}

agrees() {
    sync --exit-when-caught-up || { tail -n 5 "$dir/ours.log"; return 1; }
    same_hash 100
}

verdict "a chain of an SDK application" validator
fresh "$dir/c" $((port + 4)) $((port + 5))
verdict "killed at each step, the application lives on" killed
application "$dir/c"
verdict "the application's hash is the chain's" agrees
echo "$passed passed, $failed failed"
[ $failed = 0 ]
