"""Kills a real `runfold up` again and again under eight writers, and counts what that lost, doubled or disordered.

Run with `python bench/kill9.py [KILLS] [SEED]`. A report that was acknowledged has to be in the log once, in its
writer's order; a client that was cut and came back has to have seen exactly what the log holds.
"""

import asyncio
import os
import random
import signal
import sys
import tempfile
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from deploy.loopback import free_port
from eventstore.log_file import open_reader
from eventstore.reading import read_page
from eventstore.sqlite3_module import sqlite3
from runfold.envelope import Recorded

WRITERS = 8
RUNS = 4
POLL_SECONDS = 0.01  # Between two looks at what is awaited.
PAUSE_SECONDS = 0.05
START_SECONDS = 60.0
_LOST = (aiohttp.ClientError, OSError, TimeoutError)


@dataclass
class Outcome:
    """What was found; everything but the counts of work has to be 0."""

    kills: int
    acknowledged: int = 0
    stored: int = 0
    retries: int = 0
    reconnects: int = 0
    lost: int = 0
    doubled: int = 0
    disordered: int = 0
    version_gaps: int = 0
    wrong_streams: int = 0
    integrity: str = ""


@dataclass
class _Field:
    data: Path
    url: str
    token: str = ""
    acknowledged: dict[str, int] = field(default_factory=dict[str, int])
    seen: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    is_over: bool = False
    retries: int = 0
    reconnects: int = 0


async def kill_again_and_again(data: Path, *, kills: int, seed: int) -> Outcome:
    """So many kills at random moments, then one server that lives on until everybody has caught up."""
    chance = random.Random(seed)
    data.mkdir(parents=True, exist_ok=True)
    place = _Field(data, f"http://127.0.0.1:{free_port()}")
    server = await _start(place)
    try:
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {place.token}"}) as session:
            runs = [await _open(session, place) for _ in range(RUNS)]
            async with asyncio.TaskGroup() as group:
                writers = [
                    group.create_task(_write(session, place, runs[number % RUNS], f"{number}"))
                    for number in range(WRITERS)
                ]
                readers = [group.create_task(_read(session, place, run, chance)) for run in runs]
                for _ in range(kills):
                    # Counted in acknowledged reports, so that a slow machine is killed as busily as a quick one.
                    await _more_reports(place, chance.randint(20, 200))
                    server.send_signal(signal.SIGKILL)
                    await server.wait()
                    server = await _start(place)
                await _more_reports(place, 50)
                place.is_over = True
                await asyncio.gather(*writers)
                for run in runs:
                    await _end(session, place, run)
                await asyncio.gather(*readers)
    finally:
        with suppress(ProcessLookupError):
            server.terminate()
        await server.wait()
    return _judge(place, runs, kills)


async def _start(place: _Field) -> asyncio.subprocess.Process:
    port = place.url.rpartition(":")[2]
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli.main", "--data", str(place.data), "up", "--port", port,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "RUNFOLD_LOG_LEVEL": "error"},
    )  # fmt: skip
    async with asyncio.timeout(START_SECONDS), aiohttp.ClientSession() as session:
        while True:
            with suppress(*_LOST):
                async with session.get(f"{place.url}/readyz") as response:
                    if response.status == 200:
                        break
            if server.returncode is not None:
                raise RuntimeError(f"`runfold up` ended with {server.returncode}")
            await asyncio.sleep(PAUSE_SECONDS)
    place.token = (place.data / "token").read_text().strip()
    return server


async def _more_reports(place: _Field, count: int) -> None:
    wanted = len(place.acknowledged) + count
    while len(place.acknowledged) < wanted:
        await asyncio.sleep(POLL_SECONDS)


async def _post(session: aiohttp.ClientSession, place: _Field, path: str, body: Any) -> dict[str, Any]:
    """Send until it is acknowledged, always with the same key."""
    key = {"Idempotency-Key": str(uuid.uuid4())}
    while True:
        with suppress(*_LOST):
            async with session.post(f"{place.url}{path}", json=body, headers=key) as response:
                if response.status < 300:
                    answer: dict[str, Any] = await response.json()
                    return answer
                if response.status != 503:
                    raise RuntimeError(await response.text())
        place.retries += 1
        await asyncio.sleep(PAUSE_SECONDS)


async def _open(session: aiohttp.ClientSession, place: _Field) -> str:
    opened = await _post(session, place, "/api/runs/external", {"title": "kill -9"})
    return str(opened["id"])


async def _end(session: aiohttp.ClientSession, place: _Field, run: str) -> None:
    await _post(session, place, f"/api/runs/{run}/control", {"action": "complete"})


async def _write(session: aiohttp.ClientSession, place: _Field, run: str, writer: str) -> None:
    number = 0
    while not place.is_over:
        number += 1
        text = f"{writer}-{number}"
        event = {"type": "message", "data": {"text": text}}
        answer = await _post(session, place, f"/api/runs/{run}/events", {"events": [event]})
        place.acknowledged[text] = answer["first"]


async def _read(session: aiohttp.ClientSession, place: _Field, run: str, chance: random.Random) -> None:
    """Follow the run to its end, cutting the line at random, and coming back with the last id."""
    seen = place.seen[run] = []
    while True:
        headers = {"Last-Event-ID": seen[-1]} if seen else {}
        left = chance.randint(1, 200)
        with suppress(*_LOST):
            async with session.get(f"{place.url}/api/runs/{run}/stream", headers=headers) as response:
                if response.status == 204:
                    return
                last = ""
                async for line in response.content:
                    if line.startswith(b"id: "):
                        last = line[4:].strip().decode()
                    elif line == b"data: [DONE]\n":
                        return
                    elif line == b"\n" and last:
                        seen.append(last)
                        last = ""
                        left -= 1
                    if left == 0:
                        break
        place.reconnects += 1
        await asyncio.sleep(POLL_SECONDS)


def _judge(place: _Field, runs: list[str], kills: int) -> Outcome:
    outcome = Outcome(
        kills, acknowledged=len(place.acknowledged), retries=place.retries, reconnects=place.reconnects
    )  # fmt: skip
    reader = open_reader(place.data)
    stored: dict[str, list[int]] = {}
    for run in runs:
        events: list[Recorded] = []
        after = 0
        while (page := read_page(reader, after=after, stream=run)).events:
            events += page.events
            after = page.scanned_to
        outcome.stored += len(events)
        outcome.version_gaps += [event.version for event in events] != list(range(1, len(events) + 1))
        outcome.wrong_streams += place.seen[run] != [event.cursor for event in events]
        order: dict[str, int] = {}
        for event in events:
            if event.type == "message":
                text = getattr(event.event(), "text", "")
                stored.setdefault(text, []).append(event.position)
                writer, _, number = text.partition("-")
                outcome.disordered += int(number) <= order.get(writer, 0)
                order[writer] = int(number)
    reader.close()
    outcome.lost = sum(position not in stored.get(text, ()) for text, position in place.acknowledged.items())
    outcome.doubled = sum(len(positions) > 1 for positions in stored.values())
    connection = sqlite3.connect(place.data / "log.db")
    outcome.integrity = connection.execute("PRAGMA integrity_check").fetchone()[0]
    connection.close()
    return outcome


def main() -> None:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32)
    print(f"seed {seed}")
    with tempfile.TemporaryDirectory(prefix="runfold-kill9-") as folder:
        print(asyncio.run(kill_again_and_again(Path(folder) / "data", kills=kills, seed=seed)))


if __name__ == "__main__":
    main()
