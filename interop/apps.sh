#!/bin/sh
# Executes recorded chains on CometBFT's own kvstores of 0.34, 0.37 and 1.0, each behind its own ABCI socket, and of 0.38
# and 0.40 behind gRPC, and a chain
# made here whose rules go from 0.34 to 0.40, on one kvstore after the other. One line a check, then "N passed, N failed"; exit status 1 if any failed. Says plainly when it is skipped. A few seconds.
#
#   BIN, BLOCKSYNC, KEEP  as in lib.sh
#   PORT            the first of the two ports that are used; default 31900
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
port=${PORT:-31900}
socket=tcp://127.0.0.1:$port
at=$socket
. "$root/interop/lib.sh"
need "execution by CometBFT's kvstores" "$root/interop/build.sh" abci-cli-034 abci-cli-037 abci-cli-038 abci-cli-040 abci-cli-100

# app VERSION NAME FLAG…: the kvstore of a version, with the data of NAME
app() {
    version=$1 name=$2
    shift 2
    mkdir -p "$work/$name.app"
    start "$work/$name.app.log" "$bin/abci-cli-$version" kvstore --address "$socket" --persist "$work/$name.app" "$@"
}

# files CHAIN: where they are; a recorded chain goes by its name
files() { case $1 in /*) echo "$1" ;; *) echo "$root/tests/chains/$1" ;; esac }

# execute NAME CHAIN RULES FLAG…: the whole chain, as far as the rules let the application; its exit status
execute() {
    home=$work/$1 chain=$(files "$2") rules=$3
    shift 3
    status=0
    "$ours" import --home "$home" --genesis "$chain/genesis.json" --rules "$rules" --app "$at" \
        --tip-commit "$chain/tip_commit.bin" "$@" "$chain/blocks.bin" >"$home.log" 2>&1 || status=$?
    [ $status = 0 ] || tail -n 5 "$home.log"
    return $status
}

# whole NAME CHAIN: ours is at the tip, with the application's hash that CometBFT recorded
whole() {
    found=$("$ours" status --home "$work/$1" --json)
    height=$(echo "$found" | field height) hash=$(echo "$found" | field app_hash)
    last=$(tail -n 1 "$(files "$2")/expected.jsonl")
    [ "$height" = "$(echo "$last" | field height)" ] && [ "$hash" = "$(echo "$last" | field app_hash_after)" ] || {
        echo "height $height, application hash $hash; recorded: $last"
        return 1
    }
    echo "height $height, application hash $hash"
}

executed() { execute "$1" "$2" "$3" && whole "$1" "$2"; }

# given VERSION NAME CHAIN RULES: the same where the version is told
given() { execute "$2" "$3" "$4" --abci "$1" && whole "$2" "$3"; }

# stops HEIGHT COMMAND NAME ARGUMENT…: exit status 5 where the rules need another application
stops() {
    wanted=$1 status=0
    shift
    "$@" >/dev/null || status=$?
    [ $status = 5 ] && grep "for height $wanted and run again" "$work/$2.log" || {
        echo "exit status $status, expected 5"
        tail -n 5 "$work/$2.log"
        return 1
    }
}

# The chain that is made here: its files, and its rules.
history=$work/history.chain stretches=1:comet-0.34,21:comet-0.37,41:comet-0.38,61:comet-0.40

# Its server, once there is one, is $peer.
serve_history() {
    start "$work/serve.log" "$ours" serve --home "$work/history" --listen "comet://127.0.0.1:$((port + 1))"
    n=0
    until grep -q "listening at" "$work/serve.log" || [ $n = 100 ]; do n=$((n + 1)) && sleep 0.1; done
    peer=$("$ours" status --home "$work/history" --json | field node_id)@127.0.0.1:$((port + 1))
}

# follow NAME: syncs it from the server, as far as the rules let the application; the exit status
follow() {
    status=0
    "$ours" sync --home "$work/$1" --genesis "$history/genesis.json" --rules "$stretches" --app "$at" --peer "$peer" \
        --exit-when-caught-up >"$work/$1.log" 2>&1 || status=$?
    [ $status = 0 ] || tail -n 5 "$work/$1.log"
    return $status
}

# followed NAME: up to the last height that can be proven, with the hash that the chain's own header has
followed() {
    follow "$1" || return 1
    found=$("$ours" status --home "$work/$1" --json)
    height=$(echo "$found" | field height) hash=$(echo "$found" | field app_hash)
    wanted=$(grep "\"height\":$height," "$history/expected.jsonl" | field app_hash_after)
    [ "$height" -ge 79 ] && [ "$hash" = "$wanted" ] || { echo "height $height of 80, hash $hash, not $wanted"; return 1; }
    echo "height $height, application hash $hash"
}

for pair in 034:v034 037:v037 100:p100; do
    v=${pair%:*} of=${pair#*:}
    case $v in 034) release=0.34 ;; 037) release=0.37 ;; *) release=1.0 ;; esac
    app $v "by-rules-$v"
    verdict "$release: a chain on its own kvstore, found by the rules" executed "by-rules-$v" "$of" "comet-$release"
    stop_all
    app $v "given-$v"
    verdict "$release: the same, with --abci" given "$release" "given-$v" "$of" "comet-$release"
    stop_all
done

# The port is the same: only the name of the address tells.
at=grpc://${socket#tcp://}
for v in 038 040; do
    app $v "grpc-$v" --abci grpc
    verdict "0.38: a chain on the kvstore of $v behind gRPC" executed "grpc-$v" full-038 comet-0.38
    stop_all
done
app 037 grpc-037 --abci grpc
verdict "0.38: the gRPC of 0.37 is another service" stops 7 execute grpc-037 full-038 comet-0.38
stop_all
at=$socket

# Above the last evidence: the kvstore forgets its validators' addresses with its process, and then punishes nobody.
app 034 change
verdict "0.34 to 0.37: stops where the rules change" stops 145 execute change v034 1:comet-0.34,145:comet-0.37
verdict "0.34 to 0.37: stops again with the old application" stops 145 execute change v034 1:comet-0.34,145:comet-0.37
stop_all
app 037 change
verdict "0.34 to 0.37: goes on with the new application" executed change v034 1:comet-0.34,145:comet-0.37
stop_all
app 100 wrong
verdict "0.34: another version's application is named" stops 1 execute wrong v034 comet-0.34
stop_all

# Their kvstores count transactions alike and read each other's files. Votes for nil tell 0.40's block times from 0.38's.
"$ours" bench --make "$history" --app kvstore-0.34 --rules "$stretches" --chain-id history --heights 80 --validators 5 \
    --txs 2 --tx-size 20 --absent 50 --nil 80 --late-rounds 50 >"$work/history.make" 2>&1 || cat "$work/history.make"
app 034 imported
verdict "0.34 to 0.40: an import stops at the second stretch" stops 21 execute history "$history" "$stretches"
stop_all
app 037 imported
verdict "0.34 to 0.40: and at the third" stops 41 execute history "$history" "$stretches"
stop_all
app 038 imported
verdict "0.34 to 0.40: 0.38's kvstore is of the last two, and ends with the hash" executed history "$history" "$stretches"
stop_all
serve_history
for stretch in 034:21 037:41 040; do
    app "${stretch%:*}" synced
    case $stretch in
    *:*) verdict "0.34 to 0.40: a sync stops at ${stretch#*:}" stops "${stretch#*:}" follow synced ;;
    *) verdict "0.34 to 0.40: 0.40's kvstore too, and a sync ends with the hash" followed synced ;;
    esac
    kill "$last" && wait "$last" 2>/dev/null || true
done
stop_all

echo "$passed passed, $failed failed"
[ $failed = 0 ]
