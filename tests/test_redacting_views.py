"""Whatever is redacted, the views that people read are those that a fold of what is left gives."""

import random
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from eventstore.keeping.redacting import redact
from eventstore.log_file import open_reader
from eventstore.sqlite import SqliteLog
from projections.catalogue import VIEWS
from projections.engine.drift import Drift
from projections.engine.rebuilding import rebuild
from projections.engine.views import Views
from projections.usage import CostFilter, costs
from runfold.errors import BadRequest, NotAllowed
from runfold.events import Event, FileWritten, Message, RunQueued, RunStarted, TokenUsage, Unknown, event_class
from tests.histories import CREATED_US, all_events, new_event, write_histories
from tests.rebuilds import cut_after

WORDS = ("edit", "hello", "build", "x.py", "deep", "y[1].py", "ship", "% done", "may I", "too dear", "knows", "dear")


def refresh(data: Path) -> None:
    views = Views.open(data)
    try:
        assert not views.refresh().stale
    finally:
        views.close()


def faults(data: Path) -> list[str]:
    reader = open_reader(data)
    try:
        return [fault.message for fault in Drift(reader, data).faults()]
    finally:
        reader.close()


def rows(data: Path) -> dict[str, list[str]]:
    """What the views show, but for numbers that stand for a name: those are given in the order of asking."""
    views = Views.open(data)
    try:
        views.refresh()
        connection = views.connection
        kept = {table for view in VIEWS if view.name != "audit" for table in view.tables}
        return {
            table: sorted(map(repr, connection.execute(f"SELECT * FROM {table}").fetchall())) for table in sorted(kept)
        }
    finally:
        views.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_views_after_any_redaction_are_those_of_a_rebuild(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    log = await SqliteLog.open(tmp_path)
    redacted = 0
    for _ in range(4):
        await write_histories(log, chance, appends=25, runs=5)
        refresh(tmp_path)
        for _ in range(3):
            recorded = chance.choice([event for event in all_events(tmp_path) if event.run_id != "$runfold"])
            whole = event_class(recorded.type) in ("activity", "output")
            positions = [recorded.position] if whole else []
            texts = [] if whole else chance.sample(WORDS, 2)
            # A run with an open turn is not redacted, nor a word that an event needs.
            with suppress(NotAllowed, BadRequest):
                done = redact(tmp_path, recorded.run_id, texts=texts, positions=positions, actor="user:a")
                redacted += done.events
            if chance.random() < 0.5:
                refresh(tmp_path)
    await log.close()
    refresh(tmp_path)

    assert redacted > 3
    assert faults(tmp_path) == []
    live = rows(tmp_path)
    rebuild(tmp_path)
    assert rows(tmp_path) == live
    assert faults(tmp_path) == []


@pytest.mark.slow
async def test_a_rebuild_that_was_cut_folds_anew_what_was_redacted_since(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    said = [FileWritten(path=f"secret/{number}.py", bytes=1) for number in range(60)]
    await log.append("r_a", [new_event(event, at_us=CREATED_US, tenant="default") for event in said], expected=0)
    await log.close()
    refresh(tmp_path)

    assert cut_after(tmp_path, 3).returncode == -signal.SIGKILL
    redact(tmp_path, "r_a", texts=["secret"], actor="user:a")
    rebuilt = rebuild(tmp_path)

    assert rebuilt.folded_from == 21
    assert faults(tmp_path) == []
    assert not any(b"secret/" in file.read_bytes() for file in tmp_path.glob("views.*.db"))


async def test_a_name_that_was_redacted_leaves_what_was_spent_under_it(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path)
    events: list[Event | Unknown] = [
        RunQueued(title="t", driver="reported"),
        RunStarted(),
        Message(text="secret-model is used"),
        TokenUsage(model="secret-model", input_tokens=5, output_tokens=2, cost_micros=7),
        FileWritten(path="secret-model/a.py", bytes=3),
    ]
    await log.append("r_a", [new_event(event, at_us=CREATED_US, tenant="default") for event in events], expected=0)
    await log.close()
    refresh(tmp_path)

    redact(tmp_path, "r_a", texts=["secret-model"], actor="user:a")

    views = Views.open(tmp_path)
    views.refresh()
    spent = costs(views.connection, CostFilter(tenant=None, by="model"))
    views.close()
    assert [(it.key, it.input_tokens, it.cost_usd) for it in spent.items] == [("[redacted]", 5, 0.000007)]
    assert faults(tmp_path) == []
