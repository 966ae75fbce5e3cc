"""A stream is the log read from a position: whoever comes back sees every event once, in order."""

import asyncio
import os
import random
import re
import socket
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from api.following import Streaming
from api.frames import Form, Frames
from api.service import SERVICE
from eventstore.framing import Framed, event_frame
from eventstore.sqlite3_module import sqlite3
from runfold.envelope import Recorded, envelope_json
from tests.served import ADMIN, OTHER, Served, note, serving
from tests.working import PATIENCE_SECONDS

pytestmark = pytest.mark.usefixtures("each_log")

CUTS = 200
SLOW_CLIENTS = 60
AT_HEAD_SECONDS = 0.05


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as server:
        yield server


async def _until(response: Any, ending: bytes) -> bytes:
    content = b""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not content.endswith(ending):
            piece = await response.content.read(65_536)
            assert piece, content
            content += piece
    return content


async def _raw(
    served: Served, path: str, last_id: str, read_bytes: int, *, silent_seconds: float = PATIENCE_SECONDS
) -> bytes:
    """Ask over a bare socket, take about so many bytes of the body, or what comes until it is silent; cut the line."""
    reader, writer = await asyncio.open_connection(served.client.host, served.client.port)
    try:
        cursor = f"Last-Event-ID: {last_id}\r\n" if last_id else ""
        request = f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {ADMIN}\r\n{cursor}\r\n"
        writer.write(request.encode())
        await reader.readuntil(b"\r\n\r\n")
        content = b""
        while len(content) < read_bytes and (piece := await _piece(reader, read_bytes - len(content), silent_seconds)):
            content += piece
        return content
    finally:
        writer.transport.abort()


async def _piece(reader: asyncio.StreamReader, size: int, seconds: float) -> bytes:
    try:
        async with asyncio.timeout(seconds):
            return await reader.read(size)
    except TimeoutError:
        return b""


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
    seed = int(os.environ.get("RUNFOLD_TEST_SEED", random.randrange(2**32)))
    print(f"RUNFOLD_TEST_SEED={seed}")
    chance = random.Random(seed)
    run_id = await served.open_run(title="a")
    seen: list[str] = []

    # The run goes on while the client is cut off, so it is cut in what is past and in what is live.
    for cut in range(CUTS):
        if cut % 20 == 0:
            await served.report(run_id, *[note(number) for number in range(100)])
        last_id, size = seen[-1] if seen else "", chance.randint(1, 9_000)
        # At the head there is nothing more to come; a cut there is a cut too.
        content = await _raw(served, f"/api/runs/{run_id}/stream", last_id, size, silent_seconds=AT_HEAD_SECONDS)
        seen += [frame_id for frame_id, _ in _whole_frames(content)]
    await served.control(run_id, "complete")
    content = await _raw(served, f"/api/runs/{run_id}/stream", seen[-1] if seen else "", 100_000_000)
    seen += [frame_id for frame_id, _ in _whole_frames(content)]

    assert content.endswith(b"data: [DONE]\n\n")
    assert seen == await _all_ids(served, run_id)


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


async def test_after_a_start_a_finished_run_is_streamed_without_being_folded_anew(tmp_path: Path) -> None:
    async with serving(tmp_path) as before:
        run_id = await before.open_run()
        await before.control(run_id, "complete")
        await before.ask("GET", f"/api/runs/{run_id}")
    async with serving(tmp_path) as server:
        response = await server.ask("GET", f"/api/runs/{run_id}/stream")
        stream = await response.text()
        is_folded = server.ledger.holds(run_id)
        foreign = await server.ask("GET", f"/api/runs/{run_id}/stream", token=OTHER)

    assert not is_folded
    assert foreign.status == 404
    assert stream.endswith("event: done\ndata: [DONE]\n\n")
    assert stream.count("\nid: ") == 3


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
            assert problem["snapshot"] == path.removesuffix("/stream").replace(
                "/api", "/api/runs", path == "/api/stream"
            )
            assert (await served.ask("GET", problem["snapshot"])).status == 200


