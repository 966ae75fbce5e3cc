"""A question that is still open is announced again to whoever connects, and is answered once, from wherever."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.served import ADMIN, OTHER, Served, bearer, serving
from tests.terminal import runfold
from tests.working import PATIENCE_SECONDS


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as server:
        yield server


async def asking(served: Served, summary: str = "go on?", token: str = ADMIN) -> str:
    run_id = await served.open_run(token=token)
    await served.ask("POST", f"/api/runs/{run_id}/approvals", json={"summary": summary}, token=token)
    return run_id


async def head(served: Served) -> int:
    return (await served.log.bounds()).last


async def announced(served: Served, path: str, *, token: str = ADMIN) -> tuple[list[Any], bytes]:
    """The open questions at the beginning of a stream, and all that came up to the next event of it."""
    async with served.client.get(path, headers=bearer(token)) as response:
        content = b""
        note = asyncio.create_task(_note_again(served))
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while b"note_added" not in content and b"last word" not in content:
                    content += await response.content.read(65_536)
        finally:
            note.cancel()
    frames = [frame.split(b"\n") for frame in content.split(b"\n\n")]
    pending = [lines for lines in frames if lines[0] == b"event: pending"]
    return [msgspec.json.decode(lines[1].removeprefix(b"data: ")) for lines in pending], content


async def _note_again(served: Served) -> None:
    """Something has to be said after the connection for its beginning to have an end."""
    runs = (await (await served.ask("GET", "/api/runs")).json())["items"]
    await served.ask("POST", f"/api/runs/{runs[0]['id']}/notes", json={"text": "last word"})


@pytest.mark.parametrize("stream", ["/api/stream", "/api/runs/{}/stream"])
async def test_an_open_question_is_announced_to_whoever_connects_after_it(served: Served, stream: str) -> None:
    run_id = await asking(served)

    pending, content = await announced(served, f"{stream.format(run_id)}?after={await head(served)}")

    (item,) = pending
    assert (item["run_id"], item["approval_id"], item["status"], item["summary"]) == (run_id, "a1", "pending", "go on?")
    # It says nothing of where the reader is: the first place that it has is that of the next event.
    assert b"id: " not in content.split(b"last word")[0].split(b"event: pending")[1].split(b"\n\n")[0]


async def test_who_reads_from_the_beginning_or_asks_for_other_types_is_told_nothing_twice(served: Served) -> None:
    run_id = await asking(served)

    whole, _ = await announced(served, f"/api/runs/{run_id}/stream")
    other, _ = await announced(served, f"/api/stream?after={await head(served)}&type=note_added")

    assert (whole, other) == ([], [])


async def test_an_answered_question_and_another_tenants_are_not_announced(served: Served) -> None:
    run_id = await asking(served)
    await served.ask("POST", f"/api/runs/{run_id}/approvals/a1", json={"decision": "grant"})
    await asking(served, "theirs", token=OTHER)

    pending, _ = await announced(served, f"/api/stream?after={await head(served)}")

    assert pending == []


@pytest.mark.slow
async def test_what_is_answered_in_the_terminal_is_a_conflict_over_http_and_the_other_way_round(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        first, second = await asking(served), await asking(served)
        in_terminal = await asyncio.to_thread(runfold, tmp_path, "approve", first)
        over_http = await served.ask("POST", f"/api/runs/{first}/approvals/a1", json={"decision": "deny"})
        granted = await served.ask("POST", f"/api/runs/{second}/approvals/a1", json={"decision": "grant"})
        too_late = await asyncio.to_thread(runfold, tmp_path, "deny", second, "a1")
        statuses = [(await served.ledger.state(run_id)).approvals["a1"].status for run_id in (first, second)]

    assert (in_terminal.returncode, over_http.status, granted.status, too_late.returncode) == (0, 409, 200, 1)
    assert "already granted" in too_late.stderr
    assert statuses == ["granted", "granted"]
