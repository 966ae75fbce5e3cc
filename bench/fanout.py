"""Measures one log streamed to many clients, beside bare asyncio transports to which the same frames are written.

The clients are one other process. `p99` is from before an event is appended, durably, to its arrival; of the bare ones
from before the first write. The frames of one tick go out in one write where many append at once.
"""

import asyncio
import json
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import msgspec

from bench.load import HOST
from bench.scoreboard import Figure, compared, figure, interleaved, show
from bench.serving import TOKEN, open_ours, serve
from eventstore.framing import Framing, event_frame
from runfold.envelope import NewEvent, Recorded, envelope_json

ROUNDS = 3
DELIVERIES = 100_000
TOGETHER = 64  # Callers who append at once, where the frames of one tick are joined.
PACED = 10_000  # Deliveries a second where the wait is measured.
PACED_SECONDS = 3
P99_RATIO_MAX = {1_000: 1.5, 5_000: 2.0}
FLOORS = {1_000: (0.8, 3.0), 5_000: (None, None)}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nretry: 1000\n\n"
Publish = Callable[[int], Awaitable[object]]


def _data() -> bytes:
    return b'{"path":"src/%b.py","bytes":33568,"t":%d}' % (b"a" * 170, time.monotonic_ns())


class Watchers:
    """The process of the clients."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def started(cls, stack: AsyncExitStack, port: int, path: str, clients: int) -> "Watchers":
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.watchers", str(port), path, TOKEN, str(clients),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        stack.push_async_callback(process.wait)
        stack.callback(process.kill)
        watchers = cls(process)
        await watchers._said()
        return watchers

    async def _said(self) -> bytes:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise SystemExit("the clients ended")
        return line

    async def taken(self, wanted: int, work: Awaitable[object]) -> dict[str, float]:
        assert self._process.stdin is not None
        self._process.stdin.write(b"%d\n" % wanted)
        await self._said()
        started = time.process_time()
        await work
        spent = time.process_time() - started
        figures: dict[str, float] = json.loads(await self._said())
        return {**figures, "lost": wanted - figures["came"], "spent": spent}


async def _measured(watchers: Watchers, clients: int, one: Publish, many: Publish | None) -> dict[str, float]:
    async def paced(count: int, rate: float) -> None:
        started = time.perf_counter()
        for number in range(count):
            await asyncio.sleep(max(0.0, started + number / rate - time.perf_counter()))
            await one(1)

    events = max(20, DELIVERIES // clients)
    flood = await watchers.taken(events * clients, one(events))
    joined = await watchers.taken(events * clients, many(events)) if many is not None else flood
    rate = PACED / clients
    slow = await watchers.taken(int(rate * PACED_SECONDS) * clients, paced(int(rate * PACED_SECONDS), rate))
    return {
        "rate": flood["came"] / flood["seconds"],
        "joined": joined["came"] / joined["seconds"],
        "each": flood["came"] / flood["spent"],
        "p99_ms": slow["p99_ms"],
        "lost": flood["lost"] + joined["lost"] + slow["lost"],
    }


async def ours(clients: int) -> dict[str, float]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runfold-bench-")))
        app, log = await open_ours(stack, folder)
        port = await serve(stack, app)
        watchers = await Watchers.started(stack, port, "/api/stream", clients)
        last = dict.fromkeys((f"r_{number}" for number in range(TOGETHER)), 0)
        # Reads what the clients' group reads, at the moment when it begins to write.
        pages = await stack.enter_async_context(aclosing(log.frames(after=0, framing=Framing(tenant="default"))))

        async def append(run_id: str) -> int:
            event = NewEvent(
                id=str(uuid.uuid4()), type="file_written", data=_data(), at_us=0, tenant="default", actor="user:bench"
            )
            last[run_id] = (await log.append(run_id, [event], expected=last[run_id])).last
            return last[run_id]

        async def one(count: int) -> None:
            for _ in range(count):
                position = await append("r_0")
                while (await anext(pages)).scanned_to < position:
                    pass

        async def many(count: int) -> None:
            left = iter(range(count))

            async def caller(run_id: str) -> None:
                for _ in left:
                    await append(run_id)

            await asyncio.gather(*(caller(run_id) for run_id in last))

        return await _measured(watchers, clients, one, many)


class _Bare(asyncio.Protocol):
    lines: "set[asyncio.Transport]"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._line = transport

    def data_received(self, data: bytes) -> None:
        self._line.write(HEAD)
        self.lines.add(self._line)


async def bare(clients: int) -> dict[str, float]:
    class Bare(_Bare):
        lines: "set[asyncio.Transport]" = set()

    async with AsyncExitStack() as stack:
        server = await asyncio.get_running_loop().create_server(Bare, HOST, 0, backlog=4096)
        stack.callback(server.close)
        watchers = await Watchers.started(stack, server.sockets[0].getsockname()[1], "/", clients)
        event = Recorded(
            position=1, run_id="r_0", version=1, id=str(uuid.uuid4()), type="file_written", schema=1, at_us=0,
            recorded_at_us=0, tenant="default", actor="user:bench", cause=None, command=None, sent=None,
            correlation="", hash=bytes(32), data=b"",
        )  # fmt: skip

        async def one(count: int) -> None:
            for number in range(count):
                new = msgspec.structs.replace(event, position=number, data=_data())
                frame = event_frame(new, envelope_json(new), named=False)
                for line in Bare.lines:
                    line.write(frame)
                await asyncio.sleep(0)
                while max(line.get_write_buffer_size() for line in Bare.lines) > 65_536:
                    await asyncio.sleep(0.001)

        return await _measured(watchers, clients, one, None)


def measure() -> Iterator[Figure]:
    for clients, (floor, joined_floor) in FLOORS.items():
        works = {"bare": lambda: asyncio.run(bare(clients)), "ours": lambda: asyncio.run(ours(clients))}  # noqa: B023
        found = interleaved(ROUNDS, works)
        theirs = {name: [it[name] for it in found["bare"]] for name in ("rate", "each", "p99_ms")}
        mine = {name: [it[name] for it in found["ours"]] for name in ("rate", "each", "joined", "p99_ms", "lost")}
        name, beside = f"SSE to {clients:,} clients", "bare transports"
        yield compared(
            f"{name}, an event a write", "events/s", mine["rate"], theirs["rate"], beside=beside, floor=floor
        )
        yield compared(f"{name}, by CPU time", "events/s", mine["each"], theirs["each"], beside=beside)
        yield compared(
            f"{name}, a tick joined", "events/s", mine["joined"], theirs["rate"], beside=beside, floor=joined_floor
        )
        ceiling = P99_RATIO_MAX[clients]
        yield compared(f"{name}, p99", "ms", mine["p99_ms"], theirs["p99_ms"], beside=beside, ceiling=ceiling)
        yield figure(f"{name}, lost", "events", mine["lost"], ceiling=0)


if __name__ == "__main__":
    sys.exit(show(measure()))
