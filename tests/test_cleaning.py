"""What goes of old runs is archived and proved first; what stays lists every run, proves itself, survives a crash."""

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import uuid
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from eventstore.failpoints import NAME as FAILPOINT
from eventstore.keeping.cleaning import candidates, clean
from eventstore.keeping.restoring import restore
from eventstore.keeping.summing import Summing
from eventstore.log_file import open_reader
from eventstore.reading import bounds, read_page
from eventstore.sqlite import SqliteLog
from eventstore.sqlite3_module import sqlite3
from projections.audit.answers import find_audit
from projections.audit.question import AuditFilter
from projections.engine.rebuilding import rebuild
from projections.engine.views import Views
from projections.history import run_history
from projections.run_list import RunFilter, RunList, list_runs
from projections.usage import GROUPS, CostFilter, costs
from runfold.commands import Complete, Observe, OpenReported, StartStep
from runfold.envelope import SYSTEM_STREAM, Recorded
from runfold.errors import BadRequest, NotFound, Refused, Trimmed
from runfold.events import EVENT_CLASSES, FileWritten, NoteAdded, RunArchived, RunQueued, TokenUsage, encode_data
from tests.folders import contents
from tests.given import graph
from tests.leaked import record
from tests.ledgers import RUN, act, opened, say, stored
from tests.tampering import edit, find, leave
from tests.terminal import read, runfold

EVER = 2**62


async def record_several(data: Path) -> None:
    """A run with output and blobs, one that goes on all the time between the others, and another final one."""
    async with opened(data, "r_open") as ledger:
        await act(ledger, say("before"), run_id="r_open")
    await record(data, secret="nothing secret")
    async with opened(data, "r_open") as ledger:
        await act(ledger, say("between"), run_id="r_open")
        await act(ledger, OpenReported(queued=RunQueued(driver="reported", title="second")), run_id="r_two")
        await act(ledger, say("a", "b"), run_id="r_two")
        await act(ledger, Observe(events=(FileWritten(path="a.py"), TokenUsage(input_tokens=3))), run_id="r_two")
        await act(ledger, Complete(), run_id="r_two")
        await act(ledger, say("after"), run_id="r_open")


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    await record_several(tmp_path / "data")
    return tmp_path / "data"


def listed(data: Path) -> RunList:
    views = Views.open(data)
    try:
        views.refresh()
        return list_runs(views.connection, RunFilter(tenant=None))
    finally:
        views.close()


def essence(found: RunList) -> dict[str, object]:
    """What a list must never lose of a run."""
    return {run.id: (run.title, run.status, run.reason_code, run.stats, run.completed_at) for run in found.items}


async def test_cleaning_empties_activity_and_output_and_nothing_else(data: Path) -> None:
    before = stored(data)

    done = clean(data, candidates(data, before_us=EVER, whole=False), actor="user:a")

    after = stored(data)
    assert done.runs == (RUN, "r_two")
    assert [(event.id, event.type, event.hash) for event in after[:-1]] == [
        (event.id, event.type, event.hash) for event in before
    ]
    for event, was in zip(after, before, strict=False):
        goes = EVENT_CLASSES[event.type] in ("activity", "output")
        assert event.data == (None if goes else was.data), event.type
    assert after[-1].type == "run_archived"
    assert not (data / "runs" / RUN / "output.log").exists()
    assert [event.data is None for event in stored(data, "r_open")] == [False] * len(stored(data, "r_open"))
    assert find(data) == []


async def test_a_cleaned_run_is_listed_with_all_that_it_came_to(data: Path) -> None:
    before = listed(data)

    clean(data, candidates(data, before_us=EVER, whole=False), actor="user:a")

    after = listed(data)
    counted = {run.id: run.stats.events for run in before.items}
    for run in after.items:
        was = next(other for other in before.items if other.id == run.id)
        assert msgspec.structs.replace(run.stats, events=0) == msgspec.structs.replace(was.stats, events=0)
        assert (run.title, run.status, run.message, run.report.metrics) == (
            was.title, was.status, was.message, was.report.metrics,
        )  # fmt: skip
        assert run.stats.events == counted[run.id] + (run.id != "r_open")
    rebuild(data)
    assert listed(data) == after
    assert find(data) == []


def holding(data: Path, text: bytes) -> list[str]:
    """The log's file and its journal, where a text can be read in them."""
    return sorted(path.name for path in data.glob("log.db*") if text in path.read_bytes())


