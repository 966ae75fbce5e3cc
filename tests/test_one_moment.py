"""A reading is of one moment of the log, whatever others trim, redact or bring back between its statements."""

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from eventstore import writing
from eventstore.facts import read_facts
from eventstore.framing import Framing
from eventstore.keeping.cleaning import EVER_US, candidates, clean, trim
from eventstore.keeping.redacting import redact
from eventstore.keeping.restoring import restore
from eventstore.proof.checking import checks_of, open_checked
from eventstore.reading import last, read_page
from eventstore.ready import ReadyPages
from eventstore.sqlite3_module import sqlite3
from runfold.commands import Complete, Observe, OpenReported
from runfold.errors import Trimmed
from runfold.events import FileWritten, Message, RunQueued
from tests.ledgers import RUN, act, opened

OTHER = "r_" + "b" * 26
SECRETS = ("hunter2-swordfish", "correct-horse-battery")
BATCHES = 3


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """Two runs, one in the other, of which some events are redacted already."""
    folder = tmp_path / "data"
    async with opened(folder) as ledger:
        await act(ledger, OpenReported(queued=RunQueued(driver="reported")), run_id=OTHER)
        for number in range(BATCHES):
            said = [Message(role="assistant", text=f"the password is {secret}") for secret in SECRETS]
            for run_id in (RUN, OTHER):
                await act(ledger, Observe(events=(*said, FileWritten(path=f"{number}.py"))), run_id=run_id)
        for run_id in (RUN, OTHER):
            await act(ledger, Complete(), run_id=run_id)
    redact(folder, RUN, texts=SECRETS[:1], actor="user:a")
    return folder


def _read_all(reader: sqlite3.Connection) -> object:
    return read_page(reader).events


def _read_run(reader: sqlite3.Connection) -> object:
    return read_page(reader, stream=RUN, after=5).events


def _read_facts(reader: sqlite3.Connection) -> object:
    return read_facts(reader, kept=True)[0]


def _read_last(reader: sqlite3.Connection) -> object:
    return last(reader, RUN)


def _read_frames(reader: sqlite3.Connection) -> object:
    return ReadyPages().read_on(reader, after=5, framing=Framing(), stream=RUN, rows_max=4, reads=2)


def _trim_it(data: Path) -> None:
    trim(data, (RUN,), actor="user:a")


def _trim_another(data: Path) -> None:
    trim(data, (OTHER,), actor="user:a")


def _redact(data: Path) -> None:
    redact(data, RUN, texts=SECRETS[1:], actor="user:a")


def _clean(data: Path) -> None:
    clean(data, candidates(data, before_us=EVER_US, whole=False), actor="user:a")


def _bring_back(data: Path) -> None:
    for archive in sorted((data / "archives").iterdir()):
        restore(archive, data, actor="user:a")


def _told(read: Callable[[sqlite3.Connection], object], reader: sqlite3.Connection) -> object:
    try:
        return read(reader)
    except Trimmed:
        return Trimmed


@pytest.mark.slow
@pytest.mark.parametrize("read", [_read_all, _read_run, _read_facts, _read_frames, _read_last])
@pytest.mark.parametrize("rewrite", [_trim_it, _trim_another, _redact, _clean, _bring_back])
def test_what_is_rewritten_between_two_statements_of_a_reading_comes_before_or_after_all_of_it(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    read: Callable[[sqlite3.Connection], object],
    rewrite: Callable[[Path], None],
) -> None:
    # Who rewrites would wait for the reader to end, which here waits for him.
    monkeypatch.setattr(writing, "BUSY_TIMEOUT_MS", 1)
    if rewrite is _bring_back:
        _clean(data)
    known = list[object]()
    statement, is_between = 0, True
    while is_between:
        folder = tmp_path / str(statement)
        shutil.copytree(data, folder)
        with closing(open_checked(folder)) as reader:
            asked = list[str]()

            def look(sql: str, folder: Path = folder, asked: list[str] = asked, place: int = statement) -> None:
                asked.append(sql)
                if len(asked) == place:
                    rewrite(folder)

            reader.set_trace_callback(look)
            found = _told(read, reader)
            reader.set_trace_callback(None)
            checks = checks_of(folder)
            after = _told(read, reader)

            # The first reading is disturbed by nobody.
            known = known or [found]
            assert found in (known[0], after)
            assert checks is not None
            assert not checks.damaged
        is_between = len(asked) >= statement
        statement += 1

    assert statement > 3
