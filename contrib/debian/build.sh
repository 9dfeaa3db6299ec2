#!/bin/sh
# Builds the Debian package: ./contrib/debian/build.sh [PROFILE], with cargo-deb installed. Prints the package's path.
set -eu
cd "$(dirname "$0")/../.."
profile=${1:-release}
nice cargo build --quiet --profile "$profile" -p blocksync-cli
dir=target/$profile
[ "$profile" != dev ] || dir=target/debug
# The program writes its own manual pages and completions.
rm -rf target/documents
mkdir -p target/documents/man target/documents/completions
"$dir/blocksync" man target/documents/man
gzip -9nf target/documents/man/*.1
for shell in bash zsh fish; do
    "$dir/blocksync" completions "$shell" > "target/documents/completions/$shell"
done
cargo deb -p blocksync-cli --no-build --profile "$profile" --output target/blocksync.deb >&2
echo target/blocksync.deb
