"""What is documented exists, and what exists is documented."""

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