def _trim(data: Path, position: int) -> None:
    connection = sqlite3.connect(data / "log.db")
    connection.execute("UPDATE head SET trimmed_to = ?", (position,))
    connection.commit()
    connection.close()


async def test_a_cursor_before_what_is_kept_is_gone_but_the_beginning_and_whole_runs_are_not(
    served: Served, tmp_path: Path
) -> None:
    await served.open_run(title="trimmed")
    trimmed_to = (await served.log.bounds()).last
    run_id = await served.open_run(title="kept")
    _trim(tmp_path, trimmed_to)

    gone = await served.ask("GET", f"/api/stream?after={trimmed_to - 1}")
    problem = await gone.json()
    async with await served.ask("GET", "/api/stream") as response:
        everything = await _until_holds(response, b"run_started")
    async with await served.ask("GET", f"/api/runs/{run_id}/stream?after=1") as response:
        own = await _until_holds(response, b"run_started")

    assert (gone.status, problem["code"], problem["earliest"]) == (410, "trimmed", trimmed_to + 1)
    assert problem["snapshot"] == "/api/runs"
    assert [frame_id for frame_id, _ in _whole_frames(everything)] == await _all_ids(served, run_id)
    assert _whole_frames(own) == _whole_frames(everything)


async def test_a_browser_whose_place_is_gone_gets_the_snapshot_and_goes_on(served: Served) -> None:
    run_id = await served.open_run(title="a")
    await served.open_run(title="theirs", token=OTHER)
    head = (await served.log.bounds()).last

    for path in (f"/api/runs/{run_id}/stream", "/api/stream"):
        lost = {"Last-Event-ID": f"{head}-00000000"}
        async with await served.ask("GET", f"{path}?on_gap=reset", headers=lost) as response:
            opening = await _until_holds(response, b"event: reset")
            await served.report(run_id, note(1))
            rest = await _until_holds(response, b"message 1")
        reset = msgspec.json.decode(opening.split(b"event: reset\ndata: ")[1].split(b"\n\n")[0])
        shown = reset["snapshot"] if "runs" in path else reset["snapshot"]["items"][0]

        assert response.status == 200
        assert opening.startswith(b"retry: ")
        assert (reset["code"], reset["earliest"]) == ("diverged", 1)
        assert (shown["id"], shown["title"]) == (run_id, "a")
        assert b"theirs" not in opening
        assert len(_whole_frames(opening + rest)) == 1
        assert int(_whole_frames(rest)[0][0].partition("-")[0]) > reset["position"]
        head = (await served.log.bounds()).last


async def test_a_browser_whose_place_in_a_finished_run_is_gone_gets_its_end(served: Served) -> None:
    run_id = await served.open_run(title="a")
    await served.control(run_id, "complete")

    content = await (await served.ask("GET", f"/api/runs/{run_id}/stream?on_gap=reset&after=1-00000000")).read()

    assert content.count(b"event: reset\n") == 1
    assert b'"status":"completed"' in content
    assert content.endswith(b"event: done\ndata: [DONE]\n\n")


