"""What a command loads: a small change waits for every module that `replicate` does not need."""

from __future__ import annotations

import subprocess
import sys

NEEDLESS = ("aiokafka", "engine.daemon.daemon", "engine.hypervisor", "engine.nbd", "libvirt", "prometheus_client",
            "rich.progress")  # fmt: skip


def loaded(code: str) -> set[str]:
    said = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(said.stdout.split())


def test_a_replication_of_raw_images_loads_no_daemon_and_no_hypervisor() -> None:
    found = loaded("import engine.cli.app, engine.cli.view, producers.site, consumers.site, engine.bus.embedded")
    assert not found.intersection(NEEDLESS)
    assert {"engine.device.raw", "producers.ship", "consumers.replay"} <= found


def test_the_whole_command_line_loads_them() -> None:
    """So that the test above looks for names that there are."""
    code = "import engine.cli.app; engine.cli.app.whole(); import engine.device.served, engine.cli.bar, aiokafka"
    found = loaded(code + ", producers.daemon")
    assert set(NEEDLESS) - {"libvirt"} <= found
