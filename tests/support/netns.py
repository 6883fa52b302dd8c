"""A small internet: sites in network namespaces of their own, and a router between them that loses what it is told to.

What is lost is lost at the router, as on a real way: neither end sees its own interface go down, and nobody says so.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support import tools

_ROUTER = "wan"


@dataclass(frozen=True, slots=True)
class Place:
    """One site.  Commands that begin with `inside` run there."""

    name: str
    namespace: str
    address: str
    leg: str
    "The router's interface towards it."

    @property
    def inside(self) -> list[str]:
        # It replaces itself by what it starts: the PID is that one's.
        return ["ip", "netns", "exec", self.namespace]


class Wan:
    """The router.  Nothing of it is to be kept."""

    def __init__(self, *names: str) -> None:
        self._mark = f"vf{os.getpid()}"
        self._router = f"{self._mark}-{_ROUTER}"
        self.places = {name: self._place(name, number) for number, name in enumerate(names)}

    def _place(self, name: str, number: int) -> Place:
        return Place(name, f"{self._mark}-{name}", f"10.77.{number}.2", f"{self._mark}{number}")

    def build(self) -> None:
        """Make all of it.  One that was begun is to be removed, also when this fails."""
        _ip("netns", "add", self._router)
        _ip("netns", "exec", self._router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        for place in self.places.values():
            _ip("netns", "add", place.namespace)
            _ip("-n", place.namespace, "link", "set", "lo", "up")
            far = ("peer", "name", "eth0", "netns", place.namespace)
            _ip("-n", self._router, "link", "add", place.leg, "type", "veth", *far)
            _ip("-n", self._router, "addr", "add", f"{_gateway(place)}/24", "dev", place.leg)
            _ip("-n", place.namespace, "addr", "add", f"{place.address}/24", "dev", "eth0")
            _ip("-n", self._router, "link", "set", place.leg, "up")
            _ip("-n", place.namespace, "link", "set", "eth0", "up")
            _ip("-n", place.namespace, "route", "add", "default", "via", _gateway(place))

    def remove(self) -> None:
        for namespace in (self._router, *(place.namespace for place in self.places.values())):
            subprocess.run(["ip", "netns", "del", namespace], env=_WHERE, capture_output=True, check=False)

    def cut(self, name: str) -> None:
        """Nothing comes from it or goes to it any more."""
        self.mute(name)
        self.deafen(name)

    def deafen(self, name: str) -> None:
        """Nothing arrives there; what it says arrives."""
        _ip("-n", self._router, "route", "replace", "blackhole", f"{self.places[name].address}/32")

    def mute(self, name: str) -> None:
        """What it says is lost; it hears the others."""
        rule = ("from", f"{self.places[name].address}/32", "blackhole")
        _ip("-n", self._router, "rule", "add", *rule)

    def unplug(self, name: str) -> None:
        """Its own interface goes down: it is told at once that there is no way."""
        _ip("-n", self.places[name].namespace, "link", "set", "eth0", "down")

    def heal(self, name: str) -> None:
        """All of it passes again, whatever was done to it."""
        place = self.places[name]
        _ip("-n", place.namespace, "link", "set", "eth0", "up")
        _ip("-n", place.namespace, "route", "replace", "default", "via", _gateway(place))
        for undo in (
            ("route", "del", "blackhole", f"{place.address}/32"),
            ("rule", "del", "from", f"{place.address}/32", "blackhole"),
        ):
            subprocess.run(["ip", "-n", self._router, *undo], env=_WHERE, capture_output=True, check=False)

    def slow(self, name: str, rate: str) -> None:
        """The way from and to it carries `rate`, as tc writes it: "16mbit"."""
        place = self.places[name]
        shape = ("root", "tbf", "rate", rate, "burst", "128k", "latency", "200ms")
        _run("tc", "-n", self._router, "qdisc", "replace", "dev", place.leg, *shape)
        _run("tc", "-n", place.namespace, "qdisc", "replace", "dev", "eth0", *shape)

    def hurry(self, name: str) -> None:
        """As it was before `slow`."""
        place = self.places[name]
        _run("tc", "-n", self._router, "qdisc", "del", "dev", place.leg, "root")
        _run("tc", "-n", place.namespace, "qdisc", "del", "dev", "eth0", "root")


@contextlib.contextmanager
def routed(*names: str) -> Iterator[Wan]:
    """The named sites, each reaching every other; a test that cannot have them is skipped, or fails in CI."""
    tools.need("ip", "tc", "unshare")
    probe = ["unshare", "--net", "--mount", "sh", "-c", "ip link set lo up"]
    done = subprocess.run(probe, env=_WHERE, capture_output=True, text=True, check=False)
    if done.returncode:
        tools.forbidden(f"no network namespaces: this machine forbids them to this user ({done.stderr.strip()[-200:]})")
    wan = Wan(*names)
    try:
        wan.build()
        yield wan
    finally:
        wan.remove()


_WHERE = os.environ | {"PATH": tools.PATH}


def _gateway(place: Place) -> str:
    return place.address.rpartition(".")[0] + ".1"


def _ip(*words: str) -> None:
    _run("ip", *words)


def _run(*command: str) -> None:
    done = subprocess.run(command, env=_WHERE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
