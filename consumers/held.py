"""Replicas to which nothing may be applied: released to their user, or rewound."""

from __future__ import annotations

from engine import errors

RELEASED = "released"
REWOUND = "rewound"


def way(held: str, name: str) -> str:
    """The command that ends it."""
    return f"`vmferry target {'acquire' if held == RELEASED else 'resume'} {name}`"


def refuse(held: str, path: str) -> None:
    """Raises Usage, naming the way out, for a replica that is held."""
    if held == RELEASED:
        raise errors.Usage(
            f"the replica {path} is released to its user, and nothing is applied to it: {way(held, path)} takes it back"
        )
    if held:
        raise errors.Usage(f"the replica {path} is held ({held}): {way(held, path)} lets it go on from there")