@pytest.mark.parametrize("whole", [False, True], ids=["emptied", "trimmed"])
async def test_what_was_cleaned_can_be_read_in_no_page_and_no_journal(data: Path, whole: bool) -> None:
    chance = random.Random(7)
    async with opened(data, "r_open") as ledger:
        await act(ledger, OpenReported(queued=RunQueued(driver="reported")), run_id="r_long")
        for number in range(60):
            said = [f"TAKEN {'x' * chance.randrange(3_000)} TAKEN" for _ in range(3)]
            await act(ledger, say(*said), run_id="r_long")
            await act(ledger, say("x" * chance.randrange(3_000)), run_id="r_open")
            if number == 30:
                # So that some of it stands in the file, and the rest in its journal alone.
                with closing(sqlite3.connect(data / "log.db")) as other:
                    other.execute("PRAGMA wal_checkpoint(PASSIVE)")
        await act(ledger, Complete(), run_id="r_long")
        assert len(holding(data, b"TAKEN")) == 2

        # The log is open meanwhile, as it is in a server, so its journal stays.
        chosen = await asyncio.to_thread(candidates, data, before_us=EVER, whole=whole)
        done = await asyncio.to_thread(clean, data, chosen, whole=whole, actor="user:a")

        assert done.is_gone
        assert holding(data, b"TAKEN") == []


async def test_cleaning_again_finds_nothing_and_an_import_brings_all_of_it_back(data: Path) -> None:
    before = stored(data)
    output = (data / "runs" / RUN / "output.log").read_bytes()
    done = clean(data, candidates(data, before_us=EVER, whole=False), actor="user:a")
    assert candidates(data, before_us=EVER, whole=False) == []

    restored = restore(data / done.archive, data, actor="user:a")

    assert sum(run.events_filled for run in restored) == done.events
    assert [(event.hash, event.data, event.salt) for event in stored(data)[: len(before)]] == [
        (event.hash, event.data, event.salt) for event in before
    ]
    assert (data / "runs" / RUN / "output.log").read_bytes() == output
    assert find(data) == []


async def test_a_run_that_is_young_or_not_over_is_not_touched(data: Path) -> None:
    first = stored(data)[-1]

    assert [found.run_id for found in candidates(data, before_us=EVER, whole=True)] == [RUN, "r_two"]
    assert [found.run_id for found in candidates(data, before_us=first.recorded_at_us, whole=True)] == []


async def test_what_changed_while_it_was_archived_is_left(data: Path) -> None:
    chosen = candidates(data, before_us=EVER, whole=True)
    late = [msgspec.structs.replace(found, version=found.version - 1) for found in chosen]
    before = stored(data)

    done = clean(data, late, whole=True, actor="user:a")

    assert (done.runs, done.skipped) == ((), (RUN, "r_two"))
    assert stored(data) == before


async def test_nothing_goes_that_does_not_prove_itself(data: Path) -> None:
    connection = edit(data)
    connection.execute("UPDATE events SET data = CAST('{}' AS BLOB) WHERE run_id = ? AND type = 'message'", (RUN,))
    leave(connection)
    before = contents(data)

    with pytest.raises(BadRequest, match="does not match its hash"):
        clean(data, candidates(data, before_us=EVER, whole=True), whole=True, actor="user:a")

    assert contents(data) == before


async def test_an_output_that_is_not_what_its_turn_ended_with_is_not_cleaned_away(data: Path) -> None:
    (data / "runs" / RUN / "output.log").write_bytes(b"altered")
    before = contents(data)

    with pytest.raises(Refused, match=r"`output.log` of `r_a` is not what event"):
        clean(data, candidates(data, before_us=EVER, whole=False), actor="user:a")

    assert contents(data) == before


async def test_a_trimmed_run_is_listed_with_status_tokens_and_cost_also_by_a_rebuild(data: Path) -> None:
    before = essence(listed(data))

    done = clean(data, candidates(data, before_us=EVER, whole=True), whole=True, actor="user:a")

    assert done.runs == (RUN, "r_two")
    assert essence(listed(data)) == before
    rebuild(data)
    assert essence(listed(data)) == before
    assert find(data) == []
    assert not (data / "runs" / RUN).exists()
    assert list(data.glob("blobs/*/*")) == []
    told = [event.event() for event in stored(data, SYSTEM_STREAM)]
    assert [event.run_id for event in told if isinstance(event, RunArchived)] == [RUN, "r_two"]


def audited(data: Path, run_id: str) -> list[tuple[int, str]]:
    views = Views.open(data)
    try:
        views.refresh()
        found = find_audit(views.connection, AuditFilter(tenant=None, run_id=run_id, order="asc")).items
        return [(item.position, item.type) for item in found]
    finally:
        views.close()


async def test_of_a_trimmed_run_the_audit_keeps_what_is_told_of_it_elsewhere(data: Path) -> None:
    async with opened(data, "r_open") as ledger:
        with pytest.raises(Refused):
            await act(ledger, Complete(), run_id=RUN)
    before = audited(data, RUN)

    clean(data, candidates(data, before_us=EVER, whole=True), whole=True, actor="user:a")
    after = audited(data, RUN)

    assert [type_name for _, type_name in after] == ["command_refused", "run_archived"]
    assert after[0] in before
    assert before[0] not in after
    assert [item["text"] for item in read(data, "audit", "--type", "run_archived")["items"]] == ["trimmed"] * 2
    assert find(data) == []
    rebuild(data)
    assert audited(data, RUN) == after
    assert find(data) == []


