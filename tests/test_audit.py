"""The audit view: whatever is asked, it answers what a patient reader of the whole log would find."""

import csv
import fnmatch
import importlib.util
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventstore.reading import open_reader
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from projections.audit import GROUPS, AuditFilter, AuditItem, count_audit, find_audit
from projections.drift import Drift
from projections.views import Views
from runfold.commands import Annotate, Cancel, Complete
from runfold.envelope import SYSTEM_STREAM, Recorded, time_text
from runfold.errors import BadRequest, RunfoldError
from runfold.events import CancelRequested, Event, EventRedacted, FileWritten, Message, event_class
from tests.histories import all_events, new_event, write_histories
from tests.ledgers import act, opened
from tests.served import OTHER, VIEWER, serving
from tests.terminal import read, record, runfold


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    log = await SqliteLog.open(tmp_path)
    yield log
    await log.close()


def about(recorded: Recorded) -> str:
    fields = msgspec.json.decode(recorded.data or b"{}")
    return str(fields["run_id"]) if recorded.run_id == SYSTEM_STREAM and "run_id" in fields else recorded.run_id


def path_of(recorded: Recorded) -> str:
    return str(msgspec.json.decode(recorded.data or b"{}").get("path") or "")


def workflows(events: list[Recorded]) -> dict[str, Any]:
    opened = [recorded for recorded in events if recorded.type == "run_queued"]
    return {recorded.run_id: msgspec.json.decode(recorded.data or b"{}").get("workflow") for recorded in opened}


def every_page(views: Views, wanted: AuditFilter) -> list[AuditItem]:
    items, cursor = list[AuditItem](), None
    while True:
        page = find_audit(views.connection, msgspec.structs.replace(wanted, cursor=cursor))
        items += page.items
        cursor = page.next_cursor
        if cursor is None:
            return items


