#!/bin/sh
# Assembles the package without cargo-deb, from the same `[package.metadata.deb]`, for a test where
# that is not installed: ./contrib/debian/assemble.sh BUILD OUTPUT. BUILD holds the program. Needs
# jq. What is released is cargo-deb's: it finds out which libraries the program needs, and strips it.
set -eu
cd "$(dirname "$0")/../.."
build=$1 output=$2
package=$(cargo metadata --no-deps --format-version 1 | jq '.packages[] | select(.name == "blocksync-cli")')
of() { echo "$package" | jq -r "$1"; }
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

# Paths are the manifest's, but for the program's, which is cargo's.
of '.metadata.deb.assets[] | join(" ")' | while read -r from to mode; do
    case $from in
    target/release/*) from=$build/${from#target/release/} ;;
    *) from=crates/cli/$from ;;
    esac
    case $to in */) mkdir -p "$root/$to" ;; *) mkdir -p "$root/${to%/*}" ;; esac
    for file in $from; do
        install -m "$mode" "$file" "$root/$to"
    done
done
mkdir "$root/DEBIAN"
for script in postinst prerm postrm; do
    install -m 755 "contrib/debian/$script" "$root/DEBIAN/"
done
of '.metadata.deb["conf-files"][]' >"$root/DEBIAN/conffiles"
cat >"$root/DEBIAN/control" <<END
Package: $(of .metadata.deb.name)
Version: $(of .version)-1
Architecture: $(dpkg --print-architecture)
Section: $(of .metadata.deb.section)
Priority: $(of .metadata.deb.priority)
Maintainer: $(of .metadata.deb.maintainer)
Depends: $(of .metadata.deb.depends | sed 's/\$auto/libc6/')
Description: $(of .description)
 $(of '.metadata.deb["extended-description"]')
END
dpkg-deb --root-owner-group -Zgzip -z1 --build "$root" "$output" >&2
