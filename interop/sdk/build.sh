#!/bin/sh
# Builds a minimal Cosmos SDK application (SDK 0.55 on CometBFT 0.40), and the tool that compares databases. A quarter of an hour on two cores the
# first time; Go's build cache makes it seconds later.
#
#   BIN=DIR   where the binaries go; default interop/bin
set -eu
here=$(cd "$(dirname "$0")" && pwd)
bin=${BIN:-$here/../bin}
mkdir -p "$bin"
bin=$(cd "$bin" && pwd)
cd "$here/app"
go build -o "$bin/sdkapp-040" .
go build -o "$bin/homediff-040" ./homediff
