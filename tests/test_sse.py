"""A stream is the log read from a position: whoever comes back sees every event once, in order."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import api.sse
from tests.served import ADMIN, OTHER, Served, note, serving


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as server:
        yield server


async def _until(response: Any, ending: bytes) -> bytes:
    content = b""
    async with asyncio.timeout(10):
        while not content.endswith(ending):
            piece = await response.content.read(65_536)
            assert piece, content
            content += piece
    return content


async def _raw(served: Served, path: str, last_id: str, read_bytes: int) -> bytes:
    """Ask over a bare socket, take about so many bytes of the body, and cut the line."""
    reader, writer = await asyncio.open_connection(served.client.host, served.client.port)
    try:
        cursor = f"Last-Event-ID: {last_id}\r\n" if last_id else ""
        request = f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {ADMIN}\r\n{cursor}\r\n"
        writer.write(request.encode())
        await reader.readuntil(b"\r\n\r\n")
        content = b""
        while len(content) < read_bytes and (piece := await reader.read(read_bytes - len(content))):
            content += piece
        return content
    finally:
        writer.transport.abort()


def _whole_frames(content: bytes) -> list[tuple[str, bytes]]:
    frames = content.split(b"\n\n")[:-1]
    found: list[tuple[str, bytes]] = []
    for frame in frames:
        lines = dict(line.split(b": ", 1) for line in frame.split(b"\n") if b": " in line)
        if b"id" in lines:
            found.append((lines[b"id"].decode(), lines[b"data"]))
    return found


@pytest.mark.slow
async def test_a_client_cut_off_two_hundred_times_sees_each_event_once_in_order(served: Served) -> None:
    run_id = await served.open_run(title="a")
    for start in range(0, 2_000, 250):
        await served.report(run_id, *[note(number) for number in range(start, start + 250)])
    await served.control(run_id, "complete")
    stored = await _all_ids(served, run_id)
    chance = random.Random(7)
    seen: list[str] = []

    cuts = 0
    while cuts < 200 or len(seen) < len(stored):
        content = await _raw(served, f"/api/runs/{run_id}/stream", seen[-1] if seen else "", chance.randint(1, 12_000))
        seen += [frame_id for frame_id, _ in _whole_frames(content)]
        cuts += 1
        if len(seen) >= len(stored):
            break

    assert seen == stored
    assert cuts > 50


async def _all_ids(served: Served, run_id: str) -> list[str]:
    return [event.cursor async for page in served.log.read(stream=run_id) for event in page.events]


async def test_a_finished_run_streams_to_its_end_and_a_return_gets_nothing(served: Served) -> None:
    run_id = await served.open_run(title="a")
    await served.report(run_id, note(1))
    await served.control(run_id, "complete")

    first = await served.ask("GET", f"/api/runs/{run_id}/stream")
    content = await first.read()
    ids = [frame_id for frame_id, _ in _whole_frames(content)]
    again = await served.ask("GET", f"/api/runs/{run_id}/stream", headers={"Last-Event-ID": ids[-1]})
    bare = await served.ask("GET", f"/api/runs/{run_id}/stream?after={ids[-1].partition('-')[0]}")

    assert first.headers["Content-Type"].startswith("text/event-stream")
    assert content.startswith(b"retry: ")
    assert content.endswith(b"event: done\ndata: [DONE]\n\n")
    assert content.count(b"event: ") == 1
    assert ids == await _all_ids(served, run_id)
    assert (again.status, bare.status) == (204, 204)


async def test_a_live_run_is_followed_until_it_ends(served: Served) -> None:
    run_id = await served.open_run(title="a")
    response = await served.ask("GET", f"/api/runs/{run_id}/stream")
    await response.content.readuntil(b"\n\n")

    await served.report(run_id, note(1))
    await served.control(run_id, "complete")

    content = await _until(response, b"[DONE]\n\n")
    assert [frame_id for frame_id, _ in _whole_frames(content)] == await _all_ids(served, run_id)


async def test_a_stop_that_history_has_passed_does_not_end_the_stream(served: Served) -> None:
    run_id = await served.open_run(title="a")
    for action in ("stop", "resume", "complete"):
        assert (await served.control(run_id, action)).status == 202, action

    content = await (await served.ask("GET", f"/api/runs/{run_id}/stream")).read()

    assert content.count(b"[DONE]") == 1
    assert content.index(b'"run_completed"') < content.index(b"[DONE]")
    assert [frame_id for frame_id, _ in _whole_frames(content)] == await _all_ids(served, run_id)


async def test_a_stopped_run_that_goes_on_is_streamed_again(served: Served) -> None:
    run_id = await served.open_run(title="a")
    await served.control(run_id, "stop")
    content = await (await served.ask("GET", f"/api/runs/{run_id}/stream")).read()
    last_id = _whole_frames(content)[-1][0]
    await served.control(run_id, "resume")
    await served.control(run_id, "complete")

    rest = await (await served.ask("GET", f"/api/runs/{run_id}/stream", headers={"Last-Event-ID": last_id})).read()

    ids = [frame_id for frame_id, _ in _whole_frames(content + rest)]
    assert ids == await _all_ids(served, run_id)


async def test_the_stream_of_all_runs_holds_the_own_tenant_only(served: Served) -> None:
    mine = await served.open_run(title="mine")
    theirs = await served.open_run(title="theirs", token=OTHER)
    last = await served.open_run(title="last")

    async with await served.ask("GET", "/api/stream?type=run_started") as response:
        content = await _until_holds(response, last.encode())

    assert mine.encode() in content
    assert theirs.encode() not in content


async def test_the_stream_of_all_runs_is_filtered_by_workflow(served: Served) -> None:
    await served.open_run(workflow="a", title="first")
    wanted = await served.open_run(workflow="b", title="second")
    await served.report(wanted, note(1))

    async with await served.ask("GET", "/api/stream?workflow=b&class=activity,lifecycle") as response:
        content = await _until_holds(response, b"message 1")

    assert b"first" not in content
    assert b"second" in content


async def test_named_frames_say_their_type(served: Served) -> None:
    run_id = await served.open_run(title="a")
    await served.control(run_id, "complete")

    content = await (await served.ask("GET", f"/api/runs/{run_id}/stream?named=1&type=run_completed")).read()

    assert b"\nevent: run_completed\ndata: " in content
    assert content.count(b"event: ") == 2


async def test_a_cursor_of_another_log_or_beyond_the_end_is_gone(served: Served) -> None:
    run_id = await served.open_run(title="a")
    position = (await served.log.bounds()).last

    for path in (f"/api/runs/{run_id}/stream", "/api/stream"):
        for cursor in (f"{position}-00000000", str(position + 1), f"{position + 1}-00000000"):
            response = await served.ask("GET", path, headers={"Last-Event-ID": cursor})
            problem = await response.json()
            assert (response.status, problem["code"], problem["earliest"]) == (410, "diverged", 1)


async def test_a_quiet_stream_says_that_it_is_alive(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.sse, "KEEPALIVE_SECONDS", 0.0)
    monkeypatch.setattr(api.sse, "LOOK_SECONDS", 0.01)
    await served.open_run(title="a")
    position = (await served.log.bounds()).last

    async with await served.ask("GET", f"/api/stream?after={position}") as response:
        content = await _until_holds(response, b":keepalive %d\n\n" % position)

    assert b"data:" not in content


async def test_closing_the_server_ends_its_streams_at_once(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with serving(tmp_path) as served:
        await served.open_run(title="a")
        responses = [await served.ask("GET", "/api/stream") for _ in range(5)]
        for response in responses:
            await response.content.readuntil(b"\n\n")
        began = loop.time()
        await served.client.server.close()
        took = loop.time() - began

    assert took < 2


async def test_a_client_that_goes_away_leaves_nothing_behind(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.sse, "LOOK_SECONDS", 0.01)
    run_id = await served.open_run(title="a")
    before = len(asyncio.all_tasks())

    for _ in range(5):
        await _raw(served, f"/api/runs/{run_id}/stream", "", 10)

    async with asyncio.timeout(5):
        while len(asyncio.all_tasks()) > before + 1:
            await served.report(run_id, note(1))


async def _until_holds(response: Any, wanted: bytes) -> bytes:
    content = b""
    async with asyncio.timeout(10):
        while wanted not in content or not content.endswith(b"\n\n"):
            content += await response.content.read(65_536)
    return content
