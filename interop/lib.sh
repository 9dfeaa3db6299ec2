# Shared by the interop scripts, which set $root, the repository, and source it: where the binaries are, a work directory,
# processes that end with the script, checks that are counted.
#
#   BIN=DIR         where the Go binaries are, or go when they are built; default interop/bin
#   BLOCKSYNC=FILE  our binary; default target/debug/blocksync, built if missing
#   KEEP=DIR        the work directory, which then stays; default a temporary one

bin=${BIN:-$root/interop/bin}
ours=${BLOCKSYNC:-$root/target/debug/blocksync}
work=${KEEP:-$(mktemp -d)}
mkdir -p "$work"
pids=
passed=0
failed=0

# stop_all: ends what `start` has started
stop_all() {
    for p in $pids; do kill "$p" 2>/dev/null || true; done
    for p in $pids; do wait "$p" 2>/dev/null || true; done
    pids=
}

cleanup() {
    stop_all
    [ -n "${KEEP:-}" ] || rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

# need WHAT SCRIPT NAME…: Go binaries of these names in $bin, and ours. The script builds them where one is missing; where
# there is no go either, says that WHAT is skipped and ends.
need() {
    what=$1 build=$2
    shift 2
    for name; do
        [ -x "$bin/$name" ] && continue
        if ! command -v go >/dev/null; then
            echo "SKIPPED: $what needs go (not found), or its binaries in $bin"
            exit 0
        fi
        BIN=$bin "$build"
        break
    done
    [ -x "$ours" ] || (cd "$root" && cargo build --bin blocksync)
}

# start LOG COMMAND…: in the background, until stop_all; its process id is in $last
start() {
    log=$1
    shift
    : >"$log" # an old one would be read before the shell has come to it
    "$@" >"$log" 2>&1 &
    last=$!
    pids="$pids $last"
}

# verdict NAME COMMAND…: the command's last line is the detail; after a failure its whole output is shown
verdict() {
    name=$1
    shift
    if "$@" >"$work/out" 2>&1; then
        passed=$((passed + 1))
        echo "PASS $name: $(tail -n 1 "$work/out")"
    else
        failed=$((failed + 1))
        echo "FAIL $name"
        tail -n 20 "$work/out" | sed 's/^/    /'
    fi
}

# field NAME: of one line of JSON on standard input
field() { sed -n "s/.*\"$1\": *\"\{0,1\}\([^\",}]*\).*/\1/p" | head -n 1; }

# settings HOME: several nodes on one host, no rate limit, ports $p2p and $rpc
settings() {
    sed -i -e "/^\[rpc\]/,/^\[/s#^laddr = .*#laddr = \"tcp://127.0.0.1:$rpc\"#" \
        -e "/^\[p2p\]/,/^\[/s#^laddr = .*#laddr = \"tcp://127.0.0.1:$p2p\"#" \
        -e 's/^allow_duplicate_ip = .*/allow_duplicate_ip = true/' -e 's/^addr_book_strict = .*/addr_book_strict = false/' \
        -e 's/^indexer = .*/indexer = "null"/' -e 's/^pprof_laddr = .*/pprof_laddr = ""/' \
        -e 's/^send_rate = .*/send_rate = 1000000000/' -e 's/^recv_rate = .*/recv_rate = 1000000000/' \
        "$1/config/config.toml"
}

# hundred: a node of version $v at $p2p and $rpc, for measurements: it serves $heights blocks of 100 validators, which are in
# $work/chain, too. Its address is in $peer, its process id in $server.
hundred() {
    [ -x "$ours" ] || (cd "$root" && cargo build --release --bin blocksync)
    need "the figures" "$root/interop/build.sh" "chaingen-$v" "cometbft-$v"
    echo "$(nproc) cores, load $(cut -d' ' -f1-3 /proc/loadavg); $heights blocks of 100 validators, 16 transactions of 400 bytes"
    "$bin/chaingen-$v" -out "$work/chain" -home "$work/server" -chain-id figures -validators 100 -heights "$heights" -txs 16 \
        -txsize 400
    settings "$work/server"
    start "$work/server.log" "$bin/cometbft-$v" node --home "$work/server" --proxy_app persistent_kvstore
    server=$last
    peer=$("$bin/cometbft-$v" show-node-id --home "$work/server")@127.0.0.1:$p2p
    until grep -q "Started node" "$work/server.log"; do sleep 0.2; done
    sleep 2
}

# ticks PID: processor time of a process, in hundredths of a second
ticks() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }

now() { date +%s%N; }

# measure NAME BEGIN END COMMAND…: runs a node beside the server $server and the application $app (empty: it has none of its
# own), counts from when BEGIN is in its log until END is, and ends node and application
measure() {
    name=$1 said=$work/$1$run.log begin=$2 end=$3 begun= spent=0 apps=0
    shift 3
    served=$(ticks "$server")
    start "$said" "$@"
    node=$last
    while ! grep -q "$end" "$said"; do
        kill -0 "$node" || grep -q "$end" "$said" || { tail -n 5 "$said" && exit 1; }
        [ -n "$begun" ] || ! grep -q "$begin" "$said" || begun=$(now)
        # A process that has ended has no time to be read any more.
        spent=$(ticks "$node" 2>/dev/null || echo "$spent")
        sleep 0.02
    done
    [ -n "$begun" ] || { echo "$name was done before it was looked at: more HEIGHTS are needed" && exit 1; }
    took=$(($(now) - begun))
    spent=$(ticks "$node" 2>/dev/null || echo "$spent")
    [ -z "$app" ] || apps=$(ticks "$app")
    echo "$name $((heights * 1000000000 / took)) $spent $apps $(($(ticks "$server") - served))" >>"$work/figures"
    kill "$node" $app 2>/dev/null || true
    wait "$node" $app 2>/dev/null || true
}

# compare: one line for each of the three measurements of run $run, ours, alone and stock. How much of the time the application
# computes says whether it is waited for, also where the machine is faster in one measurement than in another.
compare() {
    awk -v run="$run" -v n="$heights" '
        NR > 3 * (run - 1) {
            rate[$1] = $2
            cpu[$1] = sprintf("%.0f / %.0f / %.0f us", $3 * 1e4 / n, $4 * 1e4 / n, $5 * 1e4 / n)
            busy[$1] = $2 * $4 / n
        }
        END {
            for (who in rate)
                printf "%-6s %5d blocks/s, %.2f of alone; processor time a block, node / application / server: %s; application at work %.0f %%\n",
                    who, rate[who], rate[who] / rate["alone"], cpu[who], busy[who]
            printf "ours is %.1f times the stock node\n", rate["ours"] / rate["stock"]
        }' "$work/figures"
}

# compare_all: $RUNS times (3) ours, the application alone and a stock node, each up to $until. The script has the functions
# `empty_application`, which sets $app, `sync`, which prints our command for this run, and `stock`, which measures the stock node.
compare_all() {
    run=0
    while [ $run -lt "${RUNS:-3}" ]; do
        run=$((run + 1))
        empty_application
        measure ours ' connected ' "height $until: " $(sync)
        empty_application
        measure alone 'executing the stored blocks' "height $until: " $(sync)
        stock
        compare
    done
}
