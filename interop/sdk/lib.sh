# Shared by the scripts with Cosmos SDK applications, which source it after ../lib.sh: homes, nodes, applications alone.

# end PID: of a process that was started here
end() {
    kill "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

# within SECONDS COMMAND…: until it succeeds
within() {
    n=$(($1 * 5))
    shift
    until "$@"; do
        n=$((n - 1))
        [ $n -gt 0 ] || return 1
        sleep 0.2
    done
}

app() { "$bin/sdkapp-$v" "$@"; }

rules() { echo "comet-0.${v#0}"; }

# configure HOME P2P RPC: several nodes on one host, ten blocks a second, no other servers
configure() {
    sed -i -e "/^\[rpc\]/,/^\[p2p\]/s#^laddr = .*#laddr = \"tcp://127.0.0.1:$3\"#" \
        -e "/^\[p2p\]/,/^\[mempool\]/s#^laddr = .*#laddr = \"tcp://127.0.0.1:$2\"#" \
        -e 's/^allow_duplicate_ip = .*/allow_duplicate_ip = true/' -e 's/^addr_book_strict = .*/addr_book_strict = false/' \
        -e 's/^indexer = .*/indexer = "null"/' -e 's/^pprof_laddr = .*/pprof_laddr = ""/' \
        -e 's/^timeout_commit = .*/timeout_commit = "'"${commit_every:-100ms}"'"/' -e 's/^pex = .*/pex = false/' "$1/config/config.toml"
    sed -i -e '/^\[grpc\]/,/^\[/s/^enable = .*/enable = false/' -e '/^\[grpc-web\]/,/^\[/s/^enable = .*/enable = false/' \
        -e '/^\[api\]/,/^\[/s/^enable = .*/enable = false/' "$1/config/app.toml"
}

# fresh HOME P2P RPC: a stock home of this chain that has never run
fresh() {
    app init node --home "$1" --chain-id "sdk-$v" --default-denom stake >/dev/null 2>&1
    [ ! -f "$dir/genesis.json" ] || cp "$dir/genesis.json" "$1/config/genesis.json"
    configure "$@"
}

# the SDK writes it to standard error
node_id() { app comet show-node-id --home "$1" 2>&1 | tail -n 1; }

# node LOG HOME PEERS: a stock node, with the upgrade if $new says so
node() { start "$1" env SDKAPP_UPGRADE="$new" "$bin/sdkapp-$v" start --home "$2" --log_no_color --p2p.persistent_peers "$3"; }

# application HOME FLAG…: the application alone, for ours; under $pin, if that is set
application() {
    home=$1
    shift
    start "$home.app.log" ${pin:-} env SDKAPP_UPGRADE="$new" "$bin/sdkapp-$v" start --home "$home" --with-comet=false --log_no_color --transport=socket \
        --address "tcp://127.0.0.1:$abci" "$@"
    application=$last
    within 30 grep -q "[Ll]istening\|Starting\|starting ABCI" "$home.app.log" || true
    sleep 1
}

# height RPC: of a stock node; 0 when it does not answer
height() {
    h=$(curl -s "http://127.0.0.1:$1/status" | tr -d ' \n' | sed -n 's/.*"latest_block_height":"\([0-9]*\)".*/\1/p')
    echo "${h:-0}"
}
at_least() { [ "$(height "$1")" -ge "$2" ]; }

# header RPC HEIGHT NAME: a field of a header
header() { curl -s "http://127.0.0.1:$1/header?height=$2" | tr -d ' \n' | sed -n "s/.*\"$3\":\"\([0-9A-Fa-f]*\)\".*/\1/p" | tr A-F a-f; }

# validator: a chain of one validator, ten blocks a second, in $dir at $p2p_a and $rpc_a
validator() {
    mkdir -p "$dir"
    fresh "$dir/a" "$p2p_a" "$rpc_a"
    app keys add val --home "$dir/a" --keyring-backend test >/dev/null 2>&1
    app genesis add-genesis-account val 1000000000000000stake --home "$dir/a" --keyring-backend test
    app genesis gentx val 1000000000000stake --home "$dir/a" --chain-id "sdk-$v" --keyring-backend test >/dev/null 2>&1
    app genesis collect-gentxs --home "$dir/a" >/dev/null 2>&1
    cp "$dir/a/config/genesis.json" "$dir/genesis.json"
    peer_a=$(node_id "$dir/a")@127.0.0.1:$p2p_a
    node "$dir/a.log" "$dir/a" ""
    within 120 at_least "$rpc_a" 50
}

# sync FLAG…: ours with the application at $abci; the report is in $dir/ours.json
sync() {
    "$ours" sync --home "$dir/ours" --genesis "$dir/genesis.json" --rules "$(rules)" --app "tcp://127.0.0.1:$abci" --peer "$peer_a" \
        --json "$@" >"$dir/ours.json" 2>>"$dir/ours.log"
}

# same_hash: ours has the chain's application hash
same_hash() {
    status=$("$ours" status --home "$dir/ours" --json)
    at=$(echo "$status" | field height) hash=$(echo "$status" | field app_hash)
    within 20 at_least "$rpc_a" $((at + 1))
    theirs=$(header "$rpc_a" $((at + 1)) app_hash)
    [ "$at" -ge "$1" ] && [ -n "$hash" ] && [ "$hash" = "$theirs" ] || {
        echo "height $at, application hash $hash; the chain's is $theirs"
        tail -n 5 "$dir/ours.log"
        return 1
    }
    echo "height $at, application hash $hash"
}
