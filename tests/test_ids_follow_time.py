"""The ids that runfold gives itself follow time, whoever gives them: what many runs append at once shares pages."""

import os
import uuid
from pathlib import Path

import pytest

import runfold
from runfold.envelope import SYSTEM_STREAM
from tests.ledgers import stored
from tests.terminal import ROOT, read, record
from tests.terminal import runfold as tool

EXAMPLE = ROOT / "examples" / "phases"


def versions(data: Path, stream: str) -> set[int | None]:
    """Of the UUIDs of a stream's events and commands."""
    events = stored(data, stream)
    assert events
    ids = [event.id for event in events] + [event.command for event in events if event.command]
    return {uuid.UUID(text).version for text in ids}


def test_a_driven_run_its_redaction_and_its_end_have_ids_by_time(tmp_path: Path) -> None:
    assert record(tmp_path, "print('a word')").returncode == 0
    (run,) = read(tmp_path, "ps", "--all")["items"]

    assert tool(tmp_path, "redact", run["id"], "--text", "a word").returncode == 0

    names = {event.type for event in stored(tmp_path, run["id"])}
    assert {"turn_started", "run_completed", "event_redacted"} <= names
    # An own id is v7, one derived from it v8 (RFC 9562).
    assert versions(tmp_path, run["id"]) <= {7, 8}


def test_a_run_that_is_driven_by_hand_has_ids_by_time(tmp_path: Path) -> None:
    for words in (("run", "--workflow", "analysis"), ("step", "start", "@last", "0")):
        assert tool(tmp_path, *words, cwd=EXAMPLE).returncode == 0

    assert versions(tmp_path, read(tmp_path, "status", "@last")["id"]) <= {7, 8}


def test_what_the_server_writes_on_its_own_stream_has_ids_by_time(tmp_path: Path) -> None:
    assert tool(tmp_path, "token", "create", "--name", "ci", "--role", "viewer").returncode == 0

    assert versions(tmp_path, SYSTEM_STREAM) <= {7, 8}


def test_what_a_program_reports_has_ids_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RUNFOLD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RUNFOLD_DATA", str(tmp_path))

    with runfold.run("nba") as run:
        run.usage(model="m", input_tokens=900, output_tokens=40)

    # Its first and last events are of commands with a key, and have ids by name, so that a retry is known.
    told = [event.id for event in stored(tmp_path, run.id) if event.type == "token_usage"]
    assert [uuid.UUID(text).version for text in told] == [7]
