"""Frozen cuts of a running guest: called so at the target only where they were, and nobody is left frozen."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.hypervisor import Libvirtd, Vm, wait_until
from tests.support.live.protected import Protected, protected

pytestmark = pytest.mark.timeout(900)
THAWED = 30.0
"""Seconds for the process beside to thaw (10 from the freeze on, or at once when we are gone), on a busy machine."""


def _cuts(web: Protected) -> list[str]:
    """How consistent the kept epochs are, oldest first."""
    return [one["cut"] for one in web.epochs()["epochs"]]


def test_the_cuts_of_a_guest_whose_agent_answers_are_those_of_its_file_systems(
    libvirtd: Libvirtd, tmp_path: Path
) -> None:
    with Vm(libvirtd) as vm:
        vm.start()
        with protected(libvirtd, vm, tmp_path, freeze=True) as web:
            web.captured("checkpoint")
            assert _cuts(web)[-1] == "filesystem"
            vm.wait_beats(5)
            web.ends_equal()


@pytest.mark.parametrize("agent", ["none", "hangs"])
def test_without_an_answer_of_the_agent_the_cut_is_a_crashs_and_the_log_says_why(
    agent: str, libvirtd: Libvirtd, tmp_path: Path
) -> None:
    with Vm(libvirtd, agent=agent) as vm:
        vm.start()
        mark = vm.mark()
        with protected(libvirtd, vm, tmp_path, freeze=True) as web:
            web.further()
            assert set(_cuts(web)) == {"crash"}
            assert "its file systems could not be frozen" in web.sites.source.log.read_text()
            vm.wait_beats(5)
            assert vm.longest(mark) < 2


def test_a_guest_whose_source_is_killed_while_it_is_frozen_is_thawed(libvirtd: Libvirtd, tmp_path: Path) -> None:
    with Vm(libvirtd) as vm:
        vm.start()
        with protected(libvirtd, vm, tmp_path, freeze=True) as web:
            web.captured("checkpoint")
            for how in (signal.SIGSTOP, signal.SIGKILL):
                _caught_frozen(web)
                if how is signal.SIGKILL:
                    web.sites.source.kill()
                wait_until(lambda: _thawed(vm), "it is thawed by the process beside", THAWED, web.sites.source.tail)
                if how is signal.SIGSTOP:
                    web.sites.source.send(signal.SIGCONT)
                    web.further()
            vm.wait_beats(5)
            web.sites.source.start()
            web.captured("checkpoint")
            vm.wait_beats(5)
            assert _cuts(web)[-1] == "filesystem"


def _thawed(vm: Vm) -> bool:
    return str(vm.ask_agent("guest-fsfreeze-status")) == "thawed"


def _caught_frozen(web: Protected) -> None:
    """The source is stopped at a moment at which the guest is frozen; else it goes on, and is stopped once more."""

    def caught() -> bool:
        if _thawed(web.vm):
            return False
        web.sites.source.send(signal.SIGSTOP)
        if not _thawed(web.vm):
            return True
        web.sites.source.send(signal.SIGCONT)
        return False

    web.wait(caught)
