#!/bin/sh
# setup.sh VENV run|dev: a virtual environment with vmferry in it, pinned by constraints.txt.
# "run" is what a user needs, "dev" adds what the tests need.  Needs Python >= 3.11; PYTHON names another one.
set -eu

venv=$1
want=$2
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"

say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 1; }

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
can_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

find_python() {
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.14; do
        if command -v "$candidate" >/dev/null && new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    die "no Python >= 3.11 on PATH; set PYTHON=/path/to/python3, or: sudo apt-get install python3 python3-venv"
}

# Debian and Ubuntu ship Python without ensurepip: a system pip can fill the environment, else apt brings the package.
make_venv() {
    if can_venv "$1"; then
        "$1" -m venv "$venv"
    elif "$1" -m pip --version >/dev/null 2>&1; then
        "$1" -m venv --without-pip "$venv"
        "$1" -m pip --python "$venv/bin/python" install --quiet pip
    else
        version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        say "this Python cannot make virtual environments; installing python$version-venv"
        sh tools/apt-install.sh "python$version-venv" || die "then run make again"
        "$1" -m venv "$venv"
    fi
}

python=$(find_python)
if [ ! -x "$venv/bin/python" ] || ! new_enough "$venv/bin/python"; then
    rm -rf "$venv"
    make_venv "$python"
fi

# libvirt-python is compiled: a C compiler, Python's headers and libvirt's are needed.  Without them tests of running
# machines are skipped by name, and CI fails.
headers="$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h"
can_compile() { command -v gcc >/dev/null && [ -f "$headers" ] && pkg-config --exists libvirt 2>/dev/null; }
with_libvirt() {
    can_compile || sh tools/apt-install.sh gcc libc6-dev pkg-config python3-dev libvirt-dev || true
    if can_compile; then
        echo '.[dev,libvirt]'
        return
    fi
    [ "${CI:-}" != true ] || die "libvirt-python cannot be compiled here"
    say "libvirt-python cannot be compiled here: tests of running machines are skipped; then rm $venv/.dev and make again"
    echo '.[dev]'
}

case $want in
    run) target=. ;;
    dev) target=$(with_libvirt) ;;
    *) die "run or dev is wanted, not $want" ;;
esac
"$venv/bin/python" -m pip install --quiet --constraint constraints.txt --editable "$target"
