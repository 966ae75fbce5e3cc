"""An answer of the views is kept ready while nothing is written, and is never older than what was written last."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from projections import service
from projections.engine import unchanged
from projections.engine.rebuilding import rebuild
from projections.run_list import RunFilter, RunList, list_shown
from projections.service import ViewService
from runfold.commands import OpenReported
from runfold.events import RunQueued
from tests.ledgers import act, opened

WANTED = RunFilter(tenant="default")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits until a folder has been left alone for long enough."""
    monkeypatch.setattr(unchanged, "SETTLED_NS", 0)


@pytest.fixture
async def views(tmp_path: Path) -> AsyncIterator[ViewService]:
    async with opened(tmp_path):
        pass
    found = await ViewService.open(tmp_path)
    # Whoever is first makes the files.
    await found.answer(list_shown, WANTED)
    yield found
    await found.close()


async def ask(views: ViewService, wanted: RunFilter = WANTED) -> bytes:
    return (await views.answer(list_shown, wanted))[0]


def total(content: bytes) -> int:
    return msgspec.json.decode(content, type=RunList).total


async def test_the_same_question_gets_the_same_answer_while_nothing_is_written(views: ViewService) -> None:
    first, other = await ask(views), await ask(views, RunFilter(tenant="other"))

    assert await ask(views) is first
    assert (total(first), total(other)) == (1, 0)


async def test_a_question_never_asked_before_looks_how_far_the_log_is_only_where_somebody_wrote(
    views: ViewService, tmp_path: Path
) -> None:
    asked: list[str] = []
    for limit in range(11, 14):
        # Until every file that reading makes is there.
        await ask(views, RunFilter(tenant="default", limit=limit))
    await views.query(lambda connection: connection.set_trace_callback(asked.append))
    for limit in range(1, 5):
        await ask(views, RunFilter(tenant="default", limit=limit))
    in_peace = [text for text in asked if "checkpoints" in text]
    async with opened(tmp_path, "r_new"):
        answer = await ask(views, RunFilter(tenant="default", limit=6))

    assert len([text for text in asked if "group_concat(shown)" in text]) == 5
    assert not in_peace
    assert [text for text in asked if "checkpoints" in text]
    assert total(answer) == 2


async def test_an_answer_holds_what_any_process_wrote_before_it_was_asked_for(
    views: ViewService, tmp_path: Path
) -> None:
    here, elsewhere = await SqliteLog.open(tmp_path), await SqliteLog.open(tmp_path)
    try:
        ledgers = [Ledger(here), Ledger(elsewhere)]
        for number in range(20):
            await act(ledgers[number % 2], OpenReported(queued=RunQueued(driver="reported")), run_id=f"r_{number}")

            assert total(await ask(views)) == number + 2
            assert await ask(views) is await ask(views)
    finally:
        await here.close()
        await elsewhere.close()


async def test_an_answer_goes_with_the_generation_it_was_read_from(views: ViewService, tmp_path: Path) -> None:
    first = await ask(views)

    rebuild(tmp_path)
    second = await ask(views)

    assert second is not first
    assert second == first


async def test_what_is_said_while_the_folder_changes_is_not_kept(
    views: ViewService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unchanged, "SETTLED_NS", 2**62)

    first, second = await ask(views), await ask(views)

    assert second is not first
    assert second == first


async def test_kept_answers_are_bounded_and_the_oldest_goes_first(
    views: ViewService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "KEPT_MAX", 2)
    first, second = await ask(views), await ask(views, RunFilter(tenant="default", limit=1))

    third = await ask(views, RunFilter(tenant="default", limit=2))

    assert await ask(views, RunFilter(tenant="default", limit=2)) is third
    assert await ask(views, RunFilter(tenant="default", limit=1)) is second
    assert await ask(views) is not first