def told(data: Path) -> dict[str, object]:
    """What the views tell of costs and of the ways of the runs, but for what is only said of a whole log."""
    views = Views.open(data)
    try:
        views.refresh()
        spent = {by: costs(views.connection, CostFilter(tenant=None, by=by)) for by in GROUPS}
        ways = {run_id: run_history(views.connection, run_id) for run_id in (RUN, "r_two", "r_open")}
        return {"spent": spent, "ways": ways}
    finally:
        views.close()


async def test_a_trimmed_run_keeps_its_costs_by_every_group_and_its_history_also_by_a_rebuild(data: Path) -> None:
    async with opened(data, "r_open") as ledger:
        order = OpenReported(queued=RunQueued(driver="reported", workflow="nba", steps=graph("a", "b")))
        await act(ledger, order, run_id="r_two_steps")
        for step in "ab":
            usage = TokenUsage(model=f"m{step}", provider="p", input_tokens=7, output_tokens=2, cost_micros=5)
            await act(ledger, StartStep(step=step), run_id="r_two_steps")
            await act(ledger, Observe(events=(usage, TokenUsage(input_tokens=1))), run_id="r_two_steps")
        await act(ledger, Complete(), run_id="r_two_steps")
    before = told(data)

    done = clean(data, candidates(data, before_us=EVER, whole=True), whole=True, actor="user:a")

    assert told(data) == before
    rebuild(data)
    assert told(data) == before
    assert find(data) == []
    restore(data / done.archive, data, actor="user:a")
    clean(data, candidates(data, before_us=EVER, whole=True), whole=True, actor="user:a")
    rebuild(data)
    again = told(data)
    assert again["spent"] == before["spent"]
    assert find(data) == []


def test_what_is_too_much_for_one_event_is_kept_coarser_with_the_same_sums() -> None:
    summing = Summing("r_long")
    for number in range(3_000):
        usage = TokenUsage(step=f"step-{number}", model=f"m{number % 3}", input_tokens=2, cost_micros=1)
        summing.add(recorded_of(usage, version=number + 1))
    summary = summing.summary(position=3_000, bytes_max=60_000)

    assert len(msgspec.json.encode(summary)) <= 60_000
    assert {tuple(row[1:4]) for row in summary["usage"]} == {("m0", "", ""), ("m1", "", ""), ("m2", "", "")}
    assert sum(row[4] for row in summary["usage"]) == 6_000
    assert sum(row[9] for row in summary["usage"]) == 3_000


def recorded_of(event: TokenUsage, *, version: int) -> Recorded:
    return Recorded(
        position=version, run_id="r_long", version=version, id=str(uuid.uuid4()), type="token_usage", schema=1,
        at_us=1, recorded_at_us=1, tenant="default", actor="worker:w", cause=None, command=None, sent=None,
        correlation="", hash=b"", data=encode_data(event),
    )  # fmt: skip


async def test_a_trim_takes_nothing_from_the_readers_of_other_runs(data: Path) -> None:
    kept = stored(data, "r_open")
    clean(data, candidates(data, before_us=EVER, whole=True), whole=True, actor="user:a")

    assert stored(data, "r_open") == kept
    reader = open_reader(data)
    first = bounds(reader).first
    for stream, after in ((None, 0), (RUN, 0), ("r_two", 0), (None, first - 2)):
        with pytest.raises(Trimmed):
            read_page(reader, after=after, stream=stream)
    assert read_page(reader, after=first - 1).events[-1].run_id == SYSTEM_STREAM
    reader.close()
    async with opened(data, "r_open") as ledger:
        with pytest.raises(Trimmed):
            await act(ledger, Observe(events=(NoteAdded(text="late"),)), run_id=RUN)
        # The same order again is known to be of a run that was.
        with pytest.raises(Trimmed):
            await act(ledger, OpenReported(queued=RunQueued(driver="reported")), run_id=RUN)
        with pytest.raises(NotFound):
            await ledger.state("r_unknown")
        await act(ledger, say("goes on"), run_id="r_open")
    assert find(data) == []


