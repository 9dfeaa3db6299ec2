#!/bin/sh
# Proves `blocksync` against unmodified CometBFT nodes, 0.38.25 and 0.40.0, on this machine. One line a check, then
# "N passed, N failed"; exit status 1 if any failed. Says plainly when it is skipped.
#
#   BIN, BLOCKSYNC, KEEP  as in lib.sh
#   EXAMPLES=DIR    where comet_serve and comet_probe are; default target/debug/examples, built if missing
#   VERSIONS        default "038 040"; 039 is there, too
#   LINES_OF        versions of other lines, each on a recorded chain of its own; default "034 037 100"
#   LINE_SECTIONS   what is done with those: "line", or "line live" by hand; default "line"
#   SECTIONS        default "fetch serve live faulty pex limited rpc"
#   KINDS           chains that are fetched and served; default "four full churn hundred big", made here with each version
#   FOLLOW          seconds that a live validator is followed; default 60
#   PORT            the first of the ports that are used; default 31000
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
versions=${VERSIONS-038 040}
lines=${LINES_OF-034 037 100}
line_sections=${LINE_SECTIONS-line}
sections=${SECTIONS-fetch serve live faulty pex limited rpc}
kinds=${KINDS:-four full churn hundred big}
follow=${FOLLOW:-60}
port=${PORT:-31000}
. "$root/interop/lib.sh"

needed=
for v in $lines; do needed="$needed cometbft-$v abci-cli-$v"; done
for v in $versions; do needed="$needed cometbft-$v chaingen-$v lightstate-$v"; done
need "interop with CometBFT" "$root/interop/build.sh" $needed
examples=${EXAMPLES:-$root/target/debug/examples}
[ -x "$examples/comet_serve" ] && [ -x "$examples/comet_probe" ] ||
    (cd "$root" && cargo build --example comet_serve --example comet_probe)

# until_log LOG PATTERN SECONDS
until_log() {
    n=0
    until grep -q "$2" "$1" 2>/dev/null; do
        n=$((n + 1))
        [ $n -le $(($3 * 10)) ] || return 1
        sleep 0.1
    done
}

# ports: the next three, as $p2p $rpc $own
ports() {
    p2p=$port rpc=$((port + 1)) own=$((port + 2))
    port=$((port + 3))
}

# real LOG HOME APP FLAG…: a CometBFT node of version $v
real() {
    log=$1 home=$2 app=$3
    shift 3
    start "$log" "$bin/cometbft-$v" node --home "$home" --proxy_app "$app" "$@"
}

# id_of HOME: of a CometBFT node
id_of() { "$bin/cometbft-$v" show-node-id --home "$1"; }

# make CHAIN: the kinds of ../shared/chains, made by version $v, as files and as a node's home
make() {
    case $1 in
    four) set -- four -heights 300 -absent 60 -late-rounds 100 -big-every 50 -big 200000 ;;
    full) set -- full -validators 7 -heights 240 -initial-height 7 -spread-power -absent 80 -nil 60 -late-rounds 120 \
        -churn-every 7 -evidence-every 19 -attack-at 90 -extensions-from 60 -big-every 40 -big 200000 ;;
    churn) set -- churn -validators 20 -keys 60 -heights 800 -churn-every 2 ;;
    hundred) set -- hundred -validators 100 -heights 600 -txs 16 -txsize 400 ;;
    big) set -- big -heights 14 -big-every 1 -big 4500000 ;;
    esac
    chain=$1 dir=$work/$v/$1
    shift
    [ -d "$dir" ] || "$bin/chaingen-$v" -out "$dir/chain" -home "$dir/server" -chain-id "$chain-$v" "$@" >/dev/null
    tip=$(tail -n 1 "$dir/chain/expected.jsonl" | field height)
}

rules() {
    case $v in 100) echo comet-1.0 ;; *) echo "comet-${v%??}.${v#?}" ;; esac
}

# sync HOME PEERS FLAG…: ours, of the chain in $dir, until it is caught up; the report is in HOME.json
sync() {
    home=$1 peers=$2
    shift 2
    "$ours" sync --home "$home" --genesis "$dir/chain/genesis.json" --rules "$(rules)" --peer "$peers" \
        --exit-when-caught-up --json "$@" >"$home.json" 2>"$home.log" || {
        echo "blocksync sync: exit status $?"
        tail -n 15 "$home.log"
        return 1
    }
}

