#!/usr/bin/env bash
# Builds the embedder, runs it, and holds the number of crates that it compiles against the README.
set -euo pipefail
cd "$(dirname "$0")/../.."
manifest=tests/embedder/Cargo.toml

# Height 245 is the last one that the file can prove; the hash is that of its line in `expected.jsonl`.
cargo run --quiet --locked --manifest-path "$manifest" --target-dir target -- \
    tests/chains/full-038 245 e60f000000000000

# The embedder itself is left out. Build scripts and macros count: they are compiled too.
crates=$(cargo tree --locked --manifest-path "$manifest" --edges normal,build --prefix none --no-dedupe |
    sed 's/ (.*//' | sort -u | grep -vc '^embedder ')
if ! tr "\n" " " <README.md | grep -q "compiles $crates crates"; then
    echo "an embedder compiles $crates crates; README.md says:" >&2
    grep -o 'compiles [0-9]* crates' README.md >&2 || echo "(no number)" >&2
    exit 1
fi
echo "an embedder without default features compiles $crates crates"
