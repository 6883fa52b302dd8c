"""The journal's protocol against a real journald, in a mount namespace where /run is its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import tools

JOURNALD = Path("/lib/systemd/systemd-journald")
SPEAKER = """
import logging
from engine.cli import logs

logs.configure(logs.Format.JOURNAL)
log = logging.getLogger("vmferry.ship")
with logs.about(stream="web-1", site="site-a"):
    log.warning("of two\\nPRIORITY=0 lines")
    log.info("x" * (1 << 20))
log.error("of no stream")
"""
SCRIPT = """
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/log/journal /run/systemd/journald.conf.d
# Nothing of the machine's: neither its journal on disk, nor its kernel's messages, nor its audit.
printf '[Journal]\\nStorage=volatile\\nReadKMsg=no\\nAudit=\\nForwardToWall=no\\n' \\
    >/run/systemd/journald.conf.d/test.conf
if [ ! -s /etc/machine-id ]; then
    echo 0123456789abcdef0123456789abcdef >/run/machine-id
    touch /etc/machine-id
    mount --bind /run/machine-id /etc/machine-id
fi
"$1" &
journald=$!
trap 'kill $journald; wait $journald || :' EXIT
for _ in $(seq 300); do [ ! -S /run/systemd/journal/socket ] || break; sleep 0.1; done
"$2" -c "$3"
for _ in $(seq 300); do
    journalctl --directory=/run/log/journal --quiet LOGGER=vmferry.ship PRIORITY=3 --output=cat | grep -q . && break
    sleep 0.1
done
journalctl --directory=/run/log/journal --all --quiet --output=json SYSLOG_IDENTIFIER=vmferry
"""


def kept() -> list[dict[str, Any]]:
    """What a journal keeps of what SPEAKER says."""
    tools.need("unshare", "journalctl")
    if not JOURNALD.exists():
        tools.lack(f"{JOURNALD} not found; sudo apt-get install --no-install-recommends systemd")
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], check=False).returncode != 0:
        pytest.skip("only root, where it may make a mount namespace, can start a journal of its own")
    found = subprocess.run(
        ["unshare", "--mount", "sh", "-c", SCRIPT, "sh", JOURNALD, sys.executable, SPEAKER],
        env={**os.environ, "PYTHONPATH": str(tools.ROOT), "PATH": tools.PATH}, capture_output=True, text=True,
        check=False, timeout=110,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    return [json.loads(line) for line in found.stdout.splitlines()]


def test_a_real_journal_keeps_every_field() -> None:
    two, large, none = kept()
    assert two["MESSAGE"] == "[web-1] of two\nPRIORITY=0 lines"
    assert (two["PRIORITY"], two["LOGGER"]) == ("4", "vmferry.ship")
    assert (two["VMFERRY_STREAM"], two["VMFERRY_SITE"]) == ("web-1", "site-a")
    assert int(two["CODE_LINE"]) > 1
    assert (large["PRIORITY"], large["MESSAGE"]) == ("6", "[web-1] " + "x" * (1 << 20))
    assert (none["PRIORITY"], none["MESSAGE"]) == ("3", "of no stream")
    assert "VMFERRY_STREAM" not in none