# is_whole HOME: the report tells of the chain up to the last height that can be proven, with CometBFT's application hash
is_whole() {
    height=$(field height <"$1.json") hash=$(field app_hash <"$1.json")
    wanted=$(grep "\"height\":$height," "$dir/chain/expected.jsonl" | field app_hash_after)
    [ "$height" -ge $((tip - 1)) ] && [ -n "$hash" ] && [ "$hash" = "$wanted" ] || {
        echo "height $height of $tip, application hash $hash, CometBFT's is $wanted"
        return 1
    }
    echo "height $height, application hash $hash, $(field blocks_per_second <"$1.json") blocks/s"
}

fetched() {
    rm -rf "$dir/ours"*
    sync "$dir/ours" "$server" || return 1
    grep -q '"peers_dropped":\[\]' "$dir/ours.json" || { cat "$dir/ours.json"; return 1; }
    is_whole "$dir/ours"
}

# (a) ours from a real server
fetch() {
    for kind in $kinds; do
        make "$kind"
        ports
        settings "$dir/server"
        server=$(id_of "$dir/server")@127.0.0.1:$p2p
        real "$dir/server.log" "$dir/server" persistent_kvstore
        until_log "$dir/server.log" "Started node" 60 || true
        verdict "$v $kind: ours syncs from a real node" fetched
        if [ "$kind" = four ]; then
            verdict "$v $kind: byte for byte what the chain is" \
                env RUST_LOG=warn "$examples/comet_probe" "$server" "$kind-$v" "$tip" 64 "expect=$dir/chain/blocks.bin"
            verdict "$v $kind: another chain is refused, and named" stranger
        fi
        stop_all
    done
}

# stranger: with the genesis of another chain
stranger() {
    rm -rf "$dir/other"*
    sed 's/"chain_id": *"[^"]*"/"chain_id": "other"/' "$dir/chain/genesis.json" >"$dir/other.genesis"
    "$ours" sync --home "$dir/other" --genesis "$dir/other.genesis" --peer "$server" --exit-when-caught-up \
        --patience 3s >"$dir/other.log" 2>&1 && return 1
    [ $? = 3 ] || { tail "$dir/other.log"; return 1; }
    grep 'no connection' "$dir/other.log" | grep "$kind-$v" | head -n 1 | sed 's/.*no connection: //'
}

# client KIND PEER [GENESIS [APP]]: a fresh CometBFT node, by default of the chain in $dir, whose only peer is PEER; the
# log is $dir/KIND.log
client() {
    rm -rf "$dir/$1"
    "$bin/cometbft-$v" init --home "$dir/$1" >/dev/null 2>&1
    cp "${3:-$dir/chain/genesis.json}" "$dir/$1/config/genesis.json"
    settings "$dir/$1"
    sed -i 's/^pex = .*/pex = false/' "$dir/$1/config/config.toml"
    real "$dir/$1.log" "$dir/$1" "${4:-kvstore}" --p2p.persistent_peers "$2"
}

# switched KIND LEAST SECONDS: the client has switched to consensus, at LEAST or above
switched() {
    until_log "$dir/$1.log" "Time to switch to consensus" "$3" || {
        echo "no switch to consensus within $3 s"
        tail -n 5 "$dir/$1.log"
        return 1
    }
    at=$(sed -n '/Time to switch to consensus/s/.*height=\([0-9]*\).*/\1/p' "$dir/$1.log" | head -n 1)
    [ "$at" -ge "$2" ] || { echo "it switched at $at, below $2"; return 1; }
    ! grep -i "Stopping peer for error" "$dir/$1.log" || return 1
    echo "at height $at"
}

# (b) a real client from ours
serve() {
    for kind in $kinds; do
        make "$kind"
        [ -f "$dir/ours/genesis.json" ] || "$ours" import --home "$dir/ours" --genesis "$dir/chain/genesis.json" --rules "$(rules)" \
            --tip-commit "$dir/chain/tip_commit.bin" "$dir/chain/blocks.bin" >"$dir/import.log" 2>&1
        ports
        start "$dir/serve.log" "$ours" serve --home "$dir/ours" --listen "comet://127.0.0.1:$own"
        until_log "$dir/serve.log" "listening at" 20 || true
        id=$("$ours" status --home "$dir/ours" --json | field node_id)
        client client "$id@127.0.0.1:$own"
        # ours has tip - 1, which a client of its alone cannot prove
        verdict "$v $kind: a real node syncs from ours and switches to consensus" switched client $((tip - 2)) 90
        stop_all
    done
}

