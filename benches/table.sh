#!/bin/sh
# The whole table of figures, as Markdown on standard output: one line a kind of sync, each with the machine's limit for the same
# bytes in the same run. Measure when nothing else runs; about 40 minutes on 2 cores.
#
#   BLOCKSYNC=FILE  our binary; default target/release/blocksync, built if missing
#   RUNS            alternating runs of each kind, of which the best counts; default 5
#   CHAINS=DIR      where chains are made, and found again; default a temporary directory
#   ONLY=PATTERN    only kinds whose name matches this grep pattern
#   COMETBFT=FILE   a CometBFT 0.40 binary: it syncs a chain of 100 validators from itself, and one more line compares
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
ours=${BLOCKSYNC:-$root/target/release/blocksync}
[ -x "$ours" ] || (cd "$root" && cargo build --release --bin blocksync)
work=${CHAINS:-$(mktemp -d)}
mkdir -p "$work"
trap '[ -n "${CHAINS:-}" ] || rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

# chain NAME OPTIONS…: makes it unless it is there
chain() {
    name=$1
    shift
    [ -f "$work/$name/blocks.bin" ] || "$ours" bench --make "$work/$name" "$@" 2>/dev/null
}

# field JSON PATH: a number, as jq would give it
field() {
    python3 -c 'import json,sys
value = json.loads(sys.argv[1])
for key in sys.argv[2].split("."): value = (value or {}).get(key)
print("" if value is None else value)' "$1" "$2"
}

# kind NAME CHAIN OPTIONS…: measures it and prints its line
kind() {
    name=$1
    from=$2
    shift 2
    printf '%s\n' "$name" | grep -q "${ONLY:-}" || return 0
    json=$("$ours" bench --chain "$work/$from" --runs "${RUNS:-5}" --work "$work" --json "$@" 2>/dev/null | tail -n 1)
    for path in blocks block_bytes ours.blocks_per_second limit.receive limit.hash limit.append of_the_limit of_the_limit_middle_run \
        ours.client_cpu_us_per_block ours.server_cpu_us_per_block ours.peak_memory_bytes ours.bottleneck times_cometbft; do
        eval "$(printf '%s' "$path" | tr . _)=\$(field \"\$json\" $path)"
    done
    awk -v name="$name" -v b="$block_bytes" -v r="$ours_blocks_per_second" -v l1="$limit_receive" -v l2="$limit_hash" \
        -v l3="$limit_append" -v of="$of_the_limit" -v mid="$of_the_limit_middle_run" -v c="$ours_client_cpu_us_per_block" -v s="$ours_server_cpu_us_per_block" \
        -v m="$ours_peak_memory_bytes" -v why="$ours_bottleneck" -v t="$times_cometbft" 'BEGIN {
            if (t != "") name = name sprintf("; %.0f times CometBFT", t)
            printf "| %s | %.0f | %.0f | %.0f / %.0f / %.0f | %.2f | %.2f | %.0f | %.0f | %.0f | %s |\n",
                name, r, r * b / 1e6, l1, l2, l3, of, mid, c, s, m / 1048576, why }'
}

echo "$(nproc) cores, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1); load before: $(cut -d' ' -f1-3 /proc/loadavg)"
echo
echo '| kind | blocks/s | MB/s | limit: receive / and hash / and append | of it | in the middle run | client µs a block | servers µs | peak MiB | bottleneck |'
echo '|---|---|---|---|---|---|---|---|---|---|'

chain hundred --heights 10000
kind '100 validators, 19 KB, anchored' hundred
kind '100 validators, 19 KB, every-commit' hundred --proof every-commit
kind '100 validators, 19 KB, anchored, encrypted' hundred --encrypted
kind '100 validators, 19 KB, every-commit, encrypted' hundred --encrypted --proof every-commit
kind '100 validators, 19 KB, anchored, 4 servers' hundred --servers 4
kind '100 validators, 19 KB, anchored, 16 servers' hundred --servers 16
kind '100 validators, 19 KB, anchored, 50 ms round trip' hundred --rtt 50ms
kind '100 validators, 19 KB, anchored, 50 ms, 4 servers' hundred --rtt 50ms --servers 4
if [ -n "${COMETBFT:-}" ]; then
    chain hundred040 --heights 3000 --rules comet-0.40
    kind '100 validators, 19 KB, anchored, 3 000 blocks' hundred040 --rules comet-0.40 --cometbft "$COMETBFT"
    kind '100 validators, 19 KB, every-commit, 3 000 blocks' hundred040 --rules comet-0.40 --cometbft "$COMETBFT" --proof every-commit
fi
for key in ed25519 secp256k1 secp256k1eth ml_dsa_65 bls12_381; do
    rules=comet-0.40
    [ $key != bls12_381 ] || rules=comet-1.0 # needs a build with the feature `bls`
    chain "key-$key" --heights 1000 --key-type $key --rules $rules || continue
    kind "100 validators of $key, anchored" "key-$key" --rules $rules
    kind "100 validators of $key, every-commit" "key-$key" --rules $rules --proof every-commit
done
chain noop --heights 10000 --app noop
kind '100 validators, 19 KB, noop, anchored' noop --app noop
for validators in 1 4 150; do
    chain "v$validators" --heights 10000 --validators $validators
    kind "$validators validator(s), 10 transactions of 800 bytes, anchored" "v$validators"
    kind "$validators validator(s), 10 transactions of 800 bytes, every-commit" "v$validators" --proof every-commit
done
chain small --heights 20000 --validators 4 --txs 1 --tx-size 100
kind '4 validators, 1 KB, anchored' small
kind '4 validators, 1 KB, every-commit' small --proof every-commit
chain wide --heights 2000 --txs 10 --tx-size 18500
kind '100 validators, 200 KB, anchored' wide
kind '100 validators, 200 KB, every-commit' wide --proof every-commit
chain big --heights 100 --validators 4 --txs 45 --tx-size 100000
kind '4 validators, 4.5 MB, anchored' big
kind '4 validators, 4.5 MB, every-commit' big --proof every-commit
chain huge --heights 12 --validators 4 --txs 640 --tx-size 100000
kind '4 validators, 64 MB, anchored' huge
chain extended --heights 3000 --extensions-from 1
kind '100 validators with vote extensions, anchored' extended
kind '100 validators with vote extensions, every-commit' extended --proof every-commit
chain hundred100k --heights 100000
kind '100 validators, 19 KB, anchored, 100 000 blocks' hundred100k
