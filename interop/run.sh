#!/bin/sh
# Proves the transport against unmodified CometBFT nodes, 0.38.25 and 0.40.0: each serves us, byte for byte; each syncs from us up to
# its switch to consensus; one tells us of another by peer exchange. Says plainly when it is skipped.
#
#   BIN=DIR      where build.sh puts (or has put) the Go binaries; default interop/bin
#   EXAMPLES=DIR where comet_probe and comet_serve are; default target/debug/examples, built if missing
#   VERSIONS     default "038 040"
set -eu
here=$(cd "$(dirname "$0")" && pwd)
bin=${BIN:-$here/bin}
versions=${VERSIONS:-038 040}
ready=yes
for v in $versions; do [ -x "$bin/cometbft-$v" ] && [ -x "$bin/chaingen-$v" ] || ready=no; done
if [ $ready = no ]; then
    if ! command -v go >/dev/null; then
        echo "SKIPPED: interop with CometBFT needs go, or its binaries in $bin"
        exit 0
    fi
    BIN=$bin "$here/build.sh"
fi
examples=${EXAMPLES:-$here/../target/debug/examples}
[ -x "$examples/comet_probe" ] && [ -x "$examples/comet_serve" ] || (cd "$here/.." && cargo build --examples)

work=$(mktemp -d)
pids=
failed=0
cleanup() {
    for p in $pids; do kill "$p" 2>/dev/null || true; done
    wait
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

# start LOG COMMAND…: in the background, ended with the script
start() {
    log=$1
    shift
    "$@" >"$log" 2>&1 &
    pids="$pids $!"
}

# settings HOME P2P_PORT RPC_PORT PEX: several nodes on one host, and no rate limit
settings() {
    sed -i -e "s#^laddr = \"tcp://127.0.0.1:26657\"#laddr = \"tcp://127.0.0.1:$3\"#" \
        -e "s#^laddr = \"tcp://0.0.0.0:26656\"#laddr = \"tcp://127.0.0.1:$2\"#" \
        -e 's/^allow_duplicate_ip = .*/allow_duplicate_ip = true/' -e 's/^addr_book_strict = .*/addr_book_strict = false/' \
        -e "s/^pex = .*/pex = $4/" -e 's/^indexer = .*/indexer = "null"/' \
        -e 's/^send_rate = .*/send_rate = 1000000000/' -e 's/^recv_rate = .*/recv_rate = 1000000000/' \
        "$1/config/config.toml"
}

# until_log LOG PATTERN SECONDS
until_log() {
    n=0
    until grep -q "$2" "$1" 2>/dev/null; do
        n=$((n + 1))
        [ $n -le $(($3 * 10)) ] || return 1
        sleep 0.1
    done
}

# verdict NAME COMMAND…
verdict() {
    name=$1
    shift
    if "$@" >"$work/out" 2>&1; then
        echo "PASS $name$(grep -h 'blocks/s' "$work/out" | sed 's/^/: /')"
    else
        echo "FAIL $name"
        tail -n 20 "$work/out"
        failed=1
    fi
}

port=${PORT:-31000}
for v in $versions; do
    dir=$work/$v
    port=$((port + 10))
    comet=$bin/cometbft-$v
    chain=interop-$v
    "$bin/chaingen-$v" -out "$dir/chain" -home "$dir/server" -chain-id "$chain" -heights 300 -big-every 50 -big 400000 -absent 30 >/dev/null
    "$comet" init --home "$dir/client" >/dev/null 2>&1
    cp "$dir/chain/genesis.json" "$dir/client/config/"
    settings "$dir/server" $port $((port + 1)) true
    settings "$dir/client" $((port + 2)) $((port + 3)) true
    server=$("$comet" show-node-id --home "$dir/server")@127.0.0.1:$port

    start "$dir/server.log" "$comet" node --home "$dir/server" --proxy_app persistent_kvstore
    until_log "$dir/server.log" "Started node" 30 || { echo "FAIL $v: the server does not start"; tail "$dir/server.log"; exit 1; }
    verdict "$v: we fetch from a real node" "$examples/comet_probe" "$server" "$chain" 300 64 "expect=$dir/chain/blocks.bin"

    start "$dir/serve.log" "$examples/comet_serve" "$dir/chain/blocks.bin" 1 "$chain" "comet://127.0.0.1:$((port + 4))"
    until_log "$dir/serve.log" '^[0-9a-f]\{40\} ' 10
    ours=$(sed -n 's/^\([0-9a-f]\{40\}\) .*/\1/p' "$dir/serve.log")
    client() {
        start "$dir/client-$1.log" "$comet" node --home "$dir/client" --proxy_app kvstore --p2p.persistent_peers "$2"
    }
    client 1 "$ours@127.0.0.1:$((port + 4))"
    verdict "$v: a real node syncs from us and switches to consensus" until_log "$dir/client-1.log" "Time to switch to consensus" 60
    kill ${pids##* }
    wait ${pids##* } || true
    verdict "$v: all of it was from us" until_log "$dir/serve.log" "after 300 blocks" 20
    client 2 "$server"
    until_log "$dir/client-2.log" "Started node" 30
    sleep 2
    verdict "$v: a real seed leads us to another node" "$examples/comet_probe" "seed:$server" "$chain" 300 64 "expect=$dir/chain/blocks.bin"
    verdict "$v: another chain is refused" sh -c "! timeout 15 '$examples/comet_probe' '$server' other 1"
done
exit $failed
