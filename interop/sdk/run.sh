#!/bin/sh
# Proves `blocksync` on real Cosmos SDK chains, made here with stock nodes: from the SDK's own genesis file through an
# upgrade to the tip, into a stock node's home, and back. One line a check, then "N passed, N failed"; exit status 1 if any failed.
#
#   BIN, BLOCKSYNC, KEEP  as in lib.sh
#   VERSIONS        default "040" (SDK 0.55 on CometBFT 0.40); 038 is SDK 0.53 on CometBFT 0.38
#   UPGRADE         height of the chain's upgrade; default 60
#   TIP             height from which the chain is synced; default 200
#   PORT            the first of the ports that are used; default 32000
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
versions=${VERSIONS:-040}
upgrade=${UPGRADE:-60}
tip=${TIP:-200}
port=${PORT:-32000}
. "$root/interop/lib.sh"

needed=
for v in $versions; do needed="$needed sdkapp-$v homediff-$v"; done
need "interop with the Cosmos SDK" "$root/interop/sdk/build.sh" $needed

. "$root/interop/sdk/lib.sh"

# the chain: two validators, of which the first has more than two thirds of the power; params and an upgrade of its own
make() {
    dir=$work/$v
    mkdir -p "$dir"
    p2p_a=$port rpc_a=$((port + 1)) p2p_b=$((port + 2)) rpc_b=$((port + 3)) p2p_c=$((port + 4)) rpc_c=$((port + 5)) abci=$((port + 6))
    own=$((port + 7)) p2p_d=$((port + 8)) rpc_d=$((port + 9)) http=$((port + 10))
    port=$((port + 11))
    fresh "$dir/a" "$p2p_a" "$rpc_a"
    sed -i 's/^snapshot-interval = .*/snapshot-interval = 20/' "$dir/a/config/app.toml"
    fresh "$dir/b" "$p2p_b" "$rpc_b"
    for who in a b; do app keys add val --home "$dir/$who" --keyring-backend test >/dev/null 2>&1; done
    app genesis add-genesis-account "$(app keys show val -a --home "$dir/b" --keyring-backend test)" 1000000000000stake --home "$dir/a"
    app genesis add-genesis-account val 1000000000000000stake --home "$dir/a" --keyring-backend test
    cp "$dir/a/config/genesis.json" "$dir/b/config/genesis.json"
    mkdir -p "$dir/a/config/gentx"
    app genesis gentx val 100000000000stake --home "$dir/b" --chain-id "sdk-$v" --keyring-backend test \
        --output-document "$dir/a/config/gentx/b.json" >/dev/null 2>&1
    app genesis gentx val 1000000000000stake --home "$dir/a" --chain-id "sdk-$v" --keyring-backend test >/dev/null 2>&1
    app genesis collect-gentxs --home "$dir/a" >/dev/null 2>&1
    python3 - "$dir/a/config/genesis.json" "$upgrade" "$v" <<'P'
import json, sys
file, upgrade, version = sys.argv[1:]
genesis = json.load(open(file))
params = genesis["consensus"]["params"]
params["block"].update(max_bytes="2000000", max_gas="50000000")
params["evidence"].update(max_age_num_blocks="60", max_age_duration="30000000000")
if version > "038":
    params["authority"] = {"authority": "cosmos1" + "q" * 38}
genesis["app_state"]["plan"] = {"name": "v2", "height": int(upgrade)}
json.dump(genesis, open(file, "w"), indent=1)
P
    cp "$dir/a/config/genesis.json" "$dir/genesis.json"
    cp "$dir/genesis.json" "$dir/b/config/genesis.json"
    peer_a=$(node_id "$dir/a")@127.0.0.1:$p2p_a
    new=
    both
    within 120 grep -q 'UPGRADE "v2" NEEDED' "$dir/a.log" && within 20 grep -q 'UPGRADE "v2" NEEDED' "$dir/b.log" || true
    end "$a"
    end "$b"
    new=v2
    both
    within 120 at_least "$rpc_a" "$tip"
}

both() {
    node "$dir/a.log" "$dir/a" ""
    a=$last
    node "$dir/b.log" "$dir/b" "$peer_a"
    b=$last
}

# with the binary of before the upgrade: it halts below, and the home is as it was
halts_at_upgrade() {
    code=0
    sync --exit-when-caught-up || code=$?
    at=$("$ours" status --home "$dir/ours" --json | field height)
    [ "$at" = $((upgrade - 1)) ] || { echo "exit status $code at height $at"; tail -n 5 "$dir/ours.log"; return 1; }
    [ $code != 0 ] && grep -q "UPGRADE" "$dir/ours.log" || { echo "exit status $code"; tail -n 5 "$dir/ours.log"; return 1; }
    echo "exit status $code at height $at"
}

