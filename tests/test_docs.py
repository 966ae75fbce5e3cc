"""What is documented exists, and what exists is documented."""

import ast
import re
from pathlib import Path

import pytest

from cli.main import COMMANDS
from cli.settings import ENVIRONMENT
from runfold.events import EVENT_CLASSES, EVENT_TYPES
from runfold.reasons import REASONS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EVENTS = (ROOT / "docs" / "events.md").read_text()
REASON_PAGE = (ROOT / "docs" / "reasons.md").read_text()


@pytest.mark.parametrize("name", sorted(EVENT_TYPES))
def test_every_event_type_is_documented_with_its_class_and_fields(name: str) -> None:
    line = re.search(rf"^\| `{name}` \|.*$", EVENTS, re.M)

    assert line, f"`{name}` has no line in docs/events.md"
    assert EVENT_CLASSES[name] in line[0]
    for field in EVENT_TYPES[name].__struct_fields__:
        assert f"`{field}`" in line[0]


def test_no_event_type_is_documented_that_does_not_exist() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", EVENTS, re.M)) == set(EVENT_TYPES)


def test_the_reason_codes_and_their_page_are_the_same() -> None:
    assert set(re.findall(r"^\| `([A-Z_<>]+)` \|", REASON_PAGE, re.M)) == set(REASONS)


def test_every_command_stands_in_the_readme() -> None:
    missing = [name for name in COMMANDS if f"runfold {name}" not in README]

    assert missing == []


def test_every_setting_stands_in_the_readme() -> None:
    missing = [name for name in ENVIRONMENT.values() if f"`{name}`" not in README]

    assert missing == []


# Commands of the whole tool: a hint may name one that is still to come, never one that nobody plans.
ANNOUNCED = frozenset(
    [
        "init",
        "check",
        "retry",
        "approve",
        "deny",
        "approvals",
        "note",
        "label",
        "open",
        "step",
        "steps",
        "report",
        "why",
        "diff",
        "costs",
        "audit",
        "sql",
        "replay",
        "rebuild",
        "verify",
        "clean",
        "archive",
        "redact",
        "export",
        "import",
        "backup",
        "restore",
        "token",
        "ingest",
    ]
)


def hinted_commands() -> dict[str, str]:
    """Every command that a text of ours tells somebody to type, and a file that does."""
    found: dict[str, str] = {}
    for package in ("runfold", "eventstore", "projections", "runner", "api", "cli"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    for name in re.findall(r"(?:`|^next: |^)runfold ([a-z]+)(?=[ `]|$)", node.value):
                        found[name] = str(path.relative_to(ROOT))
    return found


def test_every_command_that_a_hint_names_can_be_typed() -> None:
    unknown = {name: path for name, path in hinted_commands().items() if name not in {*COMMANDS, *ANNOUNCED}}

    assert unknown == {}
    assert {"ps", "up", "retry"} <= set(hinted_commands())
