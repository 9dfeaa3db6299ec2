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
