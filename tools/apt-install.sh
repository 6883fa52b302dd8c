#!/bin/sh
# apt-install.sh PACKAGE...: installs Debian packages as root, or by sudo.  Where neither works it says what to run.
set -eu

# Alternatives are written a|b: the first one that this release has.
choose() {
    for one in $(echo "$1" | tr '|' ' '); do
        if [ -n "$(apt-cache policy "$one" 2>/dev/null | grep 'Candidate: [^(]')" ]; then
            echo "$one"
            return
        fi
    done
    echo "${1%%|*}"
}

if ! command -v apt-get >/dev/null; then
    echo "install by hand, there is no apt-get here: $*" >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    as_root=sudo
else
    echo "not root, and no sudo without a password here; run: sudo apt-get install --no-install-recommends $*" >&2
    exit 1
fi

$as_root apt-get update -qq
packages=
for wanted in "$@"; do packages="$packages $(choose "$wanted")"; done
echo "apt-get install --no-install-recommends$packages" >&2
# shellcheck disable=SC2086  # a list of package names
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $packages >/dev/null
