"""Every place at which the code lets a test kill it is killed at by a test."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("runfold", "eventstore", "projections", "runner", "api", "cli")


def calls(name: str) -> Iterator[ast.expr]:
    """The first argument of every call of a function of that name."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and node.args:
                    called = node.func
                    if getattr(called, "id", getattr(called, "attr", "")) == name:
                        yield node.args[0]


def places() -> set[str]:
    """The names in the code, `*` where a part is only known when it runs; the log's own for each who rewrites it."""
    found: set[str] = set()
    whats = [argument.value for argument in calls("rewriting") if isinstance(argument, ast.Constant)]
    for argument in calls("reach"):
        if isinstance(argument, ast.Constant):
            found.add(str(argument.value))
        elif isinstance(argument, ast.JoinedStr):
            parts = [str(part.value) if isinstance(part, ast.Constant) else "*" for part in argument.values]
            text = "".join(parts)
            found |= {text.replace("*", str(what)) for what in whats} if text.startswith("*.") else {text}
    return found


def test_every_named_failpoint_is_killed_at_by_a_test() -> None:
    told = {
        node.value
        for path in (ROOT / "tests").rglob("test_*.py")
        if path.name != Path(__file__).name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    named = places()

    missing = [
        place for place in sorted(named) if not any(re.fullmatch(place.replace("*", r"\w+"), text) for text in told)
    ]

    assert {"clean.archived", "redact.committed", "restore.settled", "before.*"} <= named
    assert missing == []


def test_a_name_stands_for_one_place() -> None:
    names = [str(argument.value) for argument in calls("reach") if isinstance(argument, ast.Constant)]

    assert sorted(names) == sorted(set(names))
