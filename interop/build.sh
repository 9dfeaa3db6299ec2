#!/bin/sh
# Builds CometBFT's nodes and the command that has their kvstore, of 0.34.35, 0.37.18, 0.38.25, 0.40.0 and 1.0.1, and the
# chain generator of 0.38.25 and 0.40.0, into $BIN (default: interop/bin). Slow the first time. VERSIONS and LINES_OF as in
# run.sh: 039 builds those of 0.39.4.
set -eu
cd "$(dirname "$0")"
bin=${BIN:-$PWD/bin}
mkdir -p "$bin"
export GOFLAGS="-buildvcs=false -p=${GOJOBS:-1}"
for v in ${VERSIONS-038 040}; do
    mod=go.mod
    [ $v = 038 ] || mod=v$v.mod
    for cmd in "cometbft github.com/cometbft/cometbft/cmd/cometbft" "abci-cli github.com/cometbft/cometbft/abci/cmd/abci-cli" "chaingen ./cmd/chaingen" "checkchain ./cmd/checkchain" "lightstate ./cmd/lightstate"; do
        set -- $cmd
        case $2 in ./*) [ -d "$2" ] || continue ;; esac
        nice go build -modfile=$mod -trimpath -o "$bin/$1-$v" "$2"
    done
done
# 0.34 is a module of the old name.
for v in ${LINES_OF-034 037 100}; do
    module=github.com/cometbft/cometbft
    [ $v != 034 ] || module=github.com/tendermint/tendermint
    nice go build -modfile=v$v.mod -trimpath -o "$bin/cometbft-$v" $module/cmd/cometbft
    nice go build -modfile=v$v.mod -trimpath -o "$bin/abci-cli-$v" $module/abci/cmd/abci-cli
done