async def test_a_trimmed_run_comes_back_from_its_archive(data: Path) -> None:
    before = essence(listed(data))
    events = [(event.hash, event.data) for event in stored(data)]
    done = clean(data, candidates(data, before_us=EVER, whole=True), whole=True, actor="user:a")
    listed(data)

    restore(data / done.archive, data, actor="user:a")

    assert [(event.hash, event.data) for event in stored(data)] == events
    assert essence(listed(data)) == before
    assert find(data) == []
    rebuild(data)
    assert essence(listed(data)) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [("events",), ("status", "--at", "v1"), ("replay",), ("note", "late"), ("export", "a")]
)
async def test_whoever_asks_for_the_events_of_a_trimmed_run_is_told_what_brings_them_back(
    data: Path, command: tuple[str, ...]
) -> None:
    done = clean(data, candidates(data, before_us=EVER, whole=True), whole=True, actor="user:a")

    refused = runfold(data, command[0], RUN, *command[1:], cwd=data)
    hint = re.search(r"`runfold (import \S+)`", refused.stderr)

    assert refused.returncode == 1
    assert f"error: the events of run `{RUN}` were trimmed from the log" in refused.stderr
    assert hint is not None
    assert hint[1] == f"import {done.archive}"
    assert runfold(data, *hint[1].split(), cwd=data).returncode == 0
    assert runfold(data, command[0], RUN, *command[1:], cwd=data).returncode == 0


@pytest.mark.parametrize("whose", ["r_open", SYSTEM_STREAM])
async def test_an_event_that_is_missing_beside_a_trim_is_still_found(data: Path, whose: str) -> None:
    clean(data, candidates(data, before_us=EVER, whole=True), whole=True, actor="user:a")

    connection = edit(data)
    connection.execute(
        "DELETE FROM events WHERE position = (SELECT min(position) FROM events WHERE run_id = ?)", (whose,)
    )
    leave(connection)

    assert find(data) != []


async def test_a_run_that_somebody_took_away_is_found_beside_a_trim(data: Path) -> None:
    clean(data, candidates(data, before_us=EVER, whole=True)[1:], whole=True, actor="user:a")

    connection = edit(data)
    connection.execute("DELETE FROM events WHERE run_id = ?", (RUN,))
    leave(connection)

    messages = [fault.message for fault in find(data)]
    assert f"run `{RUN}` has no events any more" in messages


PROGRAM = """
import sys
from pathlib import Path
from eventstore.keeping.cleaning import candidates, clean
data, whole = Path(sys.argv[1]), sys.argv[2] == "whole"
clean(data, candidates(data, before_us=2**62, whole=whole), whole=whole, actor="user:a")
"""
PLACES = (
    "clean.archived", "clean.before_commit", "clean.committed", "clean.settled", "clean.one_done",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("how", ["emptied", "whole"])
async def test_cleaning_that_is_killed_has_taken_a_run_or_has_not(data: Path, place: str, how: str) -> None:
    before = essence(listed(data))

    killed = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(data), how], env={**os.environ, FAILPOINT: place}, check=False
    )
    log = await SqliteLog.open(data)
    await log.close()

    assert killed.returncode == -signal.SIGKILL
    assert find(data) == []
    assert not (data / "pending").exists()
    is_done = place in ("clean.committed", "clean.settled", "clean.one_done")
    assert (data / "runs" / RUN / "output.log").exists() != is_done
    if how == "whole":
        assert essence(listed(data)) == before
    # Again, from wherever it was.
    clean(data, candidates(data, before_us=EVER, whole=how == "whole"), whole=how == "whole", actor="user:a")
    assert find(data) == []
    assert candidates(data, before_us=EVER, whole=how == "whole") == []


@pytest.mark.slow
@pytest.mark.parametrize("how", [(), ("--trim",)], ids=["emptied", "trimmed"])
async def test_what_was_cleaned_can_be_read_in_no_file_of_the_views(data: Path, how: tuple[str, ...]) -> None:
    async with opened(data, "r_long") as ledger:
        for number in range(20):
            await act(ledger, say(f"TAKEN {number} " + "x" * 150), run_id="r_long")
        await act(ledger, Complete(), run_id="r_long")
    listed(data)
    assert any(b"TAKEN" in path.read_bytes() for path in data.glob("views.*"))

    assert runfold(data, "clean", "--older-than", "0s", *how).returncode == 0

    listed(data)
    assert [path.name for path in data.glob("views.*") if b"TAKEN" in path.read_bytes()] == []


@pytest.mark.slow
async def test_a_person_sees_what_would_go_before_it_goes(data: Path) -> None:
    before = contents(data)

    listing = runfold(data, "clean", "--older-than", "0s", "--dry-run")

    assert RUN in listing.stdout
    assert "nothing was changed" in listing.stderr
    assert {name: content for name, content in contents(data).items() if not name.startswith("views")} == {
        name: content for name, content in before.items() if not name.startswith("views")
    }
    assert runfold(data, "clean", "--older-than", "0s").returncode == 0
    assert runfold(data, "verify").returncode == 0
    assert "0 runs" in runfold(data, "clean", "--older-than", "0s").stderr
