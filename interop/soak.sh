#!/bin/sh
# A node of ours that follows a live validator while strangers come, flood and go: its memory, open files and log must not grow.
# A line a minute, then a verdict; exit status 1 if anything grew, or if it fell behind.
#
#   BIN, BLOCKSYNC (here the release build), KEEP  as in lib.sh;  MINUTES default 30;  STRANGERS default 50;  PORT default 32300
#
# Not part of .ci/run: half an hour.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
minutes=${MINUTES:-30}
v=040
p2p=${PORT:-32300}
rpc=$((p2p + 1)) comet=$((p2p + 2)) plain=$((p2p + 3))
BLOCKSYNC=${BLOCKSYNC:-$root/target/release/blocksync}
. "$root/interop/lib.sh"
[ -x "$ours" ] || (cd "$root" && cargo build --release --bin blocksync)
need "the soak" "$root/interop/build.sh" "cometbft-$v"

"$bin/cometbft-$v" init --home "$work/validator" >/dev/null 2>&1
settings "$work/validator"
sed -i 's/^timeout_commit = .*/timeout_commit = "500ms"/' "$work/validator/config/config.toml"
start "$work/validator.log" "$bin/cometbft-$v" node --home "$work/validator" --proxy_app persistent_kvstore
peer=$("$bin/cometbft-$v" show-node-id --home "$work/validator")@127.0.0.1:$p2p
until grep -q "Started node" "$work/validator.log"; do sleep 0.2; done
start "$work/ours.log" "$ours" sync --home "$work/ours" --genesis "$work/validator/config/genesis.json" --rules comet-0.40 \
    --peer "$peer" --listen "comet://127.0.0.1:$comet" --listen "plain://127.0.0.1:$plain"
node=$last
until grep -q "listening at" "$work/ours.log"; do sleep 0.2; done
start "$work/strangers.log" python3 "$root/interop/soak.py" "$comet" "$plain" "${STRANGERS:-50}" $((minutes * 60))

# committed: the validator's height, and ours
committed() { sed -n 's/.*ommitted state.* height=\([0-9]*\) .*/\1/p' "$work/validator.log" | tail -n 1; }
applied() { "$ours" status --home "$work/ours" --json | field height; }

minute=0
while [ $minute -lt "$minutes" ]; do
    sleep 60
    minute=$((minute + 1))
    kill -0 "$node" || { tail -n 5 "$work/ours.log" && exit 1; }
    memory=$(awk '/VmRSS/ { print $2 }' "/proc/$node/status")
    files=$(ls "/proc/$node/fd" | wc -l)
    theirs=$(committed)
    echo "$minute min: $((memory / 1024)) MB, $files files, log $(($(wc -c <"$work/ours.log") / 1024)) KB, height $(applied) of $theirs"
    echo "$memory $files $theirs $(applied)" >>"$work/minutes"
done

# grew: the last half against the first half, without its first two minutes, in which caches fill
flat() {
    awk -v half=$((minutes / 2)) '
        NR > 2 && NR <= half { if ($1 > m1) m1 = $1; if ($2 > f1) f1 = $2 }
        NR > half { if ($1 > m2) m2 = $1; if ($2 > f2) f2 = $2 }
        $4 + 5 < $3 { print "behind: height " $4 " of " $3; bad = 1 }
        END {
            printf "at most %d MB and %d files in the first half, %d MB and %d files in the second\n", m1 / 1024, f1, m2 / 1024, f2
            exit bad || m2 > 1.1 * m1 + 4096 || f2 > f1 + 20
        }' "$work/minutes"
}
small_log() {
    wc -c "$work/ours.log"
    [ "$(wc -c <"$work/ours.log")" -lt 1000000 ]
}
whole() {
    kill -INT "$node" && wait "$node" && "$ours" verify --home "$work/ours" && cat "$work/strangers.log"
}
verdict "memory and open files are flat" flat
verdict "the log is below 1 MB" small_log
verdict "the store is whole" whole
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
