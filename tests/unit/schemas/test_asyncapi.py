from __future__ import annotations

from typing import Any

import jsonschema
import msgpack
import pytest
import yaml

from schemas import wire
from tests.support import samples
from tools import asyncapi

DOCUMENT: dict[str, Any] = yaml.safe_load(asyncapi.DOCUMENT.read_text())

STRUCTURE = {
    "type": "object",
    "required": ["asyncapi", "info", "channels", "operations", "components"],
    "properties": {
        "asyncapi": {"const": "3.0.0"},
        "info": {"type": "object", "required": ["title", "version"]},
        "channels": {
            "additionalProperties": {
                "required": ["address", "messages", "parameters"],
                "properties": {"messages": {"additionalProperties": {"required": ["$ref"]}}},
            }
        },
        "operations": {
            "additionalProperties": {
                "required": ["action", "channel"],
                "properties": {"action": {"enum": ["send", "receive"]}},
            }
        },
        "components": {
            "properties": {"messages": {"additionalProperties": {"required": ["name", "summary", "payload"]}}}
        },
    },
}
"""What AsyncAPI 3.0 asks of the parts that we use."""


def resolve(reference: str) -> Any:
    found: Any = DOCUMENT
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return found


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [value["$ref"]] if "$ref" in value else [each for item in value.values() for each in references(item)]
    return [each for item in value for each in references(item)] if isinstance(value, list) else []


def as_text(value: Any) -> Any:
    """A body as JSON schema sees it: bytes are text of one character for each byte."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, dict):
        return {key: as_text(item) for key, item in value.items()}
    return [as_text(item) for item in value] if isinstance(value, list) else value


def validator(message: str) -> jsonschema.Draft7Validator:
    schema = {**DOCUMENT["components"]["messages"][message]["payload"], "components": DOCUMENT["components"]}
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def test_the_document_is_what_the_code_says() -> None:
    assert asyncapi.DOCUMENT.read_text() == asyncapi.text(), "run python -m tools.asyncapi"


def test_it_has_the_structure_of_asyncapi_3() -> None:
    jsonschema.validate(DOCUMENT, STRUCTURE)


def test_every_reference_leads_somewhere() -> None:
    assert references(DOCUMENT)
    for reference in references(DOCUMENT):
        assert resolve(reference)


def test_every_kind_stands_in_one_channel_under_its_number() -> None:
    channels = DOCUMENT["channels"]
    said = [name for channel in channels.values() for name in channel["messages"]]
    messages = DOCUMENT["components"]["messages"]
    assert {messages[name]["x-kind"]: name for name in said} == {
        number: kind.__name__ for number, kind in wire.KINDS.items()
    }


@pytest.mark.parametrize("name", [*samples.EVENTS, *samples.RECEIPTS, *samples.CONTROL])
def test_the_schemas_describe_what_travels(name: str) -> None:
    frame = wire.unpack(samples.packed(name))
    body = as_text(msgpack.unpackb(frame.body))
    judge = validator(wire.KINDS[frame.kind].__name__)
    judge.validate(body)
    for field in body:
        assert not judge.is_valid({key: value for key, value in body.items() if key != field})
    assert not judge.is_valid({**body, "extra": 1})
