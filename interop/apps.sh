#!/bin/sh
# Executes recorded chains on CometBFT's own kvstores of 0.34, 0.37 and 1.0, each behind its own ABCI socket. One line a
# check, then "N passed, N failed"; exit status 1 if any failed. Says plainly when it is skipped. A few seconds.
#
#   BIN, BLOCKSYNC, KEEP  as in lib.sh
#   PORT            the port that is used; default 31900
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
at=tcp://127.0.0.1:${PORT:-31900}
. "$root/interop/lib.sh"
need "execution by CometBFT's kvstores" "$root/interop/build.sh" abci-cli-034 abci-cli-037 abci-cli-100

# app VERSION NAME: the kvstore of a version, with the data of NAME
app() {
    mkdir -p "$work/$2.app"
    start "$work/$2.app.log" "$bin/abci-cli-$1" kvstore --address "$at" --persist "$work/$2.app"
}

# execute NAME CHAIN RULES FLAG…: the whole chain, as far as the rules let the application; its exit status
execute() {
    home=$work/$1 chain=$root/tests/chains/$2 rules=$3
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
    last=$(tail -n 1 "$root/tests/chains/$2/expected.jsonl")
    [ "$height" = "$(echo "$last" | field height)" ] && [ "$hash" = "$(echo "$last" | field app_hash_after)" ] || {
        echo "height $height, application hash $hash; recorded: $last"
        return 1
    }
    echo "height $height, application hash $hash"
}

executed() { execute "$1" "$2" "$3" && whole "$1" "$2"; }

# given VERSION NAME CHAIN RULES: the same where the version is told
given() { execute "$2" "$3" "$4" --abci "$1" && whole "$2" "$3"; }

# stops NAME CHAIN RULES HEIGHT: exit status 5 where the rules need another application
stops() {
    status=0
    execute "$1" "$2" "$3" >/dev/null || status=$?
    [ $status = 5 ] && grep "for height $4 and run again" "$work/$1.log" || {
        echo "exit status $status, expected 5"
        tail -n 5 "$work/$1.log"
        return 1
    }
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

# Above the last evidence: the kvstore forgets its validators' addresses with its process, and then punishes nobody.
app 034 change
verdict "0.34 to 0.37: stops where the rules change" stops change v034 1:comet-0.34,145:comet-0.37 145
verdict "0.34 to 0.37: stops again with the old application" stops change v034 1:comet-0.34,145:comet-0.37 145
stop_all
app 037 change
verdict "0.34 to 0.37: goes on with the new application" executed change v034 1:comet-0.34,145:comet-0.37
stop_all
app 100 wrong
verdict "0.34: another version's application is named" stops wrong v034 comet-0.34 1
stop_all

echo "$passed passed, $failed failed"
[ $failed = 0 ]
