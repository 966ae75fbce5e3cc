"""A stream is the log read from a position: whoever comes back sees every event once, in order."""

import os
import random
import re
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from api.following import Streaming
from eventstore.sqlite3_module import sqlite3
from tests.served import OTHER, Served, note, serving
from tests.streams import all_ids, raw, until, until_holds, whole_frames

pytestmark = pytest.mark.usefixtures("each_log")

CUTS = 200
AT_HEAD_SECONDS = 0.05


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as server:
        yield server


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
        content = await raw(served, f"/api/runs/{run_id}/stream", last_id, size, silent_seconds=AT_HEAD_SECONDS)
        seen += [frame_id for frame_id, _ in whole_frames(content)]
    await served.control(run_id, "complete")
    content = await raw(served, f"/api/runs/{run_id}/stream", seen[-1] if seen else "", 100_000_000)
    seen += [frame_id for frame_id, _ in whole_frames(content)]

    assert content.endswith(b"data: [DONE]\n\n")
    assert seen == await all_ids(served, run_id)


async def test_a_finished_run_streams_to_its_end_and_a_return_gets_nothing(served: Served) -> None:
    run_id = await served.open_run(title="a")
    await served.report(run_id, note(1))
    await served.control(run_id, "complete")

    first = await served.ask("GET", f"/api/runs/{run_id}/stream")
    content = await first.read()
    ids = [frame_id for frame_id, _ in whole_frames(content)]
    again = await served.ask("GET", f"/api/runs/{run_id}/stream", headers={"Last-Event-ID": ids[-1]})
    bare = await served.ask("GET", f"/api/runs/{run_id}/stream?after={ids[-1].partition('-')[0]}")

    assert first.headers["Content-Type"].startswith("text/event-stream")
    assert content.startswith(b"retry: ")
    assert content.endswith(b"event: done\ndata: [DONE]\n\n")
    assert content.count(b"event: ") == 1
    assert ids == await all_ids(served, run_id)
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

    content = await until(response, b"[DONE]\n\n")
    assert [frame_id for frame_id, _ in whole_frames(content)] == await all_ids(served, run_id)


async def test_a_stop_that_history_has_passed_does_not_end_the_stream(served: Served) -> None:
    run_id = await served.open_run(title="a")
    for action in ("stop", "resume", "complete"):
        assert (await served.control(run_id, action)).status == 202, action

    content = await (await served.ask("GET", f"/api/runs/{run_id}/stream")).read()

    assert content.count(b"[DONE]") == 1
    assert content.index(b'"run_completed"') < content.index(b"[DONE]")
    assert [frame_id for frame_id, _ in whole_frames(content)] == await all_ids(served, run_id)


async def test_a_stopped_run_that_goes_on_is_streamed_again(served: Served) -> None:
    run_id = await served.open_run(title="a")
    await served.control(run_id, "stop")
    content = await (await served.ask("GET", f"/api/runs/{run_id}/stream")).read()
    last_id = whole_frames(content)[-1][0]
    await served.control(run_id, "resume")
    await served.control(run_id, "complete")

    rest = await (await served.ask("GET", f"/api/runs/{run_id}/stream", headers={"Last-Event-ID": last_id})).read()

    ids = [frame_id for frame_id, _ in whole_frames(content + rest)]
    assert ids == await all_ids(served, run_id)


async def test_the_stream_of_all_runs_holds_the_own_tenant_only(served: Served) -> None:
    mine = await served.open_run(title="mine")
    theirs = await served.open_run(title="theirs", token=OTHER)
    last = await served.open_run(title="last")

    async with await served.ask("GET", "/api/stream?type=run_started") as response:
        content = await until_holds(response, last.encode())

    assert mine.encode() in content
    assert theirs.encode() not in content


async def test_the_stream_of_all_runs_is_filtered_by_workflow(served: Served) -> None:
    await served.open_run(workflow="a", title="first")
    wanted = await served.open_run(workflow="b", title="second")
    await served.report(wanted, note(1))

    async with await served.ask("GET", "/api/stream?workflow=b&class=activity,lifecycle") as response:
        content = await until_holds(response, b"message 1")

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
        everything = await until_holds(response, b"run_started")
    async with await served.ask("GET", f"/api/runs/{run_id}/stream?after=1") as response:
        own = await until_holds(response, b"run_started")

    assert (gone.status, problem["code"], problem["earliest"]) == (410, "trimmed", trimmed_to + 1)
    assert problem["snapshot"] == "/api/runs"
    assert [frame_id for frame_id, _ in whole_frames(everything)] == await all_ids(served, run_id)
    assert whole_frames(own) == whole_frames(everything)


async def test_a_browser_whose_place_is_gone_gets_the_snapshot_and_goes_on(served: Served) -> None:
    run_id = await served.open_run(title="a")
    await served.open_run(title="theirs", token=OTHER)
    head = (await served.log.bounds()).last

    for path in (f"/api/runs/{run_id}/stream", "/api/stream"):
        lost = {"Last-Event-ID": f"{head}-00000000"}
        async with await served.ask("GET", f"{path}?on_gap=reset", headers=lost) as response:
            opening = await until_holds(response, b"event: reset")
            await served.report(run_id, note(1))
            rest = await until_holds(response, b"message 1")
        reset = msgspec.json.decode(opening.split(b"event: reset\ndata: ")[1].split(b"\n\n")[0])
        shown = reset["snapshot"] if "runs" in path else reset["snapshot"]["items"][0]

        assert response.status == 200
        assert opening.startswith(b"retry: ")
        assert (reset["code"], reset["earliest"]) == ("diverged", 1)
        assert (shown["id"], shown["title"]) == (run_id, "a")
        assert b"theirs" not in opening
        assert len(whole_frames(opening + rest)) == 1
        assert int(whole_frames(rest)[0][0].partition("-")[0]) > reset["position"]
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
    frames = whole_frames(content)
    texts = [msgspec.json.decode(data)["data"].get("text") for _, data in frames]

    assert [frame_id for frame_id, _ in frames] == await all_ids(served, run_id)
    assert {line.partition(b":")[0] for line in lines} == {b"", b"id", b"data", b"event", b"retry"}
    assert sum(line == b"data: [DONE]" for line in lines) == 1
    assert [text for text in texts if text] == list(HOSTILE)


async def test_what_a_filter_skips_moves_the_place_to_come_back_to(tmp_path: Path) -> None:
    async with serving(tmp_path, streaming=Streaming(keepalive_seconds=0.0, look_seconds=0.01)) as served:
        run_id = await served.open_run(title="a")
        for path in (f"/api/runs/{run_id}/stream", "/api/stream"):
            start = (await served.log.bounds()).last
            async with await served.ask("GET", f"{path}?type=file_read&after={start}") as response:
                await served.report(run_id, *[note(number) for number in range(20)])
                head = (await served.log.bounds()).last
                content = await until_holds(response, b":keepalive %d\n\n" % head)
            await served.report(run_id, {"type": "file_read", "data": {"path": "a"}})
            async with await served.ask("GET", f"{path}?type=file_read&after={head}") as response:
                rest = await until_holds(response, b"file_read")

            assert b"data:" not in content
            assert len(whole_frames(rest)) == 1