goes_on() {
    code=0
    sync --exit-when-caught-up || code=$?
    [ $code = 0 ] || { echo "exit status $code"; tail -n 5 "$dir/ours.log"; return 1; }
    same_hash $((tip - 2))
}

# kill -9 of both sides, several times, in the middle of following
survives_kills() {
    before=$("$ours" status --home "$dir/ours" --json | field height)
    for pause in 1 2 1 3; do
        start "$dir/follow.log" "$ours" sync --home "$dir/ours" --rules "$(rules)" --app "tcp://127.0.0.1:$abci" --peer "$peer_a"
        follow=$last
        sleep $pause
        kill -9 "$follow" "$application" 2>/dev/null || true
        wait "$follow" "$application" 2>/dev/null || true
        application "$dir/c"
    done
    sync --exit-when-caught-up || { tail -n 5 "$dir/ours.log"; return 1; }
    same_hash $((before + 10))
}

# a halt height of the application's: it goes away there, and we go on once it is back without
halt_height() {
    at=$("$ours" status --home "$dir/ours" --json | field height)
    halt=$((at + 15))
    end "$application"
    application "$dir/c" --halt-height $halt
    within 20 at_least "$rpc_a" $((halt + 10))
    code=0
    sync --exit-when-caught-up --patience 10s || code=$?
    found=$("$ours" status --home "$dir/ours" --json | field height)
    [ $code != 0 ] && [ "$found" -le $halt ] && [ "$found" -ge $((halt - 1)) ] || {
        echo "exit status $code at height $found, halt height $halt"
        return 1
    }
    end "$application"
    application "$dir/c"
    goes_on
}

# the application's own wish, in app.toml, bounded by the evidence's age
prunes() {
    base=$("$ours" status --home "$dir/ours" --json | field base)
    at=$("$ours" status --home "$dir/ours" --json | field height)
    [ "$base" -gt 1 ] && [ "$base" -le $((at - 59)) ] || { echo "base $base at height $at"; return 1; }
    echo "blocks $base to $at"
}

# export into the home whose application ours has filled
exports() {
    "$ours" export --home "$dir/ours" --comet-home "$dir/c" --rules "$(rules)" || return 1
    ! "$ours" export --home "$dir/ours" --comet-home "$dir/c" --rules "$(rules)" >/dev/null 2>&1 || { echo "a second export was let"; return 1; }
    "$ours" status --home "$dir/ours" --json | field height
}

# the stock node goes on from there: no block is executed again, old ones are served with the same bytes
stock_goes_on() {
    within 60 at_least "$rpc_c" $((exported + 20)) || { tail -n 10 "$dir/c.log"; return 1; }
    ! grep "Applying block" "$dir/c.log" || return 1
    grep -q "appHeight=$exported.*stateHeight=$exported.*storeHeight=$exported\|stateHeight.*$exported.*storeHeight" "$dir/c.log" ||
        grep -i "ABCI Handshake" "$dir/c.log" || true
    lowest=$(curl -s "http://127.0.0.1:$rpc_c/status" | tr -d ' \n' | sed -n 's/.*"earliest_block_height":"\([0-9]*\)".*/\1/p')
    # It keeps 30 blocks and is 20 further: it may prune those below the last 10 while we look.
    for h in $((exported - 6)) $((exported - 3)) $exported; do
        curl -s "http://127.0.0.1:$rpc_a/block?height=$h" >"$dir/block.a"
        curl -s "http://127.0.0.1:$rpc_c/block?height=$h" >"$dir/block.c"
        cmp "$dir/block.a" "$dir/block.c" || return 1
    done
    echo "from $exported to $(height "$rpc_c"), serves from $lowest"
}

# signed: of the last 12 commits, those that hold the second validator's signature
signs() {
    address=$(sed -n 's/.*"address": *"\([0-9A-F]*\)".*/\1/p' "$dir/b/config/priv_validator_key.json")
    within 60 grep -qi "switch.* to consensus" "$dir/c.log" || { echo "no switch to consensus"; return 1; }
    sleep 2
    from=$(height "$rpc_a")
    within 60 at_least "$rpc_a" $((from + 13)) || return 1
    n=0
    for h in $(seq $((from + 1)) $((from + 12))); do
        curl -s "http://127.0.0.1:$rpc_a/commit?height=$h" | grep -q "$address" && n=$((n + 1))
    done
    [ $n -ge 10 ] || { echo "signed $n of 12"; tail -n 5 "$dir/c.log"; return 1; }
    echo "signed $n of 12"
}

# record by record against the stopped second node's databases
same_records() { "$bin/homediff-$v" "$dir/exported" "$dir/b/data"; }

