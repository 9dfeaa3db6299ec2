#!/bin/sh
# Installs, starts, upgrades, removes and purges the package in a directory of its own: ./contrib/debian/test.sh PACKAGE.
# Without systemd the service's own command is started, as its user where that is allowed. Needs root and apt-get; nothing of this
# system is left changed but the packages' database, from which the package is gone at the end.
set -eu
package=$(realpath "$1")
say() { echo "package: $*"; }
# apt-get waits where dpkg fails at once: another package manager may be at work on this system.
apt() { DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=600 "$@" >/dev/null; }
fail() { echo "package: $*" >&2; exit 1; }
cd "$(dirname "$0")/../.."

apt install --reinstall --no-install-recommends "$package"
for file in /usr/bin/blocksync /lib/systemd/system/blocksync.service /etc/default/blocksync \
    /usr/share/man/man1/blocksync.1.gz /usr/share/man/man1/blocksync-sync.1.gz \
    /usr/share/bash-completion/completions/blocksync /usr/share/zsh/vendor-completions/_blocksync \
    /usr/share/fish/vendor_completions.d/blocksync.fish; do
    [ -e "$file" ] || [ -e "/usr$file" ] || fail "$file is not installed"
done
getent passwd blocksync >/dev/null || fail "the user is not made"
[ "$(stat -c %U:%a /var/lib/blocksync)" = blocksync:750 ] || fail "the home is not the user's"
say installed

# The unit's own command line, on a recorded chain, told to end by itself.
chain=crates/testkit/chains/full-038
[ -d "$chain" ] || chain=tests/chains/full-038
run() { runuser -u blocksync -- "$@"; }
copy=$(mktemp -d)
cp "$chain/genesis.json" "$chain/blocks.bin" "$copy/"
chmod -R a+rX "$copy"
run blocksync init --home /var/lib/blocksync --genesis "$copy/genesis.json" >/dev/null
run blocksync import --home /var/lib/blocksync "$copy/blocks.bin" 2>/dev/null
command=$(sed -n 's/^ExecStart=//p' /lib/systemd/system/blocksync.service 2>/dev/null ||
    sed -n 's/^ExecStart=//p' /usr/lib/systemd/system/blocksync.service)
run timeout --signal=TERM 3 $command --listen plain://127.0.0.1:0 2>"$copy/log" || [ $? = 124 ]
grep -q "chain full-038, at height 245" "$copy/log" || { cat "$copy/log"; fail "the service does not start"; }
say started
if command -v systemd-analyze >/dev/null; then
    systemd-analyze verify /lib/systemd/system/blocksync.service || fail "the unit is not right"
fi

# A new version over the old one: the home and the settings stay.
echo "# mine" >> /etc/default/blocksync
dpkg-deb -R "$package" "$copy/newer"
sed -i 's/^Version: .*/&.1/' "$copy/newer/DEBIAN/control"
dpkg-deb --root-owner-group -Znone -b "$copy/newer" "$copy/newer.deb" >/dev/null
apt install --no-install-recommends -o DPkg::Options::=--force-confold "$copy/newer.deb"
dpkg-query -W -f '${Version}' blocksync | grep -q '\.1$' || fail "the newer version is not installed"
run blocksync status --home /var/lib/blocksync | grep -q "^height  *245" || fail "the upgrade lost the home"
grep -q "# mine" /etc/default/blocksync || fail "the upgrade lost the settings"
say upgraded

apt remove blocksync
[ ! -e /usr/bin/blocksync ] || fail "the program is still there"
[ -d /var/lib/blocksync ] || fail "removing took the chain"
apt purge blocksync
[ ! -e /var/lib/blocksync ] || fail "purging left the chain"
userdel blocksync 2>/dev/null || true
rm -rf "$copy"
say "removed and purged"