@pytest.mark.parametrize("seed", range(3))
async def test_every_question_is_answered_as_a_reader_of_the_whole_log_would(
    log: SqliteLog, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    await write_histories(log, chance, appends=80)
    events = [recorded for recorded in all_events(tmp_path) if recorded.type != "subprocess_output"]
    known, middle = workflows(events), events[len(events) // 2]
    questions: list[tuple[dict[str, Any], Callable[[Recorded], bool]]] = [
        ({}, lambda it: True),
        ({"actor": ("user:bob",)}, lambda it: it.actor == "user:bob"),
        ({"actor": ("user", "system")}, lambda it: it.actor.startswith("user:") or it.actor == "system"),
        ({"type": ("cancel_requested", "run_failed")}, lambda it: it.type in ("cancel_requested", "run_failed")),
        ({"classes": ("lifecycle",)}, lambda it: event_class(it.type) == "lifecycle"),
        ({"classes": ("activity", "audit")}, lambda it: event_class(it.type) in ("activity", "audit")),
        ({"type": ("file_read",), "classes": ("audit",)}, lambda it: False),
        ({"run_id": "r_003"}, lambda it: about(it) == "r_003"),
        ({"workflow": "build"}, lambda it: known.get(about(it)) == "build"),
        ({"path": "src/x.py"}, lambda it: path_of(it) == "src/x.py"),
        ({"path": "src/y/"}, lambda it: path_of(it).startswith("src/y/")),
        ({"path": "src/*.py"}, lambda it: fnmatch.fnmatchcase(path_of(it), "src/*.py")),
        ({"q": "100%"}, lambda it: b"100%" in (it.data or b"")),
        ({"since": time_text(middle.recorded_at_us)}, lambda it: it.recorded_at_us >= middle.recorded_at_us),
        ({"until": time_text(middle.recorded_at_us)}, lambda it: it.recorded_at_us < middle.recorded_at_us),
        ({"cause": middle.cause or ""}, lambda it: it.cause == (middle.cause or "")),
        ({"command": middle.command}, lambda it: it.command == middle.command),
    ]
    views = Views.open(tmp_path)
    views.refresh()

    for tenant in (None, "other"):
        for asked, is_wanted in questions:
            wanted = AuditFilter(tenant=tenant, limit=chance.choice([7, 200]), **asked)
            expected = [it for it in reversed(events) if is_wanted(it) and tenant in (None, it.tenant)]

            found = every_page(views, wanted)

            assert [item.position for item in found] == [it.position for it in expected], asked
            assert [item.run_id for item in found] == [about(it) for it in expected]
            assert find_audit(views.connection, wanted).total == len(expected)
    views.close()


@pytest.mark.parametrize("by", GROUPS)
async def test_counts_are_those_of_the_rows(log: SqliteLog, tmp_path: Path, by: str) -> None:
    await write_histories(log, random.Random(5), appends=60)
    views = Views.open(tmp_path)
    views.refresh()
    wanted = AuditFilter(tenant=None, limit=200)
    rows = every_page(views, wanted)

    counts = count_audit(views.connection, wanted, by=by)

    keys = {"class": "event_class"}
    if by == "day":
        expected = Counter(row.recorded_at[:10] for row in rows)
    else:
        expected = Counter(getattr(row, keys.get(by, by)) for row in rows)
    assert {item.key: item.count for item in counts} == expected
    assert [item.count for item in counts] == sorted(expected.values(), reverse=True)
    views.close()


async def test_pages_neither_repeat_nor_skip_while_events_arrive(log: SqliteLog, tmp_path: Path) -> None:
    await write_histories(log, random.Random(6), appends=40)
    before = [it.position for it in reversed(all_events(tmp_path)) if it.type != "subprocess_output"]
    views = Views.open(tmp_path)
    seen, cursor, chance = list[int](), None, random.Random(7)

    while True:
        views.refresh()
        page = find_audit(views.connection, AuditFilter(tenant=None, limit=9, cursor=cursor))
        seen += [item.position for item in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
        await write_histories(log, chance, appends=3)

    assert seen == before
    views.close()


async def test_who_cancelled_and_which_runs_wrote_a_file_is_one_question(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await act(ledger, Cancel(reason="too dear"))
        with pytest.raises(RunfoldError):
            await act(ledger, Complete(reason_code="REPORTED"))
    views = Views.open(tmp_path)
    views.refresh()

    cancelled = find_audit(views.connection, AuditFilter(tenant="default", type=("run_cancelled",))).items
    refused = find_audit(views.connection, AuditFilter(tenant="default", type=("command_refused",))).items

    assert [(item.actor, item.text) for item in cancelled] == [("user:a", "CANCELLED_BY_USER too dear")]
    assert [(item.actor, item.run_id, item.tenant) for item in refused] == [("user:a", "r_a", "default")]
    assert refused[0].text.startswith("complete ")
    views.close()


async def test_what_was_redacted_is_gone_and_a_fold_anew_agrees(log: SqliteLog, tmp_path: Path) -> None:
    secret: list[Event] = [FileWritten(path="src/hunter2.py"), Message(text="hunter2"), Message(text="harmless")]
    new = [new_event(event, at_us=1, tenant="default") for event in secret]
    first = await log.append("r_a", new, expected=0)
    views = Views.open(tmp_path)
    views.refresh()
    # As redaction does: the data goes in the same transaction as the event that says so.
    redacted = [new_event(EventRedacted(version=number), at_us=2, tenant="default") for number in (1, 2)]
    await log.append("r_a", redacted, expected=first.last)
    connection = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
    connection.execute(
        "UPDATE events SET data = NULL, salt = NULL, digest = zeroblob(32) WHERE run_id = 'r_a' AND version <= 2"
    )
    connection.close()
    views.refresh()

    rows = views.connection.execute("SELECT version, path, text FROM audit ORDER BY position").fetchall()
    paths = views.connection.execute("SELECT name FROM audit_paths").fetchall()
    reader = open_reader(tmp_path)
    faults = [fault.message for fault in Drift(reader, tmp_path).faults() if "audit" in fault.message]

    assert rows[:3] == [(1, None, ""), (2, None, ""), (3, None, "harmless")]
    assert (paths, faults) == ([], [])
    reader.close()
    views.close()


@pytest.mark.parametrize(
    "asked",
    [{"since": "yesterday"}, {"cursor": "x"}, {"order": "up"}, {"limit": 201}, {"q": "\ud800"}, {"actor": ("\ud800",)}],
    ids=str,
)
async def test_a_question_that_cannot_be_asked_is_named(log: SqliteLog, tmp_path: Path, asked: dict[str, Any]) -> None:
    views = Views.open(tmp_path)
    wanted = AuditFilter(tenant=None, **asked)

    with pytest.raises(BadRequest, match=next(iter(asked))):
        find_audit(views.connection, wanted)
    views.close()


async def test_a_tenant_sees_only_its_own_audit_over_http(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        mine = await served.open_run(title="mine")
        theirs = await served.open_run(token=OTHER, title="theirs")
        await served.ledger.execute(mine, Annotate(note="kept"), actor="user:anna", tenant="default")

        own = await (await served.ask("GET", "/api/audit", token=VIEWER)).json()
        others = await (await served.ask("GET", "/api/audit?class=lifecycle,audit", token=OTHER)).json()
        foreign = await (await served.ask("GET", f"/api/audit?run_id={mine}", token=OTHER)).json()
        counts = await (await served.ask("GET", "/api/audit/counts?by=actor", token=VIEWER)).json()

    assert {item["run_id"] for item in own["items"]} == {mine}
    assert {item["run_id"] for item in others["items"]} == {theirs}
    assert foreign == {"items": [], "total": 0, "next_cursor": None}
    assert {"key": "user:anna", "count": 1} in counts["items"]


@pytest.mark.slow
def test_an_audit_is_taken_away_as_lines_as_csv_and_as_parquet(tmp_path: Path) -> None:
    data = tmp_path / "data"
    record(data, "print('hello')")
    items = read(data, "audit", "--limit", "200")["items"]

    lines = runfold(data, "audit", "--jsonl")
    table = runfold(data, "audit", "--csv", str(tmp_path / "audit.csv"))
    parquet = runfold(data, "audit", "--parquet", str(tmp_path / "audit.parquet"))

    assert [json.loads(line) for line in lines.stdout.splitlines()] == items
    assert table.returncode == 0, table.stderr
    with (tmp_path / "audit.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{name: "" if value is None else str(value) for name, value in item.items()} for item in items]
    if importlib.util.find_spec("pyarrow"):
        arrow: Any = importlib.import_module("pyarrow.parquet")
        assert arrow.read_table(tmp_path / "audit.parquet").to_pylist() == items
    else:
        assert "pip install" in parquet.stderr


async def test_a_message_that_is_long_is_shown_by_its_beginning(log: SqliteLog, tmp_path: Path) -> None:
    new = [new_event(event, at_us=1, tenant="default") for event in (Message(text="x" * 9_000), CancelRequested())]
    await log.append("r_a", new, expected=0)
    views = Views.open(tmp_path)
    views.refresh()

    assert [len(item.text) for item in find_audit(views.connection, AuditFilter(tenant=None)).items] == [0, 200]
    views.close()
