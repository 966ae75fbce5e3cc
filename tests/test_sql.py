"""Anybody may ask in SQL; nobody changes anything by it, nor keeps the machine busy for ever."""

import re
from pathlib import Path

import pytest

from projections.sql import STABLE, Questions
from runfold.errors import BadRequest
from tests.histories import all_events
from tests.ledgers import act, opened, say

ROOT = Path(__file__).parent.parent
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    async with opened(tmp_path) as ledger:
        await act(ledger, say("one", "two"))
    return tmp_path


def test_a_question_is_answered_from_the_log_and_the_views(data: Path) -> None:
    questions = Questions(data)

    columns, rows, is_cut = questions.ask(
        "SELECT e.type, r.status, json_extract(e.data, '$.text') AS text FROM events e JOIN runs r USING (run_id)"
        " WHERE e.type = 'message' ORDER BY e.position"
    )
    questions.close()

    assert (columns, is_cut) == (["type", "status", "text"], False)
    assert rows == [("message", "running", "one"), ("message", "running", "two")]


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM main.events",
        "UPDATE folded.runs SET title = 'x'",
        "INSERT INTO folded.artifacts DEFAULT VALUES",
        "CREATE TABLE t (a)",
        "DROP TABLE folded.runs",
        "CREATE TEMP TABLE t (a)",
        "ATTACH DATABASE 'other.db' AS other",
        "DETACH DATABASE folded",
        "PRAGMA query_only = OFF",
        "PRAGMA user_version",
        "BEGIN",
        "VACUUM INTO 'copy.db'",
        "SELECT load_extension('x')",
        "SELECT 1; DELETE FROM main.events",
        "SELECT nothing FROM nowhere",
        "",
    ],
)
def test_whatever_is_no_single_select_is_refused_and_changes_nothing(data: Path, query: str) -> None:
    before = all_events(data)
    questions = Questions(data)

    if query:
        with pytest.raises(BadRequest):
            questions.ask(query)
    else:
        assert questions.ask(query) == ([], [], False)
    questions.close()

    assert all_events(data) == before
    assert not list(Path.cwd().glob("*.db"))


def test_a_question_without_end_is_ended(data: Path) -> None:
    questions = Questions(data)

    with pytest.raises(BadRequest, match=r"longer than 0\.05 s"):
        questions.ask(ENDLESS, seconds=0.05)
    assert questions.ask("SELECT 1")[1] == [(1,)]
    questions.close()


def test_more_rows_than_asked_for_are_cut_and_it_is_said(data: Path) -> None:
    questions = Questions(data)

    rows, is_cut = questions.ask("SELECT position FROM events ORDER BY position", limit=2)[1:]
    questions.close()

    assert (rows, is_cut) == ([(1,), (2,)], True)


def test_the_documented_tables_and_columns_are_those_that_are_there(data: Path) -> None:
    page = (ROOT / "docs" / "sql.md").read_text()
    documented = {name: columns.replace("`", "").split(", ")
                  for name, columns in re.findall(r"^\| `(\w+)` \|[^|]*\| (.*) \|$", page, re.M)}  # fmt: skip
    questions = Questions(data)

    found = {name: questions.ask(f"SELECT * FROM {name} LIMIT 0")[0] for name in STABLE}
    questions.close()

    assert documented == found
