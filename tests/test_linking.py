"""Events that are read by columns are checked as one by one: each is what was appended, or it is named."""

from contextlib import closing
from pathlib import Path

import pytest

from eventstore.columns import columns_at, columns_between
from eventstore.framing import Framing
from eventstore.keeping.redacting import redact
from eventstore.log_file import open_reader
from eventstore.proof.checking import open_checked
from eventstore.proof.linking import unsound
from eventstore.reading import rows_after
from eventstore.splicing import read_found
from eventstore.sqlite3_module import sqlite3
from runfold.commands import Complete, Observe, OpenReported
from runfold.errors import Damaged
from runfold.events import Message, RunQueued
from tests.ledgers import RUN, act, opened

OTHER = "r_" + "b" * 26
SECRET = "hunter2-swordfish"
ALTERED = [
    "type = 'log_line'",
    "schema = 7",
    "tenant = 'another'",
    "actor = 'user:x'",
    "correlation = 'c'",
    "at_us = at_us + 1",
    "cause = x'00112233445566778899aabbccddeeff'",
    "command = NULL",
    "sent = NULL",
    "sent = x''",
    "id = x'00112233445566778899aabbccddeeff'",
    "salt = x'00112233445566778899aabbccddeeff'",
    "data = CAST('{}' AS BLOB)",
    "hash = CAST(zeroblob(32) AS BLOB)",
]


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """Two runs, one in the other; the first event of each command was sent, others were decided."""
    async with opened(tmp_path) as ledger:
        await act(ledger, OpenReported(queued=RunQueued(driver="reported")), run_id=OTHER)
        for number in range(5):
            for run_id in (RUN, OTHER):
                said = tuple(Message(role="assistant", text=f"{SECRET} \u00e9 {number} {part}") for part in range(3))
                await act(ledger, Observe(events=said), run_id=run_id)
        for run_id in (RUN, OTHER):
            await act(ledger, Complete(), run_id=run_id)
    return tmp_path


def wrong_between(data: Path, after: int, upto: int) -> list[str]:
    with closing(open_reader(data)) as reader:
        columns = columns_between(reader, after, upto)
        assert columns is not None
        return [wrong.message for wrong in unsound(reader, columns)]


def test_what_was_appended_is_sound_wherever_a_reading_begins_and_ends(data: Path) -> None:
    with closing(open_reader(data)) as reader:
        head = reader.execute("SELECT position FROM head").fetchone()[0]
        found = [columns_between(reader, after, head) for after in range(head)]
        places = [it for (it,) in rows_after(reader, after=0, stream=OTHER, end=head, limit=20, columns="position")]
        found += [columns_at(reader, places[start : start + 3]) for start in range(10)]
        found += [columns_at(reader, [2, 5, 6, head])]

        assert all(columns is not None and not list(unsound(reader, columns)) for columns in found)


@pytest.mark.parametrize("altered", ALTERED)
def test_an_event_of_which_anything_was_altered_is_named(data: Path, altered: str) -> None:
    with closing(sqlite3.connect(data / "log.db", isolation_level=None)) as file:
        file.execute("DROP TRIGGER events_stay")
        file.execute(f"UPDATE events SET {altered} WHERE position = 9")

    assert "event 9, " in wrong_between(data, 0, 20)[0]
    assert not wrong_between(data, 0, 8)


def test_what_a_redaction_leaves_is_sound_and_nothing_else_in_its_place(data: Path) -> None:
    redact(data, RUN, texts=(SECRET,), actor="user:a")
    left = wrong_between(data, 0, 30)
    with closing(sqlite3.connect(data / "log.db", isolation_level=None)) as file:
        position = file.execute("SELECT min(position) FROM events WHERE digest IS NOT NULL").fetchone()[0]
        file.execute("UPDATE events SET data = CAST('{}' AS BLOB) WHERE position = ?", (position,))

    assert not left
    assert wrong_between(data, 0, 30) == [f"event {position} of `{RUN}` is not what its redaction left of it"]


def test_a_hole_in_a_run_is_named(data: Path) -> None:
    with closing(sqlite3.connect(data / "log.db", isolation_level=None)) as file:
        file.execute("DROP TRIGGER events_remain")
        run_id, version = file.execute("SELECT run_id, version FROM events WHERE position = 9").fetchone()
        file.execute("DELETE FROM events WHERE position = 9")

    assert f"version {version} of `{run_id}` is missing" in wrong_between(data, 0, 30)[0]


def test_an_event_whose_salt_was_taken_is_not_served(data: Path) -> None:
    with closing(sqlite3.connect(data / "log.db", isolation_level=None)) as file:
        file.execute("DROP TRIGGER events_stay")
        file.execute("PRAGMA ignore_check_constraints = ON")
        file.execute("UPDATE events SET salt = NULL WHERE position = 7")
    with closing(open_checked(data)) as reader:
        _, (first, *_) = read_found(reader, after=0, framing=Framing(), stream=None, rows_max=6)

        assert first.scanned_to == 6
        with pytest.raises(Damaged, match="event"):
            read_found(reader, after=6, framing=Framing(), stream=None, rows_max=6)
