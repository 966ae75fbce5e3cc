"""The arrows between the packages point inward, and the domain stays pure."""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "runfold": set[str](),
    "eventstore": {"runfold"},
    "projections": {"eventstore", "runfold"},
    "runner": {"projections", "eventstore", "runfold"},
    "api": {"projections", "eventstore", "runfold"},
    "cli": {"api", "runner", "projections", "eventstore", "runfold"},
}
THIRD_PARTY = {
    "runfold": {"msgspec"},
    "eventstore": {
        *(
            "backports",
            "compression",
            "msgspec",
            "aiosqlite",
            "nats",
            "obstore",
            "pysqlite3",
            "structlog",
            "cryptography",
        ),
    },
    "projections": {"msgspec", "aiosqlite", "structlog"},
    "runner": {"msgspec", "structlog", "re2", "watchfiles", "genai_prices"},
    "api": {"msgspec", "aiohttp", "structlog"},
    "cli": {"msgspec", "aiohttp", "structlog", "click", "platformdirs"},
}
IMPURE = {"asyncio", "os", "time", "random", "secrets", "sqlite3", "socket", "subprocess", "threading", "pathlib"}
NOT_PURE_BY_NAME = {"__main__.py", "emit.py", "ordered_ids.py"}  # And `client/`: the pure files import none of them.
FILES = sorted(path for package in ALLOWED for path in (ROOT / package).rglob("*.py"))
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}
ROOMS: list[str] = re.findall(r"`(\w+/\w+)/`", (ROOT / "docs" / "architecture.md").read_text())
"""As the table shows them, from above."""


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


@cache
def leans_on(path: Path) -> frozenset[str]:
    """The modules of ours that a file needs when it runs, also those that it imports late."""
    tree = ast.parse(path.read_text())
    for_checkers = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    named = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node not in for_checkers:
            named |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import) and node not in for_checkers:
            named |= {alias.name for alias in node.names}
    return frozenset(named & MODULES.keys())


def room_of(path: Path) -> str:
    return "/".join(path.relative_to(ROOT).parts[:-1])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_package_imports_only_what_lies_further_in(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    if path.name == "__main__.py":
        return

    found = set(imports(path))

    assert found & set(ALLOWED) <= ALLOWED[package] | {package}
    assert found - set(ALLOWED) - sys.stdlib_module_names <= THIRD_PARTY[package]


def test_no_files_lean_on_each_other_in_a_circle() -> None:
    order = TopologicalSorter({name: leans_on(path) for name, path in MODULES.items()})

    assert len([*order.static_order()]) == len(MODULES)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_leans_on_none_that_stands_above_it(room: str) -> None:
    above = {other for other in ROOMS[: ROOMS.index(room)] if other.split("/")[0] == room.split("/")[0]}

    upward = [
        f"{path.relative_to(ROOT)} -> {name}"
        for path in FILES
        for name in leans_on(path)
        if room_of(path) == room and room_of(MODULES[name]) in above
    ]

    assert upward == []


def test_every_room_stands_in_the_table() -> None:
    there = {room_of(path) for path in FILES}

    assert there - set(ALLOWED) == set(ROOMS)


@pytest.mark.parametrize("path", sorted((ROOT / "runfold").glob("*.py")), ids=lambda path: path.name)
def test_the_domain_has_no_io_no_clock_and_no_chance(path: Path) -> None:
    if path.name in NOT_PURE_BY_NAME:
        return

    assert not set(imports(path)) & IMPURE


@pytest.mark.parametrize("path", sorted((ROOT / "runfold").glob("*.py")), ids=lambda path: path.name)
def test_the_domain_does_not_know_what_is_not_pure(path: Path) -> None:
    """`runfold/__init__.py` names it for type checkers, and loads it only for who asks."""
    known = {
        node.module
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ImportFrom) and node.module is not None
    }

    impure = {f"runfold.{name.removesuffix('.py')}" for name in NOT_PURE_BY_NAME}
    assert not {name for name in known if name.startswith("runfold.client")} | known & impure


def test_one_place_chooses_the_sqlite_for_tests_and_benches_too() -> None:
    """Of two in one process neither sees the other's locks (sqlite.org/howtocorrupt.html, 2.2.1): who closes his last
    connection cuts the journal's index off under the other's readers, which end by SIGBUS.
    """
    beside = [path for folder in ("tests", "bench", "deploy") for path in (ROOT / folder).rglob("*.py")]

    choosing = [
        str(path.relative_to(ROOT)) for path in (*FILES, *beside) if {"sqlite3", "pysqlite3"} & set(imports(path))
    ]

    assert choosing == ["eventstore/sqlite3_module.py"]


def test_what_tests_share_stands_in_no_file_of_tests() -> None:
    tests = [path for folder in ("tests", "bench", "deploy") for path in (ROOT / folder).rglob("*.py")]
    taken = [
        f"{path.relative_to(ROOT)} -> {node.module}"
        for path in tests
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and re.match(r"tests\..*\btest_", node.module or "")
    ]

    assert taken == []


def test_every_file_says_what_it_promises() -> None:
    silent = [str(path.relative_to(ROOT)) for path in FILES if not ast.get_docstring(ast.parse(path.read_text()))]

    assert silent == []
