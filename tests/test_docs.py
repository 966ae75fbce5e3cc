"""What is documented exists, and what exists is documented."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cli.main import COMMANDS, group
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


def hints() -> list[tuple[str, str, str]]:
    """Every command that a text of ours tells somebody to type: its name, what stands behind it, and the file."""
    found: list[tuple[str, str, str]] = []
    for package in ("runfold", "eventstore", "projections", "runner", "api", "cli"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for text in texts_of(ast.parse(path.read_text())):
                for name, rest in re.findall(r"(?:`|^next: |^)runfold ([a-z]+)(?=[ `]|$)([^`]*)", text):
                    # What is run is not ours, and neither is what is said about it.
                    ours = re.split(r" -- |  \(", rest)[0]
                    found.append((name, ours, str(path.relative_to(ROOT))))
    return found


def texts_of(tree: ast.AST) -> Iterator[str]:
    """The texts of a program, those with values in them as one."""
    if isinstance(tree, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in tree.values)
    elif isinstance(tree, ast.Constant) and isinstance(tree.value, str):
        yield tree.value
    else:
        for part in ast.iter_child_nodes(tree):
            yield from texts_of(part)


def options_of(name: str) -> set[str]:
    context = click.Context(group)
    command = group.get_command(context, name)
    assert command is not None
    below = command.commands.values() if isinstance(command, click.Group) else ()
    return {option for each in (command, *below) for param in each.params for option in param.opts} | {"--help"}


def test_every_command_that_a_hint_names_can_be_typed() -> None:
    # `runfold archive` is the name of a format.
    unknown = {name: path for name, _, path in hints() if name not in {*COMMANDS, "archive"}}

    assert unknown == {}
    assert {"ps", "up", "retry"} <= {name for name, _, _ in hints()}


def test_every_option_that_a_hint_names_is_one_of_that_command() -> None:
    named = [(name, option, path) for name, rest, path in hints() for option in re.findall(r"--[a-z][a-z-]*", rest)]

    assert [it for it in named if it[1] not in options_of(it[0])] == []
    assert {("ps", "--all"), ("redact", "--text")} <= {(name, option) for name, option, _ in named}


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
