#!/usr/bin/env bash
# Looks at the status page in headless Chromium: it loads and lives, shows a liar's verdict, calls
# no other host, writes no error, and axe-core finds nothing.
#
#   contrib/page/check.sh [DIRECTORY]     writes screenshots there
#
# Skipped with one line where there is no browser or no npm. `CHROMIUM` names the browser; with
# `INSTALL=1` the distribution's is installed, and with `BUILT=1` the example is not built anew.
set -euo pipefail
shots=${1:+$(realpath "$1")}
cd "$(dirname "$0")/../.."
skip() { echo "the page in a browser: SKIPPED, $*"; exit 0; }

if [ "${INSTALL:-}" = 1 ] && ! command -v chromium >/dev/null 2>&1; then
    # A font as well: without one the page has no text to look at.
    { apt-get update -qq &&
        apt-get install -y -qq -o DPkg::Lock::Timeout=600 --no-install-recommends chromium fonts-dejavu-core; } \
        >/dev/null 2>&1 || skip "chromium cannot be installed"
fi
browser=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || true)}
[ -n "$browser" ] || skip "there is no chromium"
command -v npm >/dev/null 2>&1 || skip "there is no npm"
modules=${CARGO_TARGET_DIR:-target}/page
mkdir -p "$modules"
[ -d "$modules/node_modules/axe-core" ] ||
    npm install --silent --no-audit --no-fund --no-save --prefix "$modules" \
        axe-core@4.14.1 playwright-core@1.65.1 || skip "npm cannot fetch axe-core and playwright-core"

[ "${BUILT:-}" = 1 ] || nice cargo build --quiet -p blocksync-http --example live_page
export NODE_PATH=$PWD/$modules/node_modules
node contrib/page/check.cjs "$browser" "${CARGO_TARGET_DIR:-target}/debug/examples/live_page" "$shots"
