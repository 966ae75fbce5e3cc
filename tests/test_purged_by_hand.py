"""Messages of the log's stream that somebody purged by hand: no machine takes it for another log, and all go on."""

import asyncio
import uuid
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from eventstore.jetstream.address import Address, parse_address
from eventstore.jetstream.cluster import connect
from eventstore.jetstream.log import JetStreamLog
from eventstore.jetstream.messages import subject_of
from runfold.envelope import SYSTEM_STREAM
from runfold.errors import Unavailable
from tests.contract.events import all_events, new_event, numbered
from tests.contract.jetstream import shared_cluster
from tests.terminal import first_line, runfold, started


@pytest.fixture
def url() -> str:
    return shared_cluster().url(f"t{uuid.uuid4().hex}")


@pytest.fixture
async def stack() -> AsyncGenerator[AsyncExitStack]:
    async with AsyncExitStack() as made:
        yield made


async def _connect(stack: AsyncExitStack, url: str, data: Path) -> JetStreamLog:
    log = await JetStreamLog.connect(parse_address(url), data)
    stack.push_async_callback(log.close)
    return log


async def _purge(address: Address, run_id: str) -> None:
    cluster = await connect(address)
    try:
        await cluster.jetstream.purge_stream(cluster.name, subject=subject_of(cluster.name, run_id))
    finally:
        await cluster.client.close()


@pytest.mark.slow
async def test_a_run_whose_messages_were_purged_goes_on_where_a_machine_still_has_it(
    tmp_path: Path, url: str, stack: AsyncExitStack
) -> None:
    old = await _connect(stack, url, tmp_path / "old")
    first = await old.append("r_a", numbered(0, 3), expected=0)
    await _purge(parse_address(url), "r_a")

    second = await old.append("r_a", numbered(3, 2), expected=first.last)
    third = await old.append("r_a", numbered(5, 1), expected=second.last)
    new = await _connect(stack, url, tmp_path / "new")

    assert await all_events(old, stream="r_a") == [*first.events, *second.events, *third.events]
    assert await all_events(new, after=first.last) == [*second.events, *third.events]


@pytest.mark.slow
async def test_the_system_stream_is_never_begun_anew_and_is_read_as_far_as_it_is_left(
    tmp_path: Path, url: str, stack: AsyncExitStack
) -> None:
    old = await _connect(stack, url, tmp_path / "old")
    first = await old.append(SYSTEM_STREAM, [new_event()], expected=0)
    await old.append("r_a", [new_event()], expected=0)
    await _purge(parse_address(url), SYSTEM_STREAM)
    new = await _connect(stack, url, tmp_path / "new")

    with pytest.raises(Unavailable, match="purged"):
        await new.append(SYSTEM_STREAM, [new_event()], expected=0)
    second = await old.append(SYSTEM_STREAM, [new_event()], expected=first.last)
    left = await all_events(new, stream=SYSTEM_STREAM)
    third = await new.append(SYSTEM_STREAM, [new_event()], expected=second.last)

    assert left == list(second.events)
    assert await all_events(old, stream=SYSTEM_STREAM) == [*first.events, *second.events, *third.events]


@pytest.mark.slow
def test_machines_old_and_new_serve_after_the_system_stream_was_purged(tmp_path: Path, url: str) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    up = ("--log", url, "up", "--port", "0", "--workers", "0")
    with started(old, *up) as server:
        first_line(server)
    assert runfold(old, "run", "--quiet", "--", "true").returncode == 0
    asyncio.run(_purge(parse_address(url), SYSTEM_STREAM))

    with started(new, *up) as server:
        served_by_new = first_line(server)
    created = runfold(old, "token", "create", "--name", "later", "--role", "viewer")
    with started(new, *up) as server:
        served_again = first_line(server)
    listed = runfold(new, "token", "list")
    with started(old, *up) as server:
        served_by_old = first_line(server)

    assert all(line.startswith("http://") for line in (served_by_new, served_again, served_by_old))
    assert created.returncode == 0, created.stderr
    assert "later" in listed.stdout
    proof = runfold(old, "verify", "--only", "log")
    assert proof.returncode == 0, proof.stdout + proof.stderr
