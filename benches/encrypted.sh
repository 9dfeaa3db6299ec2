#!/bin/sh
# What encryption costs: one connection over comet:// against the same over plain://, as a ratio (issue 6 asks for 0.6 with 2 cores).
# One chain, ROUNDS pairs of runs that alternate, the best of each kind counts. Measure when nothing else runs.
#
#   BLOCKSYNC=FILE  our binary; default target/release/blocksync, built if missing
#   CHAIN=DIR       a chain that `blocksync bench --make` has made; default one of HEIGHTS (10000) blocks of VALIDATORS (100)
#   ROUNDS          default 5;  WORK=DIR  on the disk that is to be measured, default a temporary directory
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
ours=${BLOCKSYNC:-$root/target/release/blocksync}
[ -x "$ours" ] || (cd "$root" && cargo build --release --bin blocksync)
work=$(mktemp -d "${WORK:-${TMPDIR:-/tmp}}/encrypted.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
chain=${CHAIN:-}
if [ -z "$chain" ]; then
    chain=$work/chain
    "$ours" bench --make "$chain" --heights "${HEIGHTS:-10000}" --validators "${VALIDATORS:-100}" >&2
fi
echo "$(nproc) cores, load $(cut -d' ' -f1-3 /proc/loadavg)"

# field NAME: of what ours did, from the line of JSON on standard input
field() { sed -n "s/.*\"ours\":{[^}]*\"$1\":\([0-9.e+]*\).*/\1/p"; }

# once WAY FLAG…: one run; its rate and processor time of both sides go into a file
once() {
    way=$1
    shift
    "$ours" bench --chain "$chain" --work "$work" --runs 1 --json "$@" 2>/dev/null >"$work/json"
    rate=$(field blocks_per_second <"$work/json")
    client=$(field client_cpu_us_per_block <"$work/json")
    server=$(field server_cpu_us_per_block <"$work/json")
    echo "$rate $client $server" >>"$work/$way"
    printf '%-10s %6.0f blocks/s, processor time a block: client %.0f us, server %.0f us\n' "$way" "$rate" "$client" "$server"
}

round=0
while [ $round -lt "${ROUNDS:-5}" ]; do
    round=$((round + 1))
    once plain
    once encrypted --encrypted
done
best() { sort -g "$work/$1" | tail -n 1 | cut -d' ' -f1; }
awk -v e="$(best encrypted)" -v p="$(best plain)" 'BEGIN { printf "best: encrypted %.0f, plain %.0f blocks/s: %.2f\n", e, p, e / p }'