# the stopped second node's home becomes ours, and is synced on with the application of that home
imports() {
    "$ours" import --home "$dir/back" --comet-home "$dir/b" --genesis "$dir/genesis.json" || return 1
    "$ours" verify --home "$dir/back" || return 1
    application "$dir/b"
    "$ours" sync --home "$dir/back" --rules "$(rules)" --app "tcp://127.0.0.1:$abci" --peer "$peer_a" --exit-when-caught-up --json \
        >"$dir/back.json" 2>"$dir/back.log" || { tail -n 5 "$dir/back.log"; end "$application"; return 1; }
    end "$application"
    cat "$dir/back.json"
}

# a stock node without a block restores a snapshot of the first validator's, and verifies it by our RPC alone
state_syncs() {
    application "$dir/b"
    start "$dir/rpc.log" "$ours" sync --home "$dir/back" --rules "$(rules)" --app "tcp://127.0.0.1:$abci" --peer "$peer_a" \
        --http "127.0.0.1:$http"
    within 30 at_least "$http" $(($(height "$rpc_a") - 2)) || { tail -n 5 "$dir/rpc.log"; return 1; }
    trusted=$(($(height "$http") - 10))
    hash=$(curl -s "http://127.0.0.1:$http/commit?height=$trusted" | sed -n 's/.*"commit":{[^{]*"block_id":{"hash":"\([0-9A-F]*\)".*/\1/p')
    fresh "$dir/d" "$p2p_d" "$rpc_d"
    sed -i -e '/^\[statesync\]/,/^\[blocksync\]/{' -e 's/^enable = .*/enable = true/' -e "s/^trust_height = .*/trust_height = $trusted/" \
        -e "s/^trust_hash = .*/trust_hash = \"$hash\"/" -e 's/^discovery_time = .*/discovery_time = "5s"/' \
        -e "s#^rpc_servers = .*#rpc_servers = \"http://127.0.0.1:$http,http://127.0.0.1:$http\"#" -e '}' "$dir/d/config/config.toml"
    node "$dir/d.log" "$dir/d" "$peer_a"
    d=$last
    within 90 grep -q "Snapshot restored" "$dir/d.log" || { tail -n 10 "$dir/d.log"; return 1; }
    within 60 at_least "$rpc_d" $((trusted + 15)) || { tail -n 10 "$dir/d.log"; return 1; }
    at=$(height "$rpc_d")
    lowest=$(curl -s "http://127.0.0.1:$rpc_d/status" | tr -d ' \n' | sed -n 's/.*"earliest_block_height":"\([0-9]*\)".*/\1/p')
    within 20 at_least "$rpc_a" "$at"
    [ "$lowest" -gt 1 ] && [ "$(header "$rpc_d" "$at" app_hash)" = "$(header "$rpc_a" "$at" app_hash)" ] || {
        echo "height $at, from $lowest: another application hash"
        return 1
    }
    end "$d"
    echo "blocks $lowest to $at, with the chain's application hash"
}

for v in $versions; do
    verdict "$v a chain of two validators passes its upgrade" make
    fresh "$dir/c" "$p2p_c" "$rpc_c"
    sed -i 's/^min-retain-blocks = .*/min-retain-blocks = 30/' "$dir/c/config/app.toml"
    new=
    application "$dir/c"
    verdict "$v the binary of before halts below the upgrade" halts_at_upgrade
    end "$application"
    new=v2
    application "$dir/c"
    verdict "$v the next binary goes on to the tip" goes_on
    verdict "$v kill -9 of both sides" survives_kills
    verdict "$v halt height" halt_height
    verdict "$v pruned as the application wishes" prunes
    end "$application"
    verdict "$v export into the application's home" exports
    exported=$("$ours" status --home "$dir/ours" --json | field height)
    mkdir "$dir/exported"
    cp -r "$dir/c/data/"*.db "$dir/exported/"
    node "$dir/c.log" "$dir/c" "$peer_a"
    c=$last
    verdict "$v the stock node goes on from the export" stock_goes_on
    end "$c"
    end "$b"
    verdict "$v the export's records are a stock node's" same_records
    cp "$dir/b/config/priv_validator_key.json" "$dir/c/config/"
    # The first validator decides alone: it has to wait a while for the other's vote.
    end "$a"
    sed -i 's/^timeout_commit = .*/timeout_commit = "1s"/' "$dir/a/config/config.toml"
    node "$dir/a.log" "$dir/a" ""
    a=$last
    cp "$dir/b/data/priv_validator_state.json" "$dir/c/data/"
    node "$dir/c.log" "$dir/c" "$peer_a"
    c=$last
    within 60 at_least "$rpc_c" $((exported + 20)) || true
    verdict "$v as a validator it signs" signs
    verdict "$v a stock home is imported and synced on" imports
    end "$c"
    verdict "$v a stock node state-syncs with us as its rpc_servers" state_syncs
    end "$a"
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]
