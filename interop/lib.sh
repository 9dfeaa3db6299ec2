# Shared by the interop scripts, which source it once their work directory is in $work: processes that end with
# the script, checks that are counted.

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
