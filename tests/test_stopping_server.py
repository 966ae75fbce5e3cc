"""A server that is told to stop hands its runs over, and closes its streams so that their readers lose nothing."""

import http.client
import json
import signal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.leaving import escaping, queue, served
from tests.working import PATIENCE_SECONDS, working

pytestmark = pytest.mark.slow


@contextmanager
def stream(folder: Path, run_id: str, after: str) -> Generator[http.client.HTTPResponse]:
    lock = json.loads((folder / "data" / "server.lock").read_text())
    token = (folder / "data" / "token").read_text().strip()
    connection = http.client.HTTPConnection(urlsplit(str(lock["url"])).netloc, timeout=PATIENCE_SECONDS)
    headers = {"Authorization": f"Bearer {token}", "Last-Event-ID": after}
    connection.request("GET", f"/api/runs/{run_id}/stream", headers=headers)
    try:
        yield connection.getresponse()
    finally:
        connection.close()


def ids_until(response: http.client.HTTPResponse, word: bytes) -> list[str]:
    """The ids of the events up to the one whose data has the word, or to the end of the stream."""
    ids: list[str] = []
    while line := response.readline():
        if line.startswith(b"id: "):
            ids.append(line[4:].strip().decode())
        if word in line:
            break
    return ids


async def test_who_reads_a_stream_while_the_server_stops_goes_on_at_the_next_one_and_misses_nothing(
    tmp_path: Path,
) -> None:
    toml = escaping(tmp_path, "resume")
    run_id = await queue(tmp_path, toml)

    with served(tmp_path) as server, stream(tmp_path, run_id, "0") as response:
        seen = ids_until(response, b"subprocess_output")
        server.send_signal(signal.SIGTERM)
        seen += ids_until(response, b"event: done")
        code = server.wait(PATIENCE_SECONDS)
    with served(tmp_path), stream(tmp_path, run_id, seen[-1]) as response:
        seen += ids_until(response, b"event: done")
    async with working(tmp_path, toml, workers=0) as nobody:
        events = await nobody.events(run_id)

    assert code == 0
    assert seen == [event.cursor for event in events]
    assert [event.type for event in events].count("run_completed") == 1


async def test_a_server_that_stops_takes_no_new_work(tmp_path: Path) -> None:
    # The first run ignores what ends it for a moment, in which another one is queued.
    toml = escaping(tmp_path, "resume").replace("grace_seconds = 0.3", "grace_seconds = 1.5")
    run_id = await queue(tmp_path, toml)

    async with working(tmp_path, toml, workers=0) as watching:
        with served(tmp_path) as server:
            await watching.wait_type(run_id, "subprocess_output")
            server.send_signal(signal.SIGTERM)
            late = await watching.queue("w")
            code = server.wait(PATIENCE_SECONDS)
        run = await watching.ledger.state(late)

    assert (code, run.status, run.claim) == (0, "queued", 0)
