"""Reading and acting through a server is reading and acting on the data folder: the same commands, the same answers."""

import functools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.first_token import local_token
from cli.remote import open_remote
from cli.settings import load_settings
from deploy.loopback import free_port
from projections.run_list import RunFilter
from runfold.errors import Unavailable
from tests.terminal import first_line, read, record, runfold, started

pytestmark = pytest.mark.slow
FULL_STORY = (
    "import json, sys\n"
    "def say(**event): print(json.dumps({'runfold': event}), flush=True)\n"
    "print('hello'); print('oh', file=sys.stderr)\n"
    "say(type='units_planned', total=2, unit_name='frame')\n"
    "for number in range(300): say(type='file_read', path=f'src/{number}.py')\n"
    "say(type='file_written', path='a.py', bytes=12)\n"
    "say(type='token_usage', model='m', input_tokens=900, output_tokens=40, cost_micros=1500)\n"
)
ELSEWHERE = "http://127.0.0.1:9"  # The port of `discard`: nobody listens there.


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A data folder with three runs, and the address of its server."""
    data = tmp_path_factory.mktemp("data")
    record(data, FULL_STORY)
    record(data, "raise SystemExit(3)")
    record(data)
    with started(data, "up", "--port", "0") as server:
        yield data, first_line(server).partition("/login")[0]


@functools.cache
def _oldest(data: Path) -> str:
    return str(read(data, "ps")["items"][-1]["id"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["ps"],
        ["ps", "--all"],
        ["ps", "--limit", "1"],
        ["ps", "--status", "failed", "--status", "stopped"],
        ["ps", "--workflow", "none"],
        ["status", "OLDEST"],
        ["status", "@last"],
        ["status", "OLDEST", "--at", "9"],
        ["history", "OLDEST"],
        ["audit", "--limit", "200"],
        ["audit", "OLDEST", "--path", "src/1*.py", "--class", "activity", "--limit", "7"],
        ["audit", "--by", "type"],
        ["steps", "OLDEST", "--status", "pending"],
        ["costs", "--by", "run"],
        ["report", "OLDEST"],
        ["why", "OLDEST"],
        ["why", "@last"],
        ["diff", "OLDEST", "@last"],
        ["diff", "OLDEST", "--at", "v5", "--other-at", "v9"],
        ["label", "OLDEST"],
        ["events", "OLDEST"],
        ["events", "OLDEST", "--causes", "4"],
        ["events", "OLDEST", "--limit", "7"],
        ["events", "OLDEST", "--limit", "250"],
        ["events", "OLDEST", "--after", "5", "--type", "file_written", "--type", "run_completed"],
    ],
    ids=" ".join,
)
def test_a_reading_command_prints_the_same_through_a_server(served: tuple[Path, str], arguments: list[str]) -> None:
    data, url = served
    oldest = _oldest(data)
    wanted = [oldest if argument == "OLDEST" else argument for argument in arguments]

    here = read(data, *wanted)
    there = read(data, *wanted, RUNFOLD_URL=url)

    assert there == here
    assert here.get("items") != [] or {"none", "pending"} & set(arguments)


def test_watching_prints_the_same_events_through_a_server(served: tuple[Path, str]) -> None:
    data, url = served
    oldest = _oldest(data)

    here = runfold(data, "watch", oldest, "--json")
    there = runfold(data, "watch", oldest, "--json", RUNFOLD_URL=url)

    assert [json.loads(line) for line in there.stdout.splitlines()] == [
        json.loads(line) for line in here.stdout.splitlines()
    ]
    assert len(here.stdout.splitlines()) > 300
    assert (here.returncode, there.returncode) == (0, 0)


@pytest.mark.parametrize("more", [[], ["--tail", "1"], ["--tail", "0"], ["-f"]], ids=" ".join)
def test_the_output_is_the_same_through_a_server(served: tuple[Path, str], more: list[str]) -> None:
    data, url = served
    oldest = _oldest(data)

    here = runfold(data, "logs", oldest, *more)
    there = runfold(data, "logs", oldest, *more, RUNFOLD_URL=url)

    assert (there.returncode, there.stdout) == (0, here.stdout), there.stderr
    assert ("file_written" in here.stdout) == (more[:1] != ["--tail"])


def test_a_run_without_output_says_so_through_a_server_too(served: tuple[Path, str]) -> None:
    data, url = served
    second = read(data, "ps")["items"][1]["id"]

    here = runfold(data, "logs", second)
    there = runfold(data, "logs", second, RUNFOLD_URL=url)

    assert (there.returncode, there.stdout, there.stderr) == (here.returncode, here.stdout, here.stderr)


def test_a_run_is_found_by_what_was_typed_through_a_server_too(served: tuple[Path, str]) -> None:
    data, url = served
    run_id = read(data, "ps")["items"][1]["id"]

    typo = runfold(data, "status", f"{run_id[:9]}-{run_id[10:]}", RUNFOLD_URL=url)

    assert read(data, "status", run_id[2:14], RUNFOLD_URL=url)["id"] == run_id
    assert runfold(data, "status", "r_", RUNFOLD_URL=url).stderr.startswith("error: `r_` is the beginning of more")
    assert f"did you mean `{run_id}`?" in typo.stderr


def test_a_running_run_is_cancelled_through_its_server(served: tuple[Path, str]) -> None:
    data, url = served
    program = "import time; print('up', flush=True); time.sleep(60)"
    with started(data, "run", "--quiet", "--", sys.executable, "-c", program) as driver:
        assert first_line(driver) == "up"
        run_id = read(data, "ps", "--status", "running", RUNFOLD_URL=url)["items"][0]["id"]

        cancelled = runfold(data, "cancel", run_id, "--reason", "enough", RUNFOLD_URL=url)
        waited = runfold(data, "wait", run_id, RUNFOLD_URL=url)

        assert cancelled.returncode == 0, cancelled.stderr
        assert f"next: runfold status {run_id}" in cancelled.stderr
        assert waited.returncode == 143
        assert driver.wait(30) == 143
        assert read(data, "history", run_id)["items"][-2]["actor"] == "user:admin"


def test_a_run_is_labelled_and_noted_through_its_server_as_without_one(served: tuple[Path, str]) -> None:
    data, url = served
    second = read(data, "ps")["items"][1]["id"]

    for address in ("", url):
        noted = runfold(data, "note", second, "looked", "at", RUNFOLD_URL=address)
        labelled = read(data, "label", second, "team=core", "x=1", "--title", "better", RUNFOLD_URL=address)
        removed = read(data, "label", second, "--remove", "team", RUNFOLD_URL=address)
        refused = runfold(data, "label", second, "team", RUNFOLD_URL=address)

        assert (noted.returncode, noted.stdout) == (0, ""), noted.stderr
        assert labelled == {"id": second, "title": "better", "labels": {"team": "core", "x": "1"}}
        assert removed["labels"] == {"x": "1"}
        assert "`team` is no label" in refused.stderr
    notes = read(data, "events", second, "--type", "note_added")["items"]
    assert [item["data"]["text"] for item in notes] == ["looked at"] * 2


def test_a_refusal_of_the_server_arrives_with_its_hint(served: tuple[Path, str]) -> None:
    data, url = served

    refused = runfold(data, "resume", "@last", RUNFOLD_URL=url)

    assert refused.returncode == 1
    assert refused.stderr.startswith("error: run `r_")
    assert "\n\nhint: " in refused.stderr


def test_a_wrong_token_is_told_from_no_server(served: tuple[Path, str]) -> None:
    data, url = served

    unknown = runfold(data, "ps", RUNFOLD_URL=url, RUNFOLD_TOKEN="wrong")
    nobody = runfold(data, "ps", RUNFOLD_URL=ELSEWHERE)

    assert (unknown.returncode, nobody.returncode) == (1, 1)
    assert "hint: RUNFOLD_TOKEN has to be a token of that server" in unknown.stderr
    assert f"error: the server at {ELSEWHERE} does not answer: " in nobody.stderr


@pytest.mark.parametrize("arguments", [["recover"], ["rebuild"]], ids=" ".join)
def test_what_needs_the_data_folder_says_on_which_machine_to_run_it(tmp_path: Path, arguments: list[str]) -> None:
    done = runfold(tmp_path, *arguments, RUNFOLD_URL="https://runs.example.com/team")

    assert done.returncode == 1
    assert "hint: run it on runs.example.com, without RUNFOLD_URL" in done.stderr


def test_an_address_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    done = runfold(tmp_path, "ps", RUNFOLD_URL="runs.example.com")

    assert done.returncode == 1
    assert "error: `runs.example.com` from RUNFOLD_URL is not the address of a server" in done.stderr


def test_who_asked_before_asks_a_server_that_was_started_anew(tmp_path: Path) -> None:
    record(tmp_path)
    local_token(tmp_path)
    port = str(free_port())
    there = {"RUNFOLD_URL": f"http://127.0.0.1:{port}", "RUNFOLD_DATA": str(tmp_path)}
    with open_remote(load_settings({}, environ=there, folder=tmp_path)) as runs:
        totals: list[int | None] = []
        for _ in range(2):
            with started(tmp_path, "up", "--port", port) as server:
                first_line(server)
                totals.append(runs.list_runs(RunFilter(tenant=None)).total)
        with pytest.raises(Unavailable, match="does not answer"):
            runs.list_runs(RunFilter(tenant=None))

    assert totals == [1, 1]
