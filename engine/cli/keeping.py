"""Commands for a replica while nothing is applied to it: verify, recover, release, acquire, rewind, resume.

What they do is in consumers/upkeep.py and consumers/renew.py; what they say, in engine/cli/kept.py.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from engine import errors
from engine.cli import choose, daemons, ending, kept, options, wings
from engine.cli.meter import Meter
from engine.registry import Registry

target = typer.Typer(no_args_is_help=True, help="Hand a replica to its user, take it back, rewind it.")


def add(app: typer.Typer) -> None:
    """Register these commands."""
    app.command()(verify)
    app.command()(recover)
    app.add_typer(target, name="target")


def verify(
    stream: options.Stream,
    sha256: Annotated[bool, typer.Option("--sha256", help="Tell the SHA-256 of each whole image, too.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Let the next `replicate` bring what differs, and only that.")
    ] = False,
    state: options.State = "",
    secret_file: options.Secret = "",
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Read a whole replica from the medium, and compare every block and the Merkle root with what was proved."""
    with ending.told(as_json, debug):
        where = options.places_of(state)
        asked = {"do": "verify", "stream": stream, "sha256": sha256, "repair": repair}
        said = daemons.chore(where, asked, as_json)
        if said is None:
            found, replica = choose.one(Registry(where), stream)
            with Meter("verifying", kept.size(where, replica), as_json) as meter:
                done = asyncio.run(
                    wings.consumers("upkeep").verify(
                        where, replica, meter.told, sha256=sha256, repair=repair, secret_file=secret_file
                    )
                )
            said = kept.verified(found, replica, done)
        _say({**said, "event": "end" if said["ok"] else "verified"}, kept.verified_lines(said), as_json)
        if not said["ok"]:
            raise errors.Divergence(kept.differs(said, stream))


def recover(
    stream: options.AnyStream = "",
    state: options.State = "",
    secret_file: options.Secret = "",
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Bring replicas back to their last sealed epoch, without bus or source.  Without STREAM: every replica here."""
    with ending.told(as_json, debug):
        where = options.places_of(state)
        known = Registry(where)
        chosen = [choose.one(known, stream)[1]] if stream else [one for one in known.replicas() if one.begun]
        failed: list[errors.FerryError] = []
        all_said: list[dict[str, Any]] = []
        for replica in chosen:
            try:
                done = asyncio.run(wings.consumers("upkeep").recover(where, replica, secret_file))
            except errors.FerryError as why:
                if stream:
                    raise
                # One that cannot be recovered, or is at work, must not keep the others from it.
                failed.append(why)
                typer.echo(f"vmferry: {why}", err=True)
                continue
            all_said.append(kept.recovered(replica, done))
        lines = [line for said in all_said for line in kept.recovered_lines(said)] or ["no replica was recovered"]
        _say({"event": "end" if not failed else "recovered", "ok": not failed, "replicas": all_said}, lines, as_json)
        if failed:
            raise failed[0]


@target.command()
def release(
    stream: options.Stream,
    state: options.State = "",
    secret_file: options.Secret = "",
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Bring a replica to its last sealed epoch and hand it over: nothing is applied to it before `acquire`."""
    with ending.told(as_json, debug):
        where = options.places_of(state)
        said = daemons.chore(where, {"do": "release", "stream": stream}, as_json)
        if said is None:
            _, replica = choose.one(Registry(where), stream)
            said = kept.held(replica, asyncio.run(wings.consumers("upkeep").release(where, replica, secret_file)))
        _say(said, kept.released_lines(said, stream), as_json)


@target.command()
def acquire(
    stream: options.Stream,
    state: options.State = "",
    secret_file: options.Secret = "",
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Take a released replica back: it is read for its digests, and the next `replicate` sends only what differs."""
    with ending.told(as_json, debug):
        where = options.places_of(state)
        said = daemons.chore(where, {"do": "acquire", "stream": stream}, as_json)
        if said is None:
            found, replica = choose.one(Registry(where), stream)
            with Meter("reading", kept.size(where, replica), as_json) as meter:
                done = asyncio.run(wings.consumers("renew").acquire(where, found, replica, meter.told, secret_file))
            said = kept.acquired(replica, done)
        _say(said, kept.acquired_lines(said), as_json)


@target.command()
def rewind(
    stream: options.Stream,
    to: Annotated[int, typer.Option("--to", metavar="EPOCH", help="The epoch; see `vmferry epochs`.")],
    state: options.State = "",
    secret_file: options.Secret = "",
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Take a replica back to an earlier epoch that is kept, and hold it there; later epochs of it are dropped."""
    with ending.told(as_json, debug):
        where = options.places_of(state)
        said = daemons.chore(where, {"do": "rewind", "stream": stream, "to": to}, as_json)
        if said is None:
            _, replica = choose.one(Registry(where), stream)
            said = kept.held(replica, asyncio.run(wings.consumers("upkeep").rewind(where, replica, to, secret_file)))
        _say(said, kept.rewound_lines(said, stream), as_json)


@target.command()
def resume(
    stream: options.Stream,
    state: options.State = "",
    secret_file: options.Secret = "",
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Let a rewound replica go on: the next `replicate` brings it to the state of its source again."""
    with ending.told(as_json, debug):
        where = options.places_of(state)
        said = daemons.chore(where, {"do": "unhold", "stream": stream}, as_json)
        if said is None:
            _, replica = choose.one(Registry(where), stream)
            said = kept.held(replica, asyncio.run(wings.consumers("upkeep").resume(where, replica, secret_file)))
        _say(said, kept.resumed_lines(said), as_json)


def _say(said: dict[str, Any], lines: list[str], as_json: bool) -> None:
    if as_json:
        ending.emit(said)
    else:
        typer.echo("\n".join(lines))
