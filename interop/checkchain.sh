#!/bin/sh
# Proves that our generator is exact: chains of every kind it makes, judged block by block by CometBFT's own code, 0.38.25 and 0.40.0.
#
#   BIN, BLOCKSYNC, KEEP  as in lib.sh
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/interop/lib.sh"
need "the check of our generator" "$root/interop/build.sh" checkchain-038 checkchain-040

# chain NAME VERSIONS APP FLAGS…
chain() {
    name=$1 versions=$2 app=$3
    shift 3
    "$ours" bench --make "$work/$name" --chain-id "$name" --app "$app" "$@" 2>/dev/null
    for v in $versions; do
        verdict "$name, $v" "$bin/checkchain-$v" -app "$app" "$work/$name"
    done
    rm -rf "${work:?}/$name"
}

both="038 040"
small="--txs 3 --tx-size 40 --vary"
all="--validators 7 --initial-height 7 --heights 300 --spread-power --absent 80 --nil 80 --late-rounds 200 --churn-every 3
    --extensions-from 60 --big-every 20"
chain plain "$both" kvstore --validators 7 --heights 200 --spread-power $small
chain one "$both" kvstore --validators 1 --heights 50 $small
chain absent "$both" kvstore --validators 10 --heights 200 --absent 150 --late-rounds 200 $small
chain churn "$both" kvstore --validators 20 --keys 60 --heights 600 --churn-every 2 --absent 100 --spread-power --late-rounds 100 --txs 1
chain turnover "$both" kvstore --validators 10 --heights 200 --turnover-every 7 --txs 1
chain extensions "$both" kvstore --validators 10 --heights 100 --extensions-from 1 --extension-size 1000
chain big "$both" kvstore --validators 4 --heights 9 --big-every 2 --big-bytes 4500000 --txs 1
chain huge "$both" kvstore --validators 4 --heights 3 --big-every 2 --big-bytes 64000000 --txs 1
chain hundred "$both" kvstore --validators 100 --heights 300
chain noop "$both" noop --validators 7 --heights 200 --absent 100
chain full-038 038 kvstore $all $small --seed 3
chain full-040 040 kvstore $all $small --seed 4 --rules comet-0.40
echo "$passed passed, $failed failed"
[ $failed = 0 ]