# committed LOG: the last height that a CometBFT node has committed
committed() { sed -n '/ommitted state/s/.* height=\([0-9]*\).*/\1/p' "$1" | tail -n 1; }

# ours_at: our height
ours_at() { "$ours" status --home "$dir/ours" --json | field height; }

# keeps_up: ours is at most 3 blocks behind the validator, which has gone on in the meantime, and has its application hash
keeps_up() {
    n=0
    while :; do
        there=$(committed "$dir/validator.log") here=$(ours_at)
        [ $((there - here)) -gt 3 ] || break
        n=$((n + 1))
        [ $n -le 20 ] || { echo "ours is at $here, the validator at $there"; tail -n 5 "$dir/ours.log"; return 1; }
        sleep 0.5
    done
    [ "$here" -gt $((begun + follow)) ] || { echo "only at $here"; return 1; }
    ! grep "peer dropped" "$dir/ours.log" || return 1
    echo "at $here of $there, $((here - begun)) blocks in $follow s"
}

# same_hash: what we hold is what the validator answers by RPC
same_hash() {
    json=$("$ours" status --home "$dir/ours" --json)
    height=$(echo "$json" | field height) hash=$(echo "$json" | field block_hash) app=$(echo "$json" | field app_hash)
    curl -s "http://127.0.0.1:$validator_rpc/commit?height=$height" | tr -d ' \n' >"$dir/rpc"
    theirs=$(sed -n 's/.*"commit":{[^{]*"block_id":{"hash":"\([0-9A-F]*\)".*/\1/p' "$dir/rpc" | tr A-F a-f)
    n=0
    until theirs_app=$(curl -s "http://127.0.0.1:$validator_rpc/block?height=$((height + 1))" | tr -d ' \n' |
        sed -n 's/.*"app_hash":"\([0-9A-F]*\)".*/\1/p' | tr A-F a-f) && [ -n "$theirs_app" ]; do
        n=$((n + 1))
        [ $n -le 20 ] || break
        sleep 0.2
    done
    [ -n "$theirs" ] && [ "$hash" = "$theirs" ] && [ "$app" = "$theirs_app" ] || {
        echo "height $height: block $hash, application $app; the validator: $theirs, $theirs_app"
        return 1
    }
    echo "height $height, application hash $app"
}

# transactions SECONDS: into the validator, so that the application hash moves
transactions() {
    n=0
    while [ $n -lt $(($1 * 2)) ]; do
        n=$((n + 1))
        curl -s "http://127.0.0.1:$validator_rpc/broadcast_tx_async?tx=\"live$n=$n\"" >/dev/null || true
        sleep 0.5
    done
}

# comes_back: ours goes on after the validator's restart
comes_back() {
    before=$(ours_at)
    kill "$validator"
    wait "$validator" 2>/dev/null || true
    sleep 2
    real "$dir/validator-2.log" "$dir/validator" persistent_kvstore
    n=0
    until [ "$(ours_at)" -gt $((before + 10)) ]; do
        n=$((n + 1))
        [ $n -le 60 ] || { echo "still at $(ours_at), $before before"; tail -n 10 "$dir/ours.log"; return 1; }
        sleep 0.5
    done
    echo "from $before on to $(ours_at)"
}

