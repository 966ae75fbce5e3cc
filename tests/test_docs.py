"""What is documented exists, and what exists is documented."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cli.main import COMMANDS
from cli.settings import ENVIRONMENT
from runfold.events import EVENT_CLASSES, EVENT_TYPES
from runfold.reasons import REASONS
from tests.terminal import environment, first_line, read, started

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


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


def console_lines() -> list[str]:
    return [line[2:] for block in code_blocks("console") for line in block.splitlines() if line.startswith("$ ")]


def test_every_make_target_and_bench_of_the_readme_exists() -> None:
    targets = [line.split()[1] for line in console_lines() if line.startswith("make ")]
    benches = re.findall(r"`python -m bench\.(\w+)`", README)

    assert targets
    assert [name for name in targets if f"\n{name}:" not in (ROOT / "Makefile").read_text()] == []
    assert benches
    assert [name for name in benches if not (ROOT / "bench" / f"{name}.py").exists()] == []


def test_every_link_of_the_readme_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", README)

    assert links
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


@pytest.mark.slow
def test_every_command_line_of_the_readme_runs_as_it_stands(tmp_path: Path) -> None:
    """In the order of the page, in an empty folder, on a server of its own."""
    environ = {**environment(tmp_path / "data"), "PYTHONPATH": str(ROOT)}
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
    lines = [line for line in console_lines() if not line.startswith(("make ", "runfold up"))]
    curls = [line for line in lines if not line.startswith("runfold ")]

    for line in lines:
        if line not in curls:
            done = subprocess.run(
                ["bash", "-c", line], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60
            )
            assert "error:" not in done.stderr, f"{line}\n{done.stderr}"
            # An empty folder has no tests, which pytest says with 5.
            assert done.returncode in ((0, 5) if "pytest" in line else (0,)), f"{line}\n{done.stderr}"
    with started(tmp_path / "data", "up", "--port", "0") as server:
        address = first_line(server).partition("/login")[0].removeprefix("http://")
        curled = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join(curls).replace("localhost:8321", address)],
            cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (curled.returncode, "run_completed" in curled.stdout) == (0, True), curled.stderr + curled.stdout
        for program in code_blocks("python"):
            subprocess.run(
                [sys.executable, "-c", program.replace("localhost:8321", address)],
                cwd=tmp_path, env=environ, check=True, timeout=60,
            )  # fmt: skip

    assert read(tmp_path / "data", "ps")["items"][0]["stats"]["tokens"]["total"] == 940


def test_every_test_that_a_promise_names_is_there() -> None:
    promises = (ROOT / "docs" / "promises.md").read_text()
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(), re.M)
    }
    named = set(re.findall(r"`(test_\w+)`", promises))
    programs = re.findall(r"`(\w+/[\w/]+\.py)`", promises)

    assert named
    assert sorted(named - there) == []
    assert [name for name in programs if not (ROOT / name).exists()] == []
    # Each of the numbered tests of event stores has its row, in order: a test, or why there is none.
    assert re.findall(r"^\| T(\d+) \| \S", promises, re.M) == [str(number) for number in range(1, 69)]
