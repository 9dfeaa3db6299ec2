#!/bin/sh
# Builds the Debian package: ./contrib/debian/build.sh [PROFILE]. Prints the package's path. With
# cargo-deb (`cargo install cargo-deb@3.8.0 --locked`); the profile `dev` is for tests, and does
# without where it is not installed. With `BUILT=1` the program is not built anew.
set -eu
cd "$(dirname "$0")/../.."
profile=${1:-release}
# What is released says of which commit it is; a test does not compile anew for it.
[ "$profile" = dev ] || export BLOCKSYNC_COMMIT="$(git rev-parse --short HEAD)"
[ "${BUILT:-}" = 1 ] || nice cargo build --quiet --profile "$profile" -p blocksync-cli
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
if [ "$profile" = dev ] && ! command -v cargo-deb >/dev/null 2>&1; then
    contrib/debian/assemble.sh "$dir" target/blocksync.deb
else
    cargo deb -p blocksync-cli --no-build --profile "$profile" --output target/blocksync.deb >&2
fi
echo target/blocksync.deb
