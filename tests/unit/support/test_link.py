from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.support.kafka import free_port
from tests.support.link import Link


@pytest.fixture
def far() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(20)
        yield made


@pytest.fixture
def link(far: socket.socket) -> Iterator[Link]:
    made = Link({free_port(): far.getsockname()[1]})
    try:
        yield made
    finally:
        made.close()


def _client(link: Link) -> socket.socket:
    host, _, port = link.addresses.partition(":")
    return socket.create_connection((host, int(port)), 20)


def test_what_is_said_passes_both_ways(link: Link, far: socket.socket) -> None:
    with _client(link) as near, far.accept()[0] as there:
        near.sendall(b"how")
        assert there.recv(10) == b"how"
        there.sendall(b"well")
        assert near.recv(10) == b"well"
    assert link.passed == 7


def test_a_link_that_is_cut_breaks_what_there_is_and_refuses_what_comes(link: Link, far: socket.socket) -> None:
    with _client(link) as near, far.accept()[0] as there:
        near.sendall(b"how")
        assert there.recv(10) == b"how"
        link.cut()
        assert _gone(near)
        assert _gone(there)
    with _client(link) as late:
        assert _gone(late)
    link.heal()
    with _client(link) as near, far.accept()[0] as there:
        near.sendall(b"again")
        assert there.recv(10) == b"again"


def test_a_silent_link_holds_back_what_is_said_and_loses_nothing(link: Link, far: socket.socket) -> None:
    with _client(link) as near, far.accept()[0] as there:
        near.sendall(b"a")
        assert there.recv(10) == b"a"
        link.hush()
        near.sendall(b"b")
        there.settimeout(0.3)
        with pytest.raises(TimeoutError):
            there.recv(10)
        link.heal()
        there.settimeout(20)
        assert there.recv(10) == b"b"


def test_a_broker_that_is_away_ends_the_connection(link: Link, far: socket.socket) -> None:
    far.close()
    with _client(link) as near:
        assert _gone(near)


def _gone(end: socket.socket) -> bool:
    end.settimeout(20)
    try:
        return not end.recv(10)
    except ConnectionError:
        return True
