"""Fixtures that are dear to start and that several files share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import hypervisor
from tests.support.kafka import Cluster, running


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One real broker for the session.  Tests that kill brokers start their own."""
    with running(tmp_path_factory.mktemp("kafka") / "cluster") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def libvirtd() -> Iterator[hypervisor.Libvirtd]:
    """A private libvirtd for the session (tests/support/hypervisor.py).  Tests that stop libvirtd start their own."""
    hypervisor.need()
    with hypervisor.Libvirtd() as found:
        yield found
