"""schemas/asyncapi.yaml, made from the code: every kind of record, its fields, their types and what they mean.

python tools/asyncapi.py            writes it
python tools/asyncapi.py --check    fails when it is not what the code says
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import enum
import inspect
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from schemas import receipts, topics, wire

DOCUMENT = Path(__file__).parent.parent / "schemas" / "asyncapi.yaml"
_BANNER = "# Made by tools/asyncapi.py from schemas/*.py; not edited by hand.  FORMAT.md says what it cannot.\n"


def document() -> dict[str, Any]:
    """The whole document, AsyncAPI 3.0."""
    events = {number: kind for number, kind in wire.KINDS.items() if number < wire.FIRST_RECEIPT}
    answers = {number: kind for number, kind in wire.KINDS.items() if wire.FIRST_RECEIPT <= number < wire.FIRST_CONTROL}
    sites = {number: kind for number, kind in wire.KINDS.items() if number >= wire.FIRST_CONTROL}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "vmferry records",
            "version": f"{wire.VERSION}.0.0",
            "description": "What producers and consumers of vmferry say to each other. A message is one record: a "
            f"header of {wire.HEADER_SIZE} bytes, then a body, a msgpack map, which the payload schemas describe. "
            "FORMAT.md is the byte table and says what a reader must do.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/vnd.vmferry.record",
        "channels": {
            "stream": _channel(
                "{prefix}.{stream}",
                "The ordered log of one stream: one partition, one writer. Records of a later attempt abandon what an "
                "earlier one left open; only sealed epochs count.",
                events,
                {"prefix": _prefix(), "stream": {"description": "The stream's UUID, in its text form."}},
            ),
            "receipts": _channel(
                "{prefix}.receipts",
                "What all replicas say: the audit log. A receipt may repeat; its sender says which one it is.",
                answers,
                {"prefix": _prefix()},
            ),
            "control": _channel(
                "{prefix}.control",
                "What sites say of the streams that they have, again and again. Only the last word of each counts.",
                sites,
                {"prefix": _prefix()},
            ),
        },
        "operations": {
            "produce": _operation("send", "stream", "A producer tells what changed at the source."),
            "apply": _operation("receive", "stream", "A consumer applies sealed epochs to its replica."),
            "answer": _operation("send", "receipts", "A consumer says what it proved."),
            "hear": _operation("receive", "receipts", "A producer learns where the replicas are."),
            "announce": _operation("send", "control", "A source's site says which streams it has."),
            "learn": _operation("receive", "control", "A target's site learns which streams there are."),
        },
        "components": {
            "messages": {kind.__name__: _message(number, kind) for number, kind in wire.KINDS.items()},
            "schemas": {kind.__name__: _schema(kind) for kind in _parts()},
        },
    }


def _prefix() -> dict[str, str]:
    return {"description": "Tells installations on one bus apart.", "default": topics.PREFIX}


def _channel(address: str, says: str, kinds: dict[int, type], parameters: dict[str, Any]) -> dict[str, Any]:
    messages = {kind.__name__: {"$ref": f"#/components/messages/{kind.__name__}"} for kind in kinds.values()}
    return {"address": address, "description": says, "parameters": parameters, "messages": messages}


def _operation(action: str, channel: str, says: str) -> dict[str, Any]:
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}, "summary": says}


def _message(number: int, kind: type) -> dict[str, Any]:
    summary, _, rest = (inspect.getdoc(kind) or "").partition("\n\n")
    payload = _schema(kind)
    del payload["description"]
    if wire.FIRST_RECEIPT <= number < wire.FIRST_CONTROL:
        payload["required"] = ["sender", *payload["required"]]
        payload["properties"] = {"sender": _reference(receipts.Sender), **payload["properties"]}
    found = {"name": kind.__name__, "summary": _flat(summary), "x-kind": number, "payload": payload}
    if rest:
        found["description"] = _flat(rest)
    return found


def _schema(kind: type) -> dict[str, Any]:
    """The JSON schema of a dataclass as the msgpack map that it becomes."""
    hints, notes = get_type_hints(kind), _notes(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    return {
        "type": "object",
        "description": _flat(inspect.getdoc(kind) or ""),
        "required": names,
        "additionalProperties": False,
        "properties": {name: _typed(name, hints[name], notes.get(name)) for name in names},
    }


def _typed(name: str, hint: Any, note: str | None = None) -> dict[str, Any]:
    hint = getattr(hint, "__supertype__", hint)
    said = {"description": note} if note else {}
    if get_origin(hint) is tuple:
        return {"type": "array", "items": _typed(name, get_args(hint)[0]), "maxItems": wire.MAX_ITEMS, **said}
    if dataclasses.is_dataclass(hint):
        return _reference(hint)
    if issubclass(hint, enum.Enum):
        return {"type": "string", "enum": [member.value for member in hint], **said}
    if hint is bytes:
        return {"type": "string", "format": "binary", **_lengths(name), **said}
    if hint is int:
        return {"type": "integer", "minimum": 0, "maximum": 2**64 - 1, **said}
    return {"type": {bool: "boolean", str: "string"}[hint], **said}


def _lengths(name: str) -> dict[str, int]:
    lengths = wire.LENGTHS.get(name)
    return {"minLength": min(lengths), "maxLength": max(lengths)} if lengths else {}


def _reference(kind: Any) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _parts() -> list[Any]:
    """The dataclasses that bodies are made of, each once, by name."""
    found: dict[str, Any] = {}

    def take(hint: Any) -> None:
        hint = get_args(hint)[0] if get_origin(hint) is tuple else hint
        if dataclasses.is_dataclass(hint) and isinstance(hint, type) and hint.__name__ not in found:
            found[hint.__name__] = hint
            inside(hint)

    def inside(kind: type) -> None:
        for hint in get_type_hints(kind).values():
            take(hint)

    take(receipts.Sender)
    for kind in wire.KINDS.values():
        inside(kind)
    return [found[name] for name in sorted(found)]


def _notes(kind: type) -> dict[str, str]:
    """The text that stands under a field: "..." on the line after it."""
    (body,) = (node.body for node in ast.parse(inspect.getsource(kind)).body if isinstance(node, ast.ClassDef))
    notes = {}
    for before, after in pairwise(body):
        if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            assert isinstance(before.target, ast.Name)
            notes[before.target.id] = _flat(str(after.value.value))
    return notes


def _flat(text: str) -> str:
    return " ".join(text.split())


def text() -> str:
    """What the file must hold."""
    dumped: str = yaml.safe_dump(document(), sort_keys=False, width=116, allow_unicode=True)
    return _BANNER + dumped


def main() -> int:
    options = argparse.ArgumentParser(description="Makes schemas/asyncapi.yaml from the code.")
    options.add_argument("--check", action="store_true", help="write nothing; fail when the file is out of date")
    if not options.parse_args().check:
        DOCUMENT.write_text(text())
    elif not DOCUMENT.exists() or DOCUMENT.read_text() != text():
        print("schemas/asyncapi.yaml is not what the code says: run python -m tools.asyncapi", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
