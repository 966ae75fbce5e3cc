"""What a peer does with such work, in the Python that `make peers` fills: `python -m bench.peer WORK [PORT]`.

It prints events a second: by the clock, and of a rebuild by the time of the process, as ours is measured. Nothing of
ours is loaded here.
"""

import asyncio
import itertools
import json
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CALLERS = 64
APPENDED = 60_000  # Two seconds of the quickest.
APPENDED_SLOWLY = 4_000  # About a second of the slowest.
READ = 50_000
PAGE = 1_000
OF_A_RUN = 100
TYPE = "file_written"
CONTENT: dict[str, Any] = {"path": "src/" + "a" * 170 + ".py", "bytes": 1234, "kind": "update"}
DATA = json.dumps(CONTENT).encode()


async def _by_many(callers: int, count: int, append: Callable[[int], Awaitable[object]]) -> float:
    """Callers that wait for their own answer before they send the next."""

    async def caller(number: int) -> None:
        for _ in range(count // callers):
            await append(number)

    started = time.perf_counter()
    await asyncio.gather(*map(caller, range(callers)))
    return count / (time.perf_counter() - started)


async def redis_append(port: int) -> float:
    """Streams, one a caller; whether an answer means durable is how the server was started."""
    from redis.asyncio import Redis

    async with Redis(port=port, max_connections=CALLERS) as client:
        return await _by_many(CALLERS, APPENDED, lambda number: client.xadd(f"run:{number}", {"t": TYPE, "d": DATA}))


async def redis_read(port: int) -> float:
    from redis import Redis

    with Redis(port=port) as client:
        client.delete("run")
        for _ in range(0, READ, PAGE):
            pipeline = client.pipeline(transaction=False)
            for _ in range(PAGE):
                pipeline.xadd("run", {"t": TYPE, "d": DATA})
            pipeline.execute()
        after, count, started = "0", 0, time.perf_counter()
        while found := client.xread({"run": after}, count=PAGE):
            ((_, events),) = found.items() if isinstance(found, dict) else found
            events = events[0] if isinstance(events[0], list) else events
            after, count = events[-1][0], count + len(events)
        return count / (time.perf_counter() - started)


async def jetstream_append(port: int) -> float:
    async with await _jetstream(port) as client:
        stream = client.jetstream()
        await stream.add_stream(name="APPENDED", subjects=["appended.>"])
        rate = await _by_many(CALLERS, APPENDED_SLOWLY * 4, lambda number: stream.publish(f"appended.{number}", DATA))
        await stream.delete_stream("APPENDED")
        return rate


async def jetstream_read(port: int) -> float:
    async with await _jetstream(port) as client:
        stream = client.jetstream()
        await stream.add_stream(name="READ", subjects=["read.>"])
        for _ in range(0, READ, PAGE):
            await asyncio.gather(*(stream.publish("read.it", DATA) for _ in range(PAGE)))
        whole, counted = asyncio.Event(), itertools.count(1)

        async def take(_: object) -> None:
            if next(counted) == READ:
                whole.set()

        started = time.perf_counter()
        limits = {"pending_msgs_limit": 10**6, "pending_bytes_limit": 10**9}
        await stream.subscribe("read.>", cb=take, ordered_consumer=True, **limits)
        await whole.wait()
        rate = READ / (time.perf_counter() - started)
        await stream.delete_stream("READ")
        return rate


async def _jetstream(port: int) -> Any:
    import nats

    return await nats.connect(f"nats://127.0.0.1:{port}", pending_size=64 * 2**20)


@contextmanager
def _recorder() -> Iterator[Any]:
    from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

    with tempfile.TemporaryDirectory() as folder:
        store = SQLiteDatastore(str(Path(folder) / "events.db"), lock_timeout=30, pool_size=8)
        recorder = SQLiteApplicationRecorder(store)
        recorder.create_table()
        try:
            yield recorder
        finally:
            store.close()


def _stored(run: uuid.UUID, version: int) -> Any:
    from eventsourcing.persistence import StoredEvent

    return StoredEvent(run, version, TYPE, DATA)


def eventsourcing_append() -> float:
    """Eight threads, each with a connection and a commit of its own."""
    with _recorder() as recorder:
        share, failed = APPENDED_SLOWLY // 8, list[Exception]()

        def caller() -> None:
            run = uuid.uuid4()
            try:
                for version in range(1, share + 1):
                    recorder.insert_events([_stored(run, version)])
            except Exception as error:
                failed.append(error)

        threads = [threading.Thread(target=caller) for _ in range(8)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]
        return APPENDED_SLOWLY / (time.perf_counter() - started)


def eventsourcing_read() -> float:
    with _recorder() as recorder:
        for _ in range(READ // PAGE):
            run = uuid.uuid4()
            recorder.insert_events([_stored(run, version) for version in range(1, PAGE + 1)])
        after, count, started = 0, 0, time.perf_counter()
        while found := recorder.select_notifications(after + 1, PAGE):
            after, count = found[-1].id, count + len(found)
        return count / (time.perf_counter() - started)


def _application(**settings: str) -> tuple[Any, list[Any], int]:
    """An application with 200 runs of 100 events, the runs' ids, and where its log ends."""
    from eventsourcing.application import Application

    application = Application(env={"IS_SNAPSHOTTING_ENABLED": "n", **settings})
    runs = [Run(workflow="port") for _ in range(200)]
    end = 0
    for run in runs:
        for _ in range(OF_A_RUN - 1):
            run.write_file(**CONTENT)
        end = application.save(run)[-1].notification.id
    return application, [run.id for run in runs], end


def eventsourcing_replay() -> float:
    """Each run folded from its events in SQLite."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "events.db")
        application, ids, _ = _application(PERSISTENCE_MODULE="eventsourcing.sqlite", SQLITE_DBNAME=path)
        started = time.process_time()
        for run_id in ids:
            application.repository.get(run_id)
        rate = len(ids) * OF_A_RUN / (time.process_time() - started)
        application.close()
        return rate


def eventsourcing_projection() -> float:
    """One view of two counters, stored nowhere, of a log in memory: its log in SQLite has no subscriptions."""
    application, ids, end = _application(PERSISTENCE_MODULE="eventsourcing.popo")
    counts: dict[object, list[int]] = {}
    started = time.process_time()
    with application.recorder.subscribe(gt=0) as subscription:
        for notification in subscription:
            event = application.mapper.to_domain_event(notification)
            count = counts.setdefault(event.originator_id, [0, 0])
            count[0] += 1
            count[1] += getattr(event, "bytes", 0)
            if notification.id >= end:
                break
    rate = len(ids) * OF_A_RUN / (time.process_time() - started)
    application.close()
    return rate


OVER_A_PORT = {it.__name__: it for it in (redis_append, redis_read, jetstream_append, jetstream_read)}
ALONE = {
    it.__name__: it for it in (eventsourcing_append, eventsourcing_read, eventsourcing_replay, eventsourcing_projection)
}

if __name__ == "__main__":
    work = sys.argv[1]
    if work in OVER_A_PORT:
        print(asyncio.run(OVER_A_PORT[work](int(sys.argv[2]))))
    else:
        from eventsourcing.domain import Aggregate
        from eventsourcing.domain import event as mutates

        class Run(Aggregate):
            @mutates("Created")
            def __init__(self, workflow: str) -> None:
                self.workflow, self.files, self.bytes = workflow, 0, 0

            @mutates("FileWritten")
            def write_file(self, path: str, bytes: int, kind: str) -> None:
                self.files += 1
                self.bytes += bytes

        print(ALONE[work]())