# (c) a validator that keeps producing blocks; ours follows it, and another real node syncs from ours meanwhile
live() {
    dir=$work/$v/live
    rm -rf "$dir"
    mkdir -p "$dir"
    ports
    "$bin/cometbft-$v" init --home "$dir/validator" >/dev/null 2>&1
    settings "$dir/validator"
    sed -i 's/^timeout_commit = .*/timeout_commit = "200ms"/' "$dir/validator/config/config.toml"
    server=$(id_of "$dir/validator")@127.0.0.1:$p2p validator_rpc=$rpc listen=$own
    real "$dir/validator.log" "$dir/validator" persistent_kvstore
    validator=$last
    until_log "$dir/validator.log" "ommitted state.* height=20 " 90 || true
    [ -z "$curl" ] || { transactions $((follow + 5)) & pids="$pids $!"; }
    our_app=kvstore their_app=kvstore
    case $v in 034 | 037) # whose first application hash is empty
        ports
        our_app=tcp://127.0.0.1:$own their_app=persistent_kvstore
        mkdir -p "$dir/app"
        start "$dir/app.log" "$bin/abci-cli-$v" kvstore --address "$our_app" --persist "$dir/app"
        ;;
    esac
    start "$dir/ours.log" "$ours" sync --home "$dir/ours" --genesis "$dir/validator/config/genesis.json" --rules "$(rules)" \
        --app "$our_app" --peer "$server" --listen "comet://127.0.0.1:$listen"
    until_log "$dir/ours.log" "listening at" 20 || true
    begun=$(committed "$dir/validator.log")
    sleep $((follow / 2))
    id=$("$ours" status --home "$dir/ours" --json | field node_id)
    ports
    client second "$id@127.0.0.1:$listen" "$dir/validator/config/genesis.json" $their_app
    sleep $((follow - follow / 2))
    verdict "$v live: ours follows a validator" keeps_up
    [ -z "$curl" ] || verdict "$v live: with its hashes" same_hash
    verdict "$v live: another real node syncs from ours meanwhile" switched second $((begun + 1)) 60
    verdict "$v live: ours comes back after the validator's restart" comes_back
    stop_all
}

# liar MODE: the chain in $dir, served by a peer that lies; adds its address to $peers and its id to $liars
liar() {
    ports
    start "$dir/liar-$1.log" "$examples/comet_serve" "$dir/chain/blocks.bin" 1 "$chain-$v" "comet://127.0.0.1:$own" "lie=$1"
    until_log "$dir/liar-$1.log" '^[0-9a-f]\{40\} ' 20 || true
    id=$(sed -n 's/^\([0-9a-f]\{40\}\) .*/\1/p' "$dir/liar-$1.log")
    liars="$liars $1=$id"
    peers="$peers,$id@127.0.0.1:$own"
}

convicted() {
    rm -rf "$dir/misled"*
    sync "$dir/misled" "$peers" --patience 90s
    grep -h 'peer dropped' "$dir/misled.log" || true
    is_whole "$dir/misled" || return 1
    grep -q " connected .*${server%%@*}" "$dir/misled.log" || { echo "the honest node was not there"; return 1; }
    dropped=$(sed -n 's/.*"peers_dropped":\[\([^]]*\)\].*/\1/p' "$dir/misled.json")
    case $dropped in *"${server%%@*}"*) echo "the honest node was dropped: $dropped"; return 1 ;; esac
    for who in $liars; do
        case $who:$dropped in
        *high=*) ;; # a claim alone convicts nobody; it must only not be believed
        *:*"${who#*=}"*) ;;
        *) echo "${who%%=*} was not convicted: $dropped"; return 1 ;;
        esac
    done
    is_whole "$dir/misled"
}

# (d) one honest real node among faulty peers
faulty() {
    make hundred
    ports
    settings "$dir/server"
    server=$(id_of "$dir/server")@127.0.0.1:$p2p
    real "$dir/server.log" "$dir/server" persistent_kvstore
    until_log "$dir/server.log" "Started node" 60 || true
    peers=$server liars=
    for lie in alter garbage unasked high; do liar $lie; done
    verdict "$v faulty: an honest real node and four that lie" convicted
    stop_all
}

# (e) a real seed leads us to a real node

pex() {
    make four
    ports
    settings "$dir/server"
    server=$(id_of "$dir/server")@127.0.0.1:$p2p
    real "$dir/server.log" "$dir/server" persistent_kvstore
    rm -rf "$dir/seed" "$dir/led"*
    "$bin/cometbft-$v" init --home "$dir/seed" >/dev/null 2>&1
    cp "$dir/chain/genesis.json" "$dir/seed/config/"
    ports
    settings "$dir/seed"
    # it has no blocks of its own that we could get from it: it stays where it is
    sed -i 's/^block_sync = .*/block_sync = false/' "$dir/seed/config/config.toml"
    real "$dir/seed.log" "$dir/seed" kvstore --p2p.persistent_peers "$server"
    until_log "$dir/seed.log" "Started node" 60 || true
    sleep 3
    verdict "$v pex: a real node leads ours to another" \
        led_by "$(id_of "$dir/seed")@127.0.0.1:$p2p"
    stop_all
}

