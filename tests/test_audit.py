"""The audit view: whatever is asked, it answers what a patient reader of the whole log would find."""

import fnmatch
import json
import random
import re
import shlex
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventstore.log_file import open_reader
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from projections.audit.answers import GROUPS, count_audit, find_audit
from projections.audit.question import AuditFilter
from projections.engine.drift import Drift
from projections.engine.views import Views
from runfold.commands import Annotate, Cancel, Complete
from runfold.envelope import SYSTEM_STREAM, Recorded, time_text
from runfold.errors import BadRequest, RunfoldError
from runfold.events import CancelRequested, ContextSet, Event, EventRedacted, FileWritten, Message, event_class
from tests.audit_pages import every_page
from tests.histories import all_events, new_event, write_histories
from tests.ledgers import act, opened
from tests.served import OTHER, VIEWER, serving
from tests.tampering import edit, leave
from tests.terminal import first_line, read, record, runfold, started

PAGE = Path(__file__).parent.parent / "docs" / "audit.md"


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

    rows = views.connection.execute("SELECT path, text FROM audit ORDER BY position").fetchall()
    paths = views.connection.execute("SELECT name FROM audit_paths").fetchall()
    reader = open_reader(tmp_path)
    faults = [fault.message for fault in Drift(reader, tmp_path).faults() if "audit" in fault.message]

    assert rows[:3] == [(None, ""), (None, ""), (None, "harmless")]
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

    with pytest.raises(BadRequest, match=f"^`{next(iter(asked))}` is `[^']*`; allowed: "):
        find_audit(views.connection, wanted)
    views.close()


@pytest.mark.slow
def test_a_time_may_be_typed_as_so_long_ago(tmp_path: Path) -> None:
    record(tmp_path)

    lately = read(tmp_path, "audit", "--since", "1h")["total"]
    before = read(tmp_path, "audit", "--until", "1h")["total"]
    refused = runfold(tmp_path, "audit", "--since", "yesterday")

    assert lately > 5
    assert before == 0
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: `since` is `yesterday`; allowed: ")
    assert "7d" in refused.stderr


@pytest.mark.slow
def test_a_list_of_the_audit_says_where_it_is_cut_and_what_is_no_type(tmp_path: Path) -> None:
    record(tmp_path)
    total = read(tmp_path, "audit")["total"]

    cut = runfold(tmp_path, "audit", "--limit", "2")
    whole = runfold(tmp_path, "audit", "--limit", str(total))
    mistyped = runfold(tmp_path, "audit", "--type", "run_canceled")
    counted = runfold(tmp_path, "audit", "--type", "run_canceled", "--by", "actor")
    of_run = runfold(tmp_path, "events", "@last", "--type", "run_canceled")
    nobody = runfold(tmp_path, "audit", "--actor", "nobody")

    assert (len(cut.stdout.splitlines()), cut.stderr) == (2, "note: cut after 2 events; --limit 20 shows more\n")
    assert (len(whole.stdout.splitlines()), whole.stderr) == (total, "")
    for done in (mistyped, counted, of_run):
        assert done.returncode == 0
        assert "note: no type of event is called `run_canceled`; did you mean `run_cancelled`?" in done.stderr
    assert (nobody.returncode, nobody.stdout, nobody.stderr) == (0, "", "note: nothing in the audit is so\n")


async def test_a_value_that_is_no_text_is_told_as_json(log: SqliteLog, tmp_path: Path) -> None:
    await log.append(
        "r_a", [new_event(ContextSet(key="is", value={"so": True}), at_us=1, tenant="default")], expected=0
    )
    views = Views.open(tmp_path)
    views.refresh()

    (item,) = find_audit(views.connection, AuditFilter(tenant=None)).items

    views.close()
    assert item.text == 'is {"so":true}'


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
async def test_what_the_audit_shows_of_an_altered_event_is_refused_and_named(log: SqliteLog, tmp_path: Path) -> None:
    first = await log.append("r_a", [new_event(Message(text="a"), at_us=1, tenant="default")], expected=0)
    await log.append("r_b", [new_event(CancelRequested(), at_us=1, tenant="default")], expected=0)
    sound = runfold(tmp_path, "audit")
    connection = edit(tmp_path)
    connection.execute("UPDATE events SET at_us = at_us + 1 WHERE position = ?", (first.last,))
    leave(connection)

    altered = runfold(tmp_path, "audit")
    other = runfold(tmp_path, "audit", "--type", "cancel_requested")

    assert (sound.returncode, len(sound.stdout.splitlines())) == (0, 2)
    assert altered.returncode != 0
    assert f"event {first.last}" in altered.stderr
    assert "r_a" in altered.stderr
    assert (other.returncode, len(other.stdout.splitlines())) == (0, 1)


async def test_a_message_that_is_long_is_shown_by_its_beginning(log: SqliteLog, tmp_path: Path) -> None:
    new = [new_event(event, at_us=1, tenant="default") for event in (Message(text="x" * 9_000), CancelRequested())]
    await log.append("r_a", new, expected=0)
    views = Views.open(tmp_path)
    views.refresh()

    assert [len(item.text) for item in find_audit(views.connection, AuditFilter(tenant=None)).items] == [0, 200]
    views.close()


QUESTIONS = re.findall(r"^\| ([^|]+) \| `runfold ([^`]+)` \| `(/api/[^`]+)` \|$", PAGE.read_text(), re.M)


@pytest.mark.slow
def test_each_documented_question_has_the_same_answer_in_the_terminal_and_over_http(tmp_path: Path) -> None:
    with started(tmp_path, "up", "--port", "0") as server:
        url = first_line(server).partition("/login")[0]
        token = (tmp_path / "token").read_text().strip()

        def ask(method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(url + path, data=data, headers=headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return answer.status, json.loads(answer.read())
            except urllib.error.HTTPError as error:
                return error.code, json.loads(error.read())

        run_id = ask("POST", "/api/runs/external", {"title": "all of it"})[1]["id"]
        wrote = {"events": [{"type": "file_written", "data": {"path": "src/x.py"}}]}
        asked = {"kind": "cost", "summary": "go on?"}
        assert ask("POST", f"/api/runs/{run_id}/events", wrote)[0] == 200
        assert ask("POST", f"/api/runs/{run_id}/approvals", asked)[0] == 201
        (approval,) = [item["approval_id"] for item in ask("GET", f"/api/runs/{run_id}/approvals")[1]["items"]]
        assert ask("POST", f"/api/runs/{run_id}/approvals/{approval}", {"decision": "grant"})[0] < 300
        assert ask("POST", f"/api/runs/{run_id}/control", {"action": "cancel", "reason": "too dear"})[0] < 300
        assert ask("POST", f"/api/runs/{run_id}/control", {"action": "pause"})[0] == 409

        for question, command, path in QUESTIONS:
            words = shlex.split(command)
            limit = [] if "--causes" in words else ["--limit", "200"]
            here = read(tmp_path, *words, *limit)
            status, there = ask("GET", path.replace("@last", run_id) + ("&" if "?" in path else "?") + "limit=200")

            assert status == 200, question
            assert there == here, question
            assert here.get("items") or here.get("causes") or here.get("effects"), question

    assert len(QUESTIONS) >= 9