async def test_the_head_of_a_stream_tells_what_its_body_would_be(served: Served) -> None:
    run_id = await served.open_run(title="a")

    for path in (f"/api/runs/{run_id}/stream", "/api/stream"):
        live = await served.ask("HEAD", path)
        assert (live.status, live.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
        assert await live.read() == b""
        assert (await served.ask("HEAD", f"{path}?after=1-00000000")).status == 410
    await served.control(run_id, "complete")
    head = (await served.log.bounds()).last
    assert (await served.ask("HEAD", f"/api/runs/{run_id}/stream?after={head}")).status == 204


HOSTILE = (
    "data: [DONE]\n\nevent: done\ndata: [DONE]\n\n",
    "a\rid: 1\rb\r\n\r\nid: 99999-00000000\r\n\r\n",
    "\u2028id: 1\u2029\u0085data: x\x0b\x0c\x00\ufeff",
    ":keepalive 999999\n\nretry: 1\n\n",
)


async def test_no_text_of_an_event_can_forge_a_frame(served: Served) -> None:
    run_id = await served.open_run(title=HOSTILE[0])
    for text in HOSTILE:
        await served.report(run_id, {"type": "message", "data": {"text": text}})
        await served.report(run_id, {"type": "telemetry", "data": {"name": text[:9], "data": {text: [text]}}})
    await served.control(run_id, "complete")

    content = await (await served.ask("GET", f"/api/runs/{run_id}/stream?named=1")).read()
    # Lines end as the standard of event streams says: by CR LF, LF or CR.
    lines = re.split(rb"\r\n|\n|\r", content)
    frames = _whole_frames(content)
    texts = [msgspec.json.decode(data)["data"].get("text") for _, data in frames]

    assert [frame_id for frame_id, _ in frames] == await _all_ids(served, run_id)
    assert {line.partition(b":")[0] for line in lines} == {b"", b"id", b"data", b"event", b"retry"}
    assert sum(line == b"data: [DONE]" for line in lines) == 1
    assert [text for text in texts if text] == list(HOSTILE)


def test_stored_line_ends_between_json_tokens_and_strange_types_stay_inside_their_frame() -> None:
    event = msgspec.structs.replace(_EVENT, data=b'{\n"a":\r\n1}', type="x\ndata: forged")

    frame = event_frame(event, envelope_json(event), named=True)

    assert re.split(rb"\r\n|\n|\r", frame)[2:] == [b"", b""]
    assert msgspec.json.decode(frame.split(b"\ndata: ")[1])["type"] == "x\ndata: forged"


_EVENT = Recorded(
    position=1, run_id="r_a", version=1, id="i", type="message", schema=1, at_us=0, recorded_at_us=0, tenant="default",
    actor="user:a", cause=None, command=None, sent=None, correlation="", hash=bytes(32), data=b"{}",
)  # fmt: skip


def test_frames_are_encoded_once_and_the_cache_is_bounded() -> None:
    frames = Frames(bytes_max=5_000)
    events = [msgspec.structs.replace(_EVENT, position=number) for number in range(1, 100)]

    first = [frames.of(event, Form()) for event in events]

    assert frames.of(events[-1], Form()) is first[-1]
    assert frames.of(events[-1], Form(named=True)) != first[-1]
    assert frames.of(msgspec.structs.replace(events[-1], data=None), Form()) != first[-1]
    assert frames.of(events[0], Form()) == first[0]
    assert 4_000 < frames.size_bytes <= 5_000


async def test_what_a_filter_skips_moves_the_place_to_come_back_to(tmp_path: Path) -> None:
    async with serving(tmp_path, streaming=Streaming(keepalive_seconds=0.0, look_seconds=0.01)) as served:
        run_id = await served.open_run(title="a")
        for path in (f"/api/runs/{run_id}/stream", "/api/stream"):
            start = (await served.log.bounds()).last
            async with await served.ask("GET", f"{path}?type=file_read&after={start}") as response:
                await served.report(run_id, *[note(number) for number in range(20)])
                head = (await served.log.bounds()).last
                content = await _until_holds(response, b":keepalive %d\n\n" % head)
            await served.report(run_id, {"type": "file_read", "data": {"path": "a"}})
            async with await served.ask("GET", f"{path}?type=file_read&after={head}") as response:
                rest = await _until_holds(response, b"file_read")

            assert b"data:" not in content
            assert len(_whole_frames(rest)) == 1


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
        await _raw(served, f"/api/runs/{run_id}/stream", "", 12_000_000)
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
        expected = await _all_ids(served, run_id)
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
        content = await _until_holds(response, b"message 1")

    assert [frame_id for frame_id, _ in _whole_frames(content)] == await _all_ids(served, run_id)


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
            content = await _until_holds(response, b":keepalive %d\n\n" % position)

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
            await _raw(served, f"/api/runs/{run_id}/stream", "", 10)

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
                await asyncio.sleep(0.01)

    assert opened == 2


async def _until_holds(response: Any, wanted: bytes) -> bytes:
    content = b""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while wanted not in content or not content.endswith(b"\n\n"):
            content += await response.content.read(65_536)
    return content
