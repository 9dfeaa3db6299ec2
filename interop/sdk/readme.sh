#!/bin/sh
# Runs the commands of README's "From zero to a running node" as they stand there, for a chain of an SDK application: from genesis,
# then from a snapshot of the node that came of that. Each time the stock node goes on. A minute. Ends as run.sh does.
#
#   BIN, BLOCKSYNC, KEEP  as in lib.sh
#   PORT            the first of the ports that are used; default 31700
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
port=${PORT:-31700}
. "$root/interop/lib.sh"
need "README on a chain of the Cosmos SDK" "$root/interop/sdk/build.sh" sdkapp-040
. "$root/interop/sdk/lib.sh"

v=040 new='' dir=$work/readme
p2p_a=$port rpc_a=$((port + 1)) p2p_b=$((port + 2)) rpc_b=$((port + 3)) abci=$((port + 4))

# block N: the N-th block of commands of that chapter, for this chain
block() {
    awk -v n="$1" '/^## / { chapter = /From zero/ } chapter && /^```sh/ { on = ++count == n; next } /^```/ { on = 0 } on' "$root/README.md" |
        sed -e "s/cosmoshub-4/sdk-$v/" -e "s/comet-0.38/$(rules)/" -e "s/ID@HOST:26656/$peer_a/" -e "s/26658/$abci/" \
            -e 's/^gaiad start$/gaiad start >~\/node.log 2>\&1 \& echo $! >~\/node.pid/'
}

# ports that are free, and somebody to sync from
settle() {
    configure "$1/.gaia" "$p2p_b" "$rpc_b"
    sed -i -e 's/^indexer = .*/indexer = "kv"/' -e "s/^persistent_peers = .*/persistent_peers = \"$peer_a\"/" "$1/.gaia/config/config.toml"
}

# operator HOME COMMANDS: runs them as somebody with that home directory would
operator() {
    (cd "$1" && HOME=$1 PATH=$dir/bin:$PATH bash -euc "$2") >>"$1/log" 2>&1 || { tail -n 20 "$1/log"; return 1; }
}

# goes_on HOME: the stock node has started and follows the chain, from what ours has exported
goes_on() {
    node=$(cat "$1/node.pid")
    exported=$(sed -n 's/.*: blocks [0-9]* to \([0-9]*\) and the state after it.*/\1/p' "$1/log" | tail -n 1)
    within 60 at_least "$rpc_b" $((exported + 20)) || { tail -n 10 "$1/node.log"; return 1; }
    at=$(height "$rpc_b")
    within 20 at_least "$rpc_a" "$at"
    [ "$(header "$rpc_b" "$at" app_hash)" = "$(header "$rpc_a" "$at" app_hash)" ] || { echo "another application hash at $at"; return 1; }
    kill "$node"
    while kill -0 "$node" 2>/dev/null; do sleep 0.1; done
    echo "from $exported to $at"
}

from_zero() {
    home=$dir/zero
    mkdir -p "$home"
    cp "$dir/genesis.json" "$home/"
    operator "$home" "$(block 1 | head -n 1)" && settle "$home" && operator "$home" "$(block 1 | tail -n +2)" && goes_on "$home"
}

from_snapshot() {
    home=$dir/snapshot
    mkdir -p "$home"
    cp "$dir/genesis.json" "$home/"
    # Providers leave out what a node makes anew; a node that was stopped while it synced has none.
    tar -c -C "$dir/zero/.gaia" --exclude data/cs.wal -f "$home/snapshot.tar" data
    operator "$home" "$(block 1 | head -n 1)" && settle "$home" && operator "$home" "$(block 2)" &&
        operator "$home" "$(block 1 | tail -n +2)" && goes_on "$home"
}

mkdir -p "$dir/bin"
ln -s "$ours" "$dir/bin/blocksync"
printf '#!/bin/sh\nexec %s "$@" --home "$HOME/.gaia"\n' "$bin/sdkapp-$v" >"$dir/bin/gaiad"
chmod +x "$dir/bin/gaiad"
verdict "a chain of an SDK application" validator
verdict "from zero to a running node" from_zero
verdict "from a snapshot to a running node" from_snapshot
echo "$passed passed, $failed failed"
[ $failed = 0 ]
