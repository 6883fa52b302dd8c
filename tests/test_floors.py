"""What the import contracts in pyproject.toml cannot say about how the house is built."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("schemas", "engine", "producers", "consumers")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
EVERYTHING = sorted(
    {*SOURCES, *TESTS, *(path for folder in ("tools", "examples", "bench") for path in (ROOT / folder).rglob("*.py"))}
)

MOST_LINES = 400
"""Aim for 150, stay under 300; beyond this a file is where everything ends up."""

SCHEMAS_MAY_IMPORT = {
    *("__future__", "bisect", "collections", "dataclasses", "enum", "re", "struct", "types", "typing", "uuid"),
    *("msgpack", "schemas", "xxhash"),
}

UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def imported(path: Path) -> set[str]:
    """The top-level names of all modules that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}:{node.lineno}: relative import"
            found.add((node.module or "").split(".")[0])
    return found


def says_nothing(handler: ast.ExceptHandler) -> bool:
    """Only `pass` or `...`: the fault is gone without a word.  (`continue` may be a loop that tries again.)"""
    return all(
        isinstance(line, ast.Pass)
        or (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and line.value.value is ...)
        for line in handler.body
    )


@pytest.mark.parametrize("path", EVERYTHING, ids=name)
def test_no_file_grows_past_what_one_can_read_in_a_sitting(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MOST_LINES, f"{name(path)} has {lines} lines; split it along what it does"


@pytest.mark.parametrize("path", EVERYTHING, ids=name)
def test_nothing_is_left_for_later_in_a_comment(path: Path) -> None:
    lines = path.read_text().splitlines()
    found = [f"{name(path)}:{at}" for at, line in enumerate(lines, 1) if UNFINISHED.search(line)]
    assert not found


@pytest.mark.parametrize("path", EVERYTHING, ids=name)
def test_no_exception_is_swallowed(path: Path) -> None:
    swallowed = [
        f"{name(path)}:{node.lineno}"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler) and (node.type is None or says_nothing(node))
    ]
    assert not swallowed, "handle it, or say with contextlib.suppress(...) which one is no fault, and why"


@pytest.mark.parametrize("path", sorted((ROOT / "schemas").rglob("*.py")), ids=name)
def test_the_ground_floor_stands_on_a_few_pure_modules_only(path: Path) -> None:
    assert imported(path) <= SCHEMAS_MAY_IMPORT


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_every_module_begins_by_saying_what_it_is(path: Path) -> None:
    assert ast.get_docstring(tree(path)), f"{name(path)} has no docstring"


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name == "__init__.py"], ids=name)
def test_packages_hold_no_code(path: Path) -> None:
    body = [node for node in tree(path).body if not isinstance(node, ast.Import | ast.ImportFrom | ast.Assign)]
    assert len(body) <= 1, f"{name(path)} is a docstring and names, nothing else"


def test_no_folder_of_tests_shadows_a_package_of_ours() -> None:
    assert not [name(path) for path in TESTS if path.name == "__init__.py"]


def test_no_package_of_ours_shadows_the_standard_library() -> None:
    assert not set(PACKAGES) & sys.stdlib_module_names


@pytest.mark.parametrize("path", [path for path in SOURCES if not name(path).startswith("engine/cli")], ids=name)
def test_nothing_below_the_command_line_prints(path: Path) -> None:
    prints = [
        f"{name(path)}:{node.lineno}"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not prints, "say it on the console of engine.cli, or log it"


@pytest.mark.parametrize("path", [path for path in TESTS if path.name.startswith("test_")], ids=name)
def test_only_end_to_end_tests_join_both_wings(path: Path) -> None:
    joined = {"producers", "consumers"} <= imported(path)
    assert not joined or path.relative_to(ROOT).parts[1] in {"contract", "e2e", "faults", "interop", "property"}
