#!/bin/sh
# Builds a minimal Cosmos SDK application, and the tool that compares databases: 040 is SDK 0.55 on CometBFT 0.40, 038 is SDK
# 0.53 on CometBFT 0.38. A quarter of an hour each on two cores the first time; Go's build cache makes it seconds later.
#
#   BIN=DIR    where the binaries go; default interop/bin
#   VERSIONS   default "040"
set -eu
here=$(cd "$(dirname "$0")" && pwd)
bin=${BIN:-$here/../bin}
mkdir -p "$bin"
bin=$(cd "$bin" && pwd)
cd "$here/app"
for v in ${VERSIONS:-040}; do
    set --
    [ "$v" = 040 ] || set -- -modfile="v$v.mod" -tags "v$v"
    go build "$@" -o "$bin/sdkapp-$v" .
    go build "$@" -o "$bin/homediff-$v" ./homediff
done