led_by() {
    "$ours" sync --home "$dir/led" --genesis "$dir/chain/genesis.json" --rules "$(rules)" --seed "$1" --allow-private \
        --exit-when-caught-up --json >"$dir/led.json" 2>"$dir/led.log" || { tail -n 15 "$dir/led.log"; return 1; }
    grep -q "connected.*${server%%@*}" "$dir/led.log" || { tail -n 15 "$dir/led.log"; return 1; }
    is_whole "$dir/led"
}

# (f) a real node with the rate limits that CometBFT comes with: limited, not slow. Meanwhile another one, whose only peer is
# ours, is not left where ours was when it heard of us
limited() {
    make big
    ports
    settings "$dir/server"
    sed -i 's/^\(send\|recv\)_rate = .*/\1_rate = 5120000/' "$dir/server/config/config.toml"
    server=$(id_of "$dir/server")@127.0.0.1:$p2p
    real "$dir/server.log" "$dir/server" persistent_kvstore
    until_log "$dir/server.log" "Started node" 60 || true
    rm -rf "$dir/relay"
    start "$dir/relay.log" "$ours" sync --home "$dir/relay" --genesis "$dir/chain/genesis.json" --rules "$(rules)" --peer "$server" \
        --listen "comet://127.0.0.1:$own"
    until_log "$dir/relay.log" "listening at" 20 || true
    id=$("$ours" status --home "$dir/relay" --json | field node_id) relay=$own
    ports
    client relayed "$id@127.0.0.1:$relay"
    verdict "$v limited: blocks of 4.5 MB at 5 MB/s, and nobody is dropped" fetched
    verdict "$v limited: a real node whose only peer is ours syncs to the end with it" switched relayed $((tip - 2)) 60
    stop_all
}

# executed: ours, from a real node, on the application at $app_at
executed() {
    rm -rf "$dir/ours"*
    sync "$dir/ours" "$server" --app "$app_at" || return 1
    grep -q '"peers_dropped":\[\]' "$dir/ours.json" || { cat "$dir/ours.json"; return 1; }
    is_whole "$dir/ours"
}

# (g) a node of another line, on a recorded chain of its version: from ours, and then to ours
line() {
    case $v in
    100) kind=p100 chain=p100 app=kvstore ;;
    *) kind=v$v chain=breadth-$v app=persistent_kvstore ;;
    esac
    dir=$work/$v/$kind
    mkdir -p "$dir/app"
    ln -sfn "$root/tests/chains/$kind" "$dir/chain"
    tip=$(tail -n 1 "$dir/chain/expected.jsonl" | field height)
    ports
    start "$dir/serve.log" "$examples/comet_serve" "$dir/chain/blocks.bin" 1 "$chain" "comet://127.0.0.1:$own"
    until_log "$dir/serve.log" '^[0-9a-f]\{40\} ' 20 || true
    id=$(sed -n 's/^\([0-9a-f]\{40\}\) .*/\1/p' "$dir/serve.log")
    client client "$id@127.0.0.1:$own" "$dir/chain/genesis.json" $app
    verdict "$v: a real node syncs from ours and switches to consensus" switched client $((tip - 1)) 90
    # Consensus starts at the last height: the node has the blocks below it.
    tip=$((tip - 1))
    server=$(id_of "$dir/client")@127.0.0.1:$p2p
    verdict "$v: byte for byte what the chain is" \
        env RUST_LOG=warn "$examples/comet_probe" "$server" "$chain" $tip 64 "expect=$dir/chain/blocks.bin"
    ports
    app_at=tcp://127.0.0.1:$own
    start "$dir/app.log" "$bin/abci-cli-$v" kvstore --address "$app_at" --persist "$dir/app"
    verdict "$v: ours syncs from a real node, on that version's application" executed
    stop_all
}

