"""Whoever follows a stream costs little, alone or with many, and is let go when he goes, sleeps or stays too long."""

import asyncio
import re
import socket
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from api.following import Streaming
from api.service import SERVICE
from eventstore.framing import Framed
from eventstore.sqlite3_module import sqlite3
from tests.served import ADMIN, Served, note, serving
from tests.streams import all_ids, raw, until_holds, whole_frames
from tests.working import PATIENCE_SECONDS

pytestmark = pytest.mark.usefixtures("each_log")

SLOW_CLIENTS = 60


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as server:
        yield server


async def _ended(but: "set[asyncio.Task[Any]]") -> None:
    """Once every task has ended that was not there before."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while others := asyncio.all_tasks() - but:
            await asyncio.wait(others)


@pytest.mark.slow
async def test_a_client_that_takes_nothing_is_closed_and_has_cost_little(tmp_path: Path) -> None:
    async with serving(tmp_path, streaming=Streaming(stalled_seconds=0.5, look_seconds=0.05)) as served:
        run_id = await served.open_run(title="a")
        for _ in range(40):
            await served.report(run_id, *[{"type": "message", "data": {"text": "a" * 1_000}}] * 400)
        # What all clients share is there before, and bounded on its own.
        idle = asyncio.all_tasks()
        tracemalloc.start()
        await raw(served, f"/api/runs/{run_id}/stream", "", 12_000_000)
        await _ended(idle)
        shared_bytes = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        clients = [socket.create_connection((served.client.host, served.client.port)) for _ in range(SLOW_CLIENTS)]
        asked = f"GET /api/runs/{run_id}/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {ADMIN}\r\n\r\n"
        for client in clients:
            client.sendall(asked.encode())
        async with asyncio.timeout(PATIENCE_SECONDS):
            # The first of them may be closed before the last one has come.
            met = set[asyncio.Task[Any]]()
            while len(met) < SLOW_CLIENTS:
                met |= asyncio.all_tasks() - idle
                await asyncio.sleep(0)
            del met
        await _ended(idle)
        cost_bytes = tracemalloc.get_traced_memory()[1] - shared_bytes
        tracemalloc.stop()
        for client in clients:
            client.close()

    print(f"{cost_bytes // SLOW_CLIENTS:,} bytes a client")
    assert 0 < cost_bytes / SLOW_CLIENTS < 256 * 1024


@pytest.mark.slow
async def test_who_waits_together_and_who_falls_behind_each_see_every_event_once_in_order(tmp_path: Path) -> None:
    async with serving(tmp_path, streaming=Streaming(look_seconds=0.02, keepalive_seconds=0.1)) as served:
        run_id = await served.open_run(title="a")
        path = f"/api/runs/{run_id}/stream"
        clients = [await _connected(served, path, version) for version in ("1.0", "1.1") * 5]
        idle, idle_writer = await _connected(served, path, "1.0", takes_bytes=4_096)
        taking = [asyncio.create_task(_take_all(reader)) for reader, _ in clients]

        # The one that takes nothing is full long before the end; another comes when there is already something.
        for number in range(60):
            if number == 30:
                clients.append(await _connected(served, path, "1.1"))
                taking.append(asyncio.create_task(_take_all(clients[-1][0])))
            await served.report(run_id, *[{"type": "message", "data": {"text": "a" * 30_000}}] * 4)
            await served.report(run_id, note(number))
        await served.control(run_id, "complete")
        async with asyncio.timeout(PATIENCE_SECONDS):
            found = await asyncio.gather(*taking, _take_all(idle))
        expected = await all_ids(served, run_id)
        for _, writer in [*clients, (idle, idle_writer)]:
            writer.transport.abort()

    assert all(content.count(b"data: [DONE]\n\n") == 1 for content in found)
    assert [_ids_of(content) for content in found] == [expected] * len(found)


async def test_who_waits_together_goes_on_after_a_look_that_failed(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, waits, fails = served.log.frames, asyncio.Event(), asyncio.Event()

    async def failing(**wanted: Any) -> AsyncIterator[Framed]:
        if not fails.is_set():
            waits.set()
            await fails.wait()
            raise sqlite3.OperationalError("disk I/O error")
        async with aclosing(frames(**wanted)) as pages:
            async for page in pages:
                yield page

    monkeypatch.setattr(served.log, "frames", failing)
    run_id = await served.open_run(title="a")
    async with await served.ask("GET", f"/api/runs/{run_id}/stream") as response:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await waits.wait()
        fails.set()
        await served.report(run_id, note(1))
        content = await until_holds(response, b"message 1")

    assert [frame_id for frame_id, _ in whole_frames(content)] == await all_ids(served, run_id)


async def _connected(
    served: Served, path: str, version: str, takes_bytes: int = 2**20
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client that is past the head of the answer; its line holds about so many bytes that it did not take."""
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, takes_bytes)
    line.setblocking(False)
    await asyncio.get_running_loop().sock_connect(line, (served.client.host, served.client.port))
    reader, writer = await asyncio.open_connection(sock=line, limit=takes_bytes)
    writer.write(f"GET {path} HTTP/{version}\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {ADMIN}\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def _take_all(reader: asyncio.StreamReader) -> bytes:
    content = b""
    while not content.endswith((b"data: [DONE]\n\n", b"data: [DONE]\n\n\r\n", b"\r\n0\r\n\r\n")):
        piece = await reader.read(65_536)
        assert piece, content[-200:]
        content += piece
    return content


def _ids_of(content: bytes) -> list[str]:
    """Also where the answer came in chunks: no chunk begins inside a line of an id."""
    return [found.decode() for found in re.findall(rb"^id: ([0-9]+-[0-9a-f]{8})$", content, re.MULTILINE)]


async def test_a_stream_ends_when_it_is_old_and_its_client_comes_back(tmp_path: Path) -> None:
    async with serving(tmp_path, streaming=Streaming(max_stream_seconds=0.0)) as served:
        await served.open_run(title="a")

        content = await (await served.ask("GET", "/api/stream")).read()

    assert content == b"retry: 1000\n\n"


async def test_a_quiet_stream_says_that_it_is_alive(tmp_path: Path) -> None:
    async with serving(tmp_path, streaming=Streaming(keepalive_seconds=0.0, look_seconds=0.01)) as served:
        await served.open_run(title="a")
        position = (await served.log.bounds()).last

        async with await served.ask("GET", f"/api/stream?after={position}") as response:
            content = await until_holds(response, b":keepalive %d\n\n" % position)

    assert b"data:" not in content


async def test_closing_the_server_ends_its_streams_at_once(tmp_path: Path) -> None:
    loop, took = asyncio.get_running_loop(), list[float]()
    # Two seconds are little where the machine is busy with something else: then once more.
    while len(took) < 3 and not (took and took[-1] < 2):
        async with serving(tmp_path / str(len(took))) as served:
            await served.open_run(title="a")
            responses = [await served.ask("GET", "/api/stream") for _ in range(5)]
            for response in responses:
                await response.content.readuntil(b"\n\n")
            began = loop.time()
            await served.client.server.close()
            took.append(loop.time() - began)
    assert min(took) < 2, took


async def test_a_client_that_goes_away_leaves_nothing_behind(tmp_path: Path) -> None:
    async with serving(tmp_path, streaming=Streaming(look_seconds=0.01)) as served:
        run_id = await served.open_run(title="a")
        before = len(asyncio.all_tasks())

        for _ in range(5):
            await raw(served, f"/api/runs/{run_id}/stream", "", 10)

        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(asyncio.all_tasks()) > before + 1:
                await served.report(run_id, note(1))


async def test_a_client_that_goes_away_is_noticed_at_the_next_look_where_nothing_is_written(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, streaming=Streaming(look_seconds=0.01, keepalive_seconds=3_600)) as served:
        run_id = await served.open_run(title="a")
        live = served.app[SERVICE].live
        streams = [await served.ask("GET", path) for path in ("/api/stream", f"/api/runs/{run_id}/stream")]
        opened = live.clients

        for stream in streams:
            stream.close()

        async with asyncio.timeout(PATIENCE_SECONDS):
            while live.clients:
                await asyncio.sleep(0)

    assert opened == 2
