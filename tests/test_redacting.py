"""What is redacted is gone: from the events, the views, the files and every page of the log; the proofs hold."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from eventstore.failpoints import NAME as FAILPOINT
from eventstore.keeping.redacting import redact
from eventstore.sqlite import SqliteLog
from projections.engine.views import Views
from projections.runs import get_run
from runfold.commands import Complete, Observe, OpenReported
from runfold.errors import BadRequest, NotAllowed
from runfold.events import (
    Message,
    RunQueued,
)
from tests import terminal
from tests.folders import files_with
from tests.leaked import SECRET, record
from tests.ledgers import RUN, act, opened, stored
from tests.tampering import find
from tests.terminal import read, runfold


async def test_a_redacted_secret_is_gone_from_every_file_and_every_proof_holds(tmp_path: Path) -> None:
    await record(tmp_path)
    assert len(files_with(tmp_path, SECRET)) >= 4

    redacted = redact(tmp_path, RUN, texts=[SECRET], reason="leaked", actor="user:a")

    assert (redacted.events, redacted.blobs, redacted.files, redacted.is_gone) == (7, 2, 2, True)
    views = Views.open(tmp_path)
    views.refresh()
    run = get_run(views.connection, RUN, tenant=None)
    views.close()
    assert run is not None
    assert (run.status, run.title, run.message) == ("completed", "deploy with [redacted]", "done, [redacted]")
    assert (run.stats.files, run.stats.tokens.total, run.report.status) == (1, 12, "completed")
    assert find(tmp_path) == []
    assert [name for name in files_with(tmp_path, SECRET) if not name.startswith("views.")] == []
    assert [event.type for event in stored(tmp_path)][-7:] == ["event_redacted"] * 7
    assert (tmp_path / "runs" / RUN / "output.log").read_bytes() == b"login " + b"*" * len(SECRET) + b"\nok\n"


@pytest.mark.slow
async def test_the_command_leaves_the_secret_in_no_file_of_the_folder(tmp_path: Path) -> None:
    await record(tmp_path)

    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "--data", str(tmp_path), "redact", RUN, "--text", "-"],
        input=SECRET, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "next: runfold verify\n")
    assert files_with(tmp_path, SECRET) == []
    assert find(tmp_path) == []
    assert runfold(tmp_path, "verify").returncode == 0


async def test_what_has_the_form_of_a_secret_is_found_by_itself(tmp_path: Path) -> None:
    # In two halves: the ledger would not have stored it.
    await record(tmp_path)
    key = "ghp_" + "a" * 36
    output = tmp_path / "runs" / RUN / "notes.md"
    output.write_text(f"use {key} here")

    redacted = redact(tmp_path, RUN, by_form=True, actor="user:a")

    assert (redacted.texts, redacted.files) == (1, 1)
    assert files_with(tmp_path, key) == []
    assert find(tmp_path) == []


async def test_a_whole_event_is_taken_with_its_place_in_the_output(tmp_path: Path) -> None:
    await record(tmp_path, secret="innocent words")
    said = next(event for event in stored(tmp_path) if event.type == "subprocess_output")

    redact(tmp_path, RUN, positions=[said.position], actor="user:a")

    assert (tmp_path / "runs" / RUN / "output.log").read_bytes() == b"*" * len("login innocent words\n") + b"ok\n"
    assert next(event for event in stored(tmp_path) if event.type == "subprocess_output").data is None
    assert find(tmp_path) == []


async def test_an_event_that_the_runs_fate_hangs_on_is_not_taken_whole(tmp_path: Path) -> None:
    await record(tmp_path)
    last = stored(tmp_path)[-1]

    with pytest.raises(NotAllowed, match="nobody would know"):
        redact(tmp_path, RUN, positions=[last.position], actor="user:a")

    assert stored(tmp_path)[-1] == last


async def test_a_run_that_still_writes_its_output_is_not_redacted(tmp_path: Path) -> None:
    await record(tmp_path, ended=False)

    with pytest.raises(NotAllowed, match="still writes"):
        redact(tmp_path, RUN, texts=[SECRET], actor="user:a")

    assert (tmp_path / "runs" / RUN / "output.log").read_bytes().startswith(f"login {SECRET}".encode())


async def test_a_word_that_an_event_needs_is_not_taken_from_it(tmp_path: Path) -> None:
    await record(tmp_path)

    with pytest.raises(BadRequest, match="a word that event 1, `run_queued`, needs"):
        redact(tmp_path, RUN, texts=["reported"], actor="user:a")

    assert find(tmp_path) == []


async def test_who_holds_the_run_in_memory_forgets_what_was_redacted(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await act(ledger, OpenReported(queued=RunQueued(driver="reported", title=f"t {SECRET}")), run_id="r_b")
        await act(ledger, Observe(events=(Message(text=SECRET),)), run_id="r_b")
        assert SECRET in (await ledger.state("r_b")).title

        await asyncio.to_thread(redact, tmp_path, "r_b", texts=[SECRET], actor="user:a")

        assert (await ledger.state("r_b")).title == "t [redacted]"
        # And the next command is decided on what is left.
        assert (await act(ledger, Complete(), run_id="r_b")).run.title == "t [redacted]"


async def test_what_a_redaction_left_cannot_be_altered_unseen(tmp_path: Path) -> None:
    from tests.tampering import edit, leave

    await record(tmp_path)
    redact(tmp_path, RUN, texts=[SECRET], actor="user:a")
    said = next(event for event in stored(tmp_path) if event.type == "message")

    connection = edit(tmp_path)
    connection.execute("UPDATE events SET data = ? WHERE position = ?", (b'{"text":"I use nothing"}', said.position))
    leave(connection)

    assert f"event {said.position}, version {said.version} of `{RUN}`, is not what its redaction left of it" in [
        fault.message for fault in find(tmp_path)
    ]


PROGRAM = """
import sys
from pathlib import Path
from eventstore.keeping.redacting import redact
redact(Path(sys.argv[1]), "r_a", texts=[sys.argv[2]], actor="user:a")
"""
PLACES = ("redact.blob_stored", "redact.before_commit", "redact.committed", "intent.renamed", "redact.settled")


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
async def test_a_redaction_that_is_killed_is_done_or_was_never_begun(tmp_path: Path, place: str) -> None:
    await record(tmp_path)

    killed = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), SECRET], env={**os.environ, FAILPOINT: place}, check=False
    )
    log = await SqliteLog.open(tmp_path)  # Whoever opens it next for writing settles what is open.
    await log.close()

    assert killed.returncode == -signal.SIGKILL
    assert find(tmp_path) == []
    output = (tmp_path / "runs" / RUN / "output.log").read_bytes()
    is_done = place not in ("redact.blob_stored", "redact.before_commit")
    assert (SECRET.encode() not in output) == is_done
    assert (stored(tmp_path)[-1].type == "event_redacted") == is_done
    assert [*tmp_path.glob("runs/*/*.redacted"), *tmp_path.glob("pending")] == []
    # Again from wherever it was: the same end.
    redact(tmp_path, RUN, texts=[SECRET], actor="user:a")
    assert [name for name in files_with(tmp_path, SECRET) if not name.startswith("views.")] == []
    assert find(tmp_path) == []


@pytest.mark.slow
def test_a_redaction_says_what_it_did_not_find_and_which_archives_hold_the_run_as_it_was(tmp_path: Path) -> None:
    data = tmp_path / "data"
    terminal.record(data)
    run_id = read(data, "status", "@last")["id"]
    absent = runfold(data, "redact", "@last", "--text", "tr0ub4dor")
    sound = [*data.glob("archives/*")]
    assert runfold(data, "clean", "--older-than", "0s").returncode == 0
    (archive,) = data.glob("archives/*")

    cleaned = runfold(data, "redact", "@last", "--text", "hello")

    assert sound == []
    assert absent.returncode == 0
    assert f"note: `{run_id}` holds nothing of it" in absent.stderr
    assert "archives" not in absent.stderr
    assert f"note: `{archive}` holds the run as it was at " in cleaned.stderr
    assert "holds nothing of it" not in cleaned.stderr
