"""The audit of a log that is many blocks long: what is rare there, what is frequent, and what very many do."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventstore.contract import APPEND_EVENTS_MAX
from eventstore.log_file import open_reader
from eventstore.sqlite import SqliteLog
from projections.audit.answers import AuditItem, count_audit, find_audit
from projections.audit.fold import BLOCK_BITS, VIEW
from projections.audit.question import AuditFilter
from projections.audit.search import KINDS_MAX
from projections.engine.drift import Drift
from projections.engine.views import Views
from runfold.events import Event, FileWritten, Message, NoteAdded, TokenUsage
from tests.audit_pages import every_page
from tests.histories import new_event

BLOCKS = 12
ACTORS = KINDS_MAX + 20
OTHERS_EVERY = 700  # Less often than once a block.


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log in which most is said by `user:anna`, some of it by very many, and little in the other tenant."""
    folder = tmp_path_factory.mktemp("long")
    asyncio.run(_write(folder))
    return folder


@pytest.fixture
def views(data: Path) -> Iterator[Views]:
    views = Views.open(data)
    views.refresh()
    yield views
    views.close()


async def _write(folder: Path) -> None:
    chance, size, last = random.Random(3), BLOCKS << BLOCK_BITS, {"r_a": 0, "r_b": 0}
    new = [_event(number, chance) for number in range(size)]
    log = await SqliteLog.open(folder)
    try:
        for first in range(0, size, APPEND_EVENTS_MAX):
            run_id = chance.choice(list(last))
            some = new[first : first + APPEND_EVENTS_MAX]
            last[run_id] = (await log.append(run_id, some, expected=last[run_id])).last
    finally:
        await log.close()


def _event(number: int, chance: random.Random) -> Any:
    events: list[Event] = [Message(text=f"m{number}"), FileWritten(path=f"src/{number % 7}.py")]
    event: Event = chance.choices(events, weights=(9, 1))[0]
    if number % OTHERS_EVERY == 0:
        return new_event(NoteAdded(text="rare"), at_us=number, tenant="other", actor="user:bob")
    if number % 5 == 0:
        return new_event(TokenUsage(model="m"), at_us=number, tenant="default", actor=f"worker:{number // 5 % ACTORS}")
    return new_event(event, at_us=number, tenant="default")


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"type": ("note_added",)},
        {"type": ("message",)},
        {"type": ("note_added", "file_written")},
        {"actor": ("worker",)},
        {"actor": ("worker:7", "user:bob")},
        {"actor": ("user",), "type": ("file_written",), "path": "src/3.py"},
        {"classes": ("usage",), "q": "nothing"},
        {"tenant": "other"},
        {"tenant": "other", "type": ("message",)},
        {"run_id": "r_b", "type": ("note_added",)},
    ],
    ids=str,
)
@pytest.mark.slow
def test_what_is_asked_for_is_found_in_every_block(views: Views, asked: dict[str, Any], order: Any) -> None:
    question: dict[str, Any] = {"tenant": None, **asked, "limit": 200, "order": order}
    wanted = AuditFilter(**question)
    everything = every_page(views, AuditFilter(tenant=None, limit=200, order=order))
    expected = [it for it in everything if _matches(it, wanted)]

    assert len(everything) == BLOCKS << BLOCK_BITS
    assert every_page(views, wanted) == expected
    assert find_audit(views.connection, wanted).total == len(expected)
    for by in ("actor", "type", "tenant", "run_id", "path"):
        counted = count_audit(views.connection, msgspec.structs.replace(wanted, limit=200), by=by)
        counts = Counter(getattr(it, by) for it in expected)
        assert {it.key: it.count for it in counted}.items() <= counts.items()
        assert len(counted) == min(200, len(counts))


def _matches(item: AuditItem, wanted: AuditFilter) -> bool:
    return (
        wanted.tenant in (None, item.tenant)
        and (not wanted.type or item.type in wanted.type)
        and (not wanted.classes or item.event_class in wanted.classes)
        and (not wanted.actor or item.actor in wanted.actor or item.actor.partition(":")[0] in wanted.actor)
        and wanted.path in (None, item.path)
        and wanted.run_id in (None, item.run_id)
        and (wanted.q or "") in item.text
    )


def test_a_block_that_was_counted_wrongly_is_named(views: Views, data: Path) -> None:
    reader = open_reader(data)
    sound = list(Drift(reader, data, views=(VIEW,)).faults())
    views.connection.execute("UPDATE audit_blocks SET events = events + 1 WHERE block = 3")
    faults = [fault.message for fault in Drift(reader, data, views=(VIEW,)).faults()]
    reader.close()

    assert sound == []
    assert faults
    assert all("`audit_blocks` differs from its history in events" in fault for fault in faults)
