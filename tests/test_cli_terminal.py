"""On a terminal: colour where it is wanted, and completion in real shells."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bench.filling import agents, fill
from tests.terminal import Screen, environment, read, record, runfold

pytestmark = pytest.mark.slow
HERE = str(Path(sys.executable).parent)
ESCAPE = "\x1b["


def terminal(data: Path, *arguments: str, **more: str) -> str:
    """What a command shows on a terminal."""
    environ = {"TERM": "xterm", **environment(data), **more}
    environ = {name: value for name, value in environ.items() if value}
    with closing(Screen([sys.executable, "-m", "runfold", *arguments], environ)) as screen:
        assert screen.end() == 0, screen.shown
        return screen.shown


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    record(folder)
    return folder


@pytest.mark.parametrize("arguments", [["ps"], ["status", "@last"], ["events", "@last"]], ids=" ".join)
def test_there_is_colour_on_a_terminal_only_and_where_nobody_objects(data: Path, arguments: list[str]) -> None:
    assert ESCAPE in terminal(data, *arguments, NO_COLOR="", TERM="xterm-256color")
    assert ESCAPE not in terminal(data, *arguments, NO_COLOR="1", TERM="xterm-256color")
    assert ESCAPE not in terminal(data, *arguments, NO_COLOR="", TERM="dumb")
    assert ESCAPE not in runfold(data, *arguments, TERM="xterm-256color").stdout


def test_a_title_cannot_drive_the_terminal(tmp_path: Path) -> None:
    runfold(tmp_path, "run", "--quiet", "--title", "a\x1b[2Jb\rc\u202ed", "--", "true")

    shown = terminal(tmp_path, "ps", NO_COLOR="1") + terminal(tmp_path, "status", "@last", NO_COLOR="1")

    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "a [2Jb c d" in shown


def completing(data: Path) -> dict[str, str]:
    environ = environment(data, TERM="dumb", PS1="$ ")
    environ["PATH"] = f"{HERE}:{environ['PATH']}"
    return environ


SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'eval "$(runfold completion bash)"'),
    "zsh": (["zsh", "-f", "-i"], 'autoload -U compinit; compinit -D; eval "$(runfold completion zsh)"'),
}


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, data: Path) -> Iterator[Screen]:
    command, teach = SHELLS[request.param]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    with closing(Screen(command, completing(data))) as screen:
        screen.type(f"{teach}; echo taught-$((1 + 1))\n")
        screen.wait_for("taught-2")
        yield screen


def test_a_shell_completes_our_commands(shell: Screen) -> None:
    shell.type("runfold statu\t--help\n")

    shell.wait_for("Show where a run stands")


def test_a_shell_completes_the_ids_of_runs(shell: Screen, data: Path) -> None:
    run_id = read(data, "ps")["items"][0]["id"]

    shell.type(f"runfold status {run_id[:6]}\t")

    shell.wait_for(run_id[6:])


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes_commands_and_ids(data: Path) -> None:
    run_id = read(data, "ps")["items"][0]["id"]
    script = 'runfold completion fish | source; complete -C "runfold statu"; complete -C "runfold status r_"'

    done = subprocess.run(
        ["fish", "-N", "-c", script], env=completing(data), capture_output=True, text=True, timeout=60
    )

    names = [line.split("\t")[0] for line in done.stdout.splitlines()]
    assert names == ["status", run_id], done.stderr


def test_completion_in_an_empty_folder_offers_nothing_and_complains_of_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [f"{HERE}/runfold"],
        env=environment(
            tmp_path / "none", _RUNFOLD_COMPLETE="bash_complete", COMP_WORDS="runfold status r_", COMP_CWORD="2"
        ),
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_a_long_event_stays_on_one_line_of_the_terminal(tmp_path: Path) -> None:
    record(tmp_path, f"print({'word ' * 60!r})")

    for arguments in (["events", "@last"], ["watch", "@last"]):
        shown = terminal(tmp_path, *arguments, NO_COLOR="1")
        lines = [line for line in shown.splitlines() if "subprocess_output" in line]

        assert [len(line) for line in lines] == [80], arguments
        assert lines[0].endswith("…")


def test_a_rebuild_and_a_proof_show_on_a_terminal_how_far_they_are_and_a_pipe_gets_none_of_it(tmp_path: Path) -> None:
    fill(tmp_path, agents(4_000))

    rebuilding, proving = terminal(tmp_path, "rebuild"), terminal(tmp_path, "verify")
    piped = [runfold(tmp_path, command).stderr for command in ("rebuild", "verify")]

    assert re.search(r"\r\x1b\[K\[█*░*\] \d+ %  [\d,]+ of [\d,]+  [\d,]+ events/s", rebuilding)
    assert re.search(r"up to event [\d,]+ in \S+ \([\d,]+ events/s\)", rebuilding)
    assert re.search(r"\r\x1b\[Kevents: 1,000 of [\d,]+ \(\d+ %\)", proving)
    assert re.search(r"\r\x1b\[Kview runs: [\d,]+ of [\d,]+ \(\d+ %\)", proving)
    assert ["\r" in text for text in piped] == [False, False]
    assert "events/s" in piped[0]