# light NAME PRIMARY WITNESS: CometBFT's light client, which answers at $light what it has verified
light() {
    ports
    light=http://127.0.0.1:$rpc
    start "$dir/$1.log" "$bin/cometbft-$v" light "$chain-$v" -p "$2" -w "$3" --height $trusted --hash "$(hash_at $trusted)" \
        --home-dir "$dir/$1" --laddr "tcp://127.0.0.1:$rpc" --trusting-period 200000h
    until_log "$dir/$1.log" "Starting RPC HTTP server" 20 || true
}

# hash_at HEIGHT: of the chain in $dir
hash_at() { grep "\"height\":$1," "$dir/chain/expected.jsonl" | field block_hash | tr a-f A-F; }

# verified NAME HEIGHT…: the light client has verified these heights, answers what belongs to them, and has no doubt about a server
verified() {
    log=$dir/$1.log
    shift
    for height in "$@"; do
        for call in commit block validators consensus_params block_results; do
            curl -s "$light/$call?height=$height" >"$dir/answer"
            if grep -q '"error"' "$dir/answer" || ! grep -q '"result"' "$dir/answer"; then
                echo "$call of height $height: $(head -c 500 "$dir/answer")"
                return 1
            fi
        done
        curl -s "$light/commit?height=$height" | grep -q "\"block_id\":{\"hash\":\"$(hash_at "$height")\"" || {
            echo "height $height: another hash than $(hash_at "$height")"
            return 1
        }
    done
    ! grep -iE "conflict|diverge|removing|bad witness|^E\[" "$log" || return 1
    echo "heights $*"
}

# (h) stock light clients, and the light client of a stock node's state sync, read our RPC
rpc() {
    make full
    ports
    settings "$dir/server"
    server=$(id_of "$dir/server")@127.0.0.1:$p2p theirs=http://127.0.0.1:$rpc mine=http://127.0.0.1:$own
    real "$dir/server.log" "$dir/server" persistent_kvstore
    until_log "$dir/server.log" "Started node" 60 || true
    rm -rf "$dir/read"* "$dir/light"*
    verdict "$v rpc: ours has the chain and its results" sync "$dir/read" "$server" --retain-results all
    start "$dir/read-http.log" "$ours" serve --home "$dir/read" --http "${mine#http://}"
    until_log "$dir/read-http.log" "$mine" 20 || true
    # ours is one block behind the node, whose last one is not proven; results are proven by the block above
    trusted=100
    heights="99 60 8 101 118 150 $((tip - 3))"
    if [ -n "$curl" ]; then
        light light-of-ours "$mine" "$theirs"
        verdict "$v rpc: a light client with us as primary and a real node as witness" verified light-of-ours $heights
        light light-of-theirs "$theirs" "$mine"
        verdict "$v rpc: a light client with a real node as primary and us as witness" verified light-of-theirs $heights
    fi
    if [ -n "$cosmjs" ]; then
        verdict "$v rpc: cosmjs reads the same from us as from a real node" node "$cosmjs/cosmjs.mjs" "$mine" "$theirs" $heights 90
    fi
    lightstate="$bin/lightstate-$v -chain $chain-$v -initial 7 -trust-height $trusted -trust-hash $(hash_at $trusted)"
    heights="101 118 150 $((tip - 3))"
    verdict "$v rpc: state sync's light client takes the same states from us alone as from a real node" \
        $lightstate -servers "$mine,$mine" -reference "$theirs,$theirs" $heights
    verdict "$v rpc: and from us beside a real node, either way round" \
        $lightstate -servers "$mine,$theirs" -reference "$theirs,$mine" $heights
    stop_all
}

curl=$(command -v curl || true)
# cosmjs: where @cosmjs/tendermint-rpc is, beside our script; nothing where it cannot be had
cosmjs=
case " $sections " in *" rpc "*)
    if command -v npm >/dev/null && mkdir -p "$work/cosmjs" && cp "$root/interop/cosmjs.mjs" "$work/cosmjs/" &&
        npm install --silent --no-audit --no-fund --prefix "$work/cosmjs" @cosmjs/tendermint-rpc@0.39.0 >"$work/npm.log" 2>&1; then
        cosmjs=$work/cosmjs
    else
        echo "SKIPPED: cosmjs needs npm and its registry"
    fi
    ;;
esac
for v in $versions; do
    for section in $sections; do $section; done
done
for v in $lines; do
    for section in $line_sections; do $section; done
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]
