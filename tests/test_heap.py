"""A server is not held up by garbage: its requests leave none, and what was there at its start is passed over."""

import gc
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiohttp import web

from eventstore.heap import NEW_OBJECTS_MAX, long_lived
from runfold.workflows import Registry, parse_workflows
from tests.served import Served, note, serving

REQUESTS = 20


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    registry = Registry(workflows=parse_workflows('[workflow.loop]\ncommand = ["cat"]\n'), folder=str(tmp_path))
    async with serving(tmp_path / "data", registry=lambda: registry) as server:
        yield server


@contextmanager
def uncollected() -> Generator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def test_what_is_there_at_the_start_is_passed_over_until_the_end() -> None:
    before = gc.get_threshold(), gc.get_freeze_count()

    with long_lived():
        within = gc.get_threshold()[0], gc.get_freeze_count() > NEW_OBJECTS_MAX

    assert within == (NEW_OBJECTS_MAX, True)
    assert (gc.get_threshold(), gc.get_freeze_count()) == before


async def test_a_server_passes_over_what_was_there_at_its_start(served: Served) -> None:
    assert (gc.get_freeze_count() > 0, gc.get_threshold()[0]) == (True, NEW_OBJECTS_MAX)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/runs/{run}/events", {"events": [note(1)]}),
        ("POST", "/api/runs", {"workflow": "loop"}),
        ("POST", "/api/runs/continuous", {"workflow": "loop", "prompt": "go"}),
        ("GET", "/api/runs", None),
        ("GET", "/api/runs/{run}", None),
        ("GET", "/api/runs/{over}/stream", None),
        ("GET", "/api/runs/nobody", None),
        ("POST", "/api/runs", {"workflow": "nobody"}),
    ],
    ids=str,
)
async def test_a_request_that_was_answered_is_gone_without_a_collection(
    served: Served, method: str, path: str, body: object
) -> None:
    run_id, over = await served.open_run(workflow="x"), await served.open_run(workflow="x")
    assert (await served.control(over, "complete")).status < 300

    with uncollected():
        for _ in range(REQUESTS):
            response = await served.ask(method, path.format(run=run_id, over=over), json=body)
            await response.read()
        kept = sum(type(found) is web.Request for found in gc.get_objects())

    # The last one may still be with its connection.
    assert kept <= 1
