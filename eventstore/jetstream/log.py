"""The log on JetStream: an append is decided against the mirror, granted by the stream, and answered from the mirror.

Who has an answer therefore reads what he wrote; who asks for the head asks the leader; who follows reads the mirror.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TypeVar

import aiosqlite
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from eventstore import reading
from eventstore.contract import Appended, Bounds, Page
from eventstore.jetstream.address import Address
from eventstore.jetstream.cluster import CONNECT_SECONDS, REPLICAS, RETRY_SECONDS, Cluster, connect, heard, stream_state
from eventstore.jetstream.messages import decode
from eventstore.jetstream.mirror import Arrived, Mirror, Planned
from eventstore.jetstream.presence import JetStreamPresence
from eventstore.jetstream.publishing import Publisher
from eventstore.jetstream.seeding import seed_mirror
from eventstore.mirrored import Mirrored
from eventstore.preparing import Request
from eventstore.sqlite import SqliteLog, Waiting, connected, hop
from eventstore.sqlite3_module import sqlite3
from runfold.envelope import Recorded
from runfold.errors import LogFailed, RunfoldError, Unavailable

PATIENCE_SECONDS = 20.0  # A leader that dies is replaced in 4 to 9 s.
GROUPS_MAX = 2  # Of appends on their way at once: who comes meanwhile joins the next, which is one batch.
FRESH_SECONDS = 2.0  # A reader waits so long for the leader, and so long nobody asks again one that was silent.
STOP_SECONDS = 0.5
HEARTBEAT_SECONDS = 1.0  # Two missed, and the stream is followed anew.
ARRIVED_MAX = 500
SILENCE_SECONDS = 3.0  # So long without what was promised, and the stream is followed anew.
SETTLE_SECONDS = 0.01  # What a racer appends is refused to others before all replicas have it.

_T = TypeVar("_T")


class JetStreamLog(SqliteLog):
    """As the log on SQLite, but a commit is the stream's, and a task of its own brings the stream into the mirror."""

    began_at = 0
    """Up to where a new mirror was brought from another machine's snapshot."""

    def __init__(
        self, cluster: Cluster, mirror: Mirror, position: int, writes: aiosqlite.Connection, reads: aiosqlite.Connection
    ) -> None:
        super().__init__(mirror, writes, reads)
        self.cluster = cluster
        self._mirror = mirror
        self._position = position
        self.presence = JetStreamPresence(cluster)
        self._publisher = Publisher(cluster)
        self._groups = asyncio.Semaphore(GROUPS_MAX)
        self._serving: set[asyncio.Task[None]] = set()
        self._arriving: list[dict[str, list[reading.Row]]] = []
        """For each group on its way, what has come of its runs."""
        self._first, self._wanted = 1, position
        self._is_current, self._current_at, self._silent_until = False, time.monotonic(), 0.0
        self._mirror_task = asyncio.create_task(self._keep_mirror(), name="log mirror")

    @classmethod
    async def connect(
        cls,
        address: Address,
        data: Path,
        *,
        blobs: str = "",
        replicas: int = REPLICAS,
        patience_seconds: float = CONNECT_SECONDS,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> "JetStreamLog":
        """The log at an address, mirrored in a folder; `blobs`: the store it shares. Raises Unavailable, BadRequest."""
        cluster = await connect(address, replicas=replicas, patience_seconds=patience_seconds)
        mirrored = Mirrored(address=address.shown, log_id=cluster.log_id, blobs=blobs)
        began_at = await seed_mirror(cluster, data, blobs) if blobs else 0
        made: list[Mirror] = []

        def open_mirror() -> sqlite3.Connection:
            made.append(Mirror(data, now_us, mirrored))
            return made[0].connection

        try:
            writes = await connected(open_mirror)
            try:
                position = await hop(writes, lambda: made[0].position)
                reads = await connected(lambda: reading.open_reader(data))
            except BaseException:
                await hop(writes, made[0].abandon)
                await writes.close()
                raise
        except BaseException:
            await cluster.client.close()
            raise
        log = cls(cluster, made[0], position, writes, reads)
        log.began_at = began_at
        return log

    @property
    def behind_seconds(self) -> float:
        """How long ago the mirror was last known to be where the stream's leader was, if it is not now."""
        return 0.0 if self._is_current else time.monotonic() - self._current_at

    async def bounds(self) -> Bounds:
        await self._freshen()
        return await super().bounds()

    async def last(self, stream: str) -> Recorded | None:
        await self._freshen()
        return await super().last(stream)

    async def position_of(self, stream: str, version: int) -> int | None:
        await self._freshen()
        return await super().position_of(stream, version)

    async def find(self, stream: str, *, ids: Sequence[str] = (), commands: Sequence[str] = ()) -> tuple[Recorded, ...]:
        await self._freshen()
        return await super().find(stream, ids=ids, commands=commands)

    async def read(
        self, *, after: int = 0, stream: str | None = None, upto: int | None = None
    ) -> AsyncGenerator[Page, None]:
        await self._freshen()
        async with aclosing(super().read(after=after, stream=stream, upto=upto)) as pages:
            async for page in pages:
                yield page

    async def _write(self) -> None:
        await super()._write()
        if self._serving:
            await asyncio.wait(self._serving)

    async def _serve(self, group: Sequence[Waiting]) -> None:
        """Groups overlap: an append waits for the servers' round trip, not for other callers'."""
        await self._groups.acquire()
        task = asyncio.create_task(super()._serve(group))
        self._serving.add(task)
        task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._serving.discard(task)
        self._groups.release()

    async def _commit(self, requests: Sequence[Request]) -> Sequence[Appended | RunfoldError]:
        """Plan against the mirror, publish, wait for the mirror; then look again at whatever was not granted.

        An append whose answer was lost is found in the mirror by its ids, or is published again: only one can count.
        """
        outcomes: dict[int, Appended | RunfoldError] = {}
        ends = time.monotonic() + PATIENCE_SECONDS
        is_current = False
        while len(outcomes) < len(requests):
            try:
                await self._round(requests, outcomes, is_current=is_current)
                if len(outcomes) < len(requests):
                    await asyncio.sleep(SETTLE_SECONDS)
                    await self._catch_up()
                    is_current = True
            except LogFailed as error:
                self._failure = error.message
                outcomes.update((n, error) for n in range(len(requests)) if n not in outcomes)
            except Unavailable as error:
                if time.monotonic() > ends:
                    outcomes.update((n, error) for n in range(len(requests)) if n not in outcomes)
        return [outcomes[number] for number in range(len(requests))]

    async def _round(
        self, requests: Sequence[Request], outcomes: dict[int, Appended | RunfoldError], *, is_current: bool
    ) -> None:
        """Try all that have no outcome yet, once; what the mirror refuses is final where it has caught up before."""
        numbers = [number for number in range(len(requests)) if number not in outcomes]
        waiting = [requests[number] for number in numbers]
        plans = dict(zip(numbers, await hop(self._writes, lambda: self._mirror.plan(waiting)), strict=True))
        for number, plan in plans.items():
            # What the mirror does not hold yet may be the very events that a refusal is about.
            if isinstance(plan, Appended) or (isinstance(plan, RunfoldError) and is_current):
                outcomes[number] = plan
        planned = {number: plan for number, plan in plans.items() if isinstance(plan, Planned)}
        if not planned:
            return
        arriving = {plan.stream: list[reading.Row]() for plan in planned.values()}
        self._arriving.append(arriving)
        try:
            answers = await self._publisher.publish(list(planned.values()))
            granted = {number: last for number, last in zip(planned, answers, strict=True) if last}
            await self._reach(max(granted.values(), default=0))
            for number, last in granted.items():
                plan = planned[number]
                outcomes[number] = await self._answer(plan, last, arriving[plan.stream])
        finally:
            # Two may be equal: it is this one that is done.
            self._arriving = [other for other in self._arriving if other is not arriving]

    async def _answer(self, plan: Planned, last: int, arrived: Sequence[reading.Row]) -> Appended:
        """What was appended, as the mirror holds it; where another process brought it there, it is read."""
        first = last - len(plan.messages) + 1
        rows = [row for row in arrived if first <= row[0] <= last]
        events = tuple(reading.recorded_of(row) for row in rows)
        if len(events) != len(plan.messages):
            page = await self._read(
                lambda connection: reading.read_page(connection, after=first - 1, stream=plan.stream, upto=last)
            )
            events = page.events
        return Appended(first=first, last=last, version=events[-1].version, duplicate=False, events=events)

    async def _freshen(self) -> None:
        """Catch up before a read; where the leader is not reached in time, the mirror is read as it is.

        Who decides on what is old is refused by the stream, so only the reader's own view is late. Raises LogFailed.
        """
        if self._failure:
            raise LogFailed(self._failure, hint="see `runfold doctor`")
        if self._closing or time.monotonic() < self._silent_until:
            return
        try:
            async with asyncio.timeout(FRESH_SECONDS):
                await heard(self._catch_up())
        except (TimeoutError, Unavailable):
            self._is_current = False
            self._silent_until = time.monotonic() + FRESH_SECONDS

    async def _catch_up(self) -> None:
        """Wait until the mirror is where the stream's leader is now. Raises Unavailable, LogFailed."""
        asked_at = time.monotonic()
        state = (await self._ask(lambda: stream_state(self.cluster))).state
        if state.first_seq > self._first:
            self._first = state.first_seq
            await hop(self._writes, lambda: self._mirror.trim(self._first))
        if not state.messages:
            await self._pass_over(state.last_seq)
        await self._reach(state.last_seq)
        self._is_current, self._current_at = True, max(self._current_at, asked_at)

    async def _reach(self, position: int) -> None:
        """Wait until the mirror holds the stream up to a position. Raises Unavailable, LogFailed."""
        self._wanted = max(self._wanted, position)
        if position <= self._position:
            return
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while self._position < position:
                    if self._failure:
                        raise LogFailed(self._failure, hint="see `runfold doctor`")
                    # Taken before the position is looked at, so that no step is slept through.
                    woken = self._woken
                    if self._position < position:
                        await woken.wait()
        except TimeoutError:
            raise Unavailable(
                f"the replicated log did not deliver position {position} in {PATIENCE_SECONDS:g} s",
                hint="a majority of its servers must be up; try again with the same ids",
            ) from None

    async def _ask(self, question: Callable[[], Awaitable[_T]]) -> _T:
        """What the stream's leader answers, asked again while there is none. Raises Unavailable."""
        ends = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return await question()
            except (NatsError, TimeoutError, OSError) as error:
                if self._closing or time.monotonic() > ends:
                    raise Unavailable(
                        f"the replicated log does not answer: {type(error).__name__}",
                        hint="a majority of its servers must be up; try again with the same ids",
                    ) from error
            await asyncio.sleep(RETRY_SECONDS)

    async def _keep_mirror(self) -> None:
        """Bring the stream into the mirror until cancelled; where it is silent too long, follow it anew."""
        while True:
            arrivals: asyncio.Queue[Msg] = asyncio.Queue(ARRIVED_MAX * 4)
            try:
                subscription = await self._follow_stream(arrivals)
            except (NatsError, TimeoutError, OSError):
                await asyncio.sleep(RETRY_SECONDS)
                continue
            try:
                await self._take_all(arrivals)
            except TimeoutError:
                await self._skip_deleted()
            except Exception as error:
                self._failure = f"{type(error).__name__}: {error}"
                self._wake()
                return
            finally:
                with suppress(NatsError):
                    await subscription.unsubscribe()

    async def _follow_stream(self, arrivals: "asyncio.Queue[Msg]") -> JetStreamContext.PushSubscription:
        return await self.cluster.jetstream.subscribe(
            f"{self.cluster.name}.>",
            stream=self.cluster.name,
            cb=arrivals.put,
            ordered_consumer=True,
            idle_heartbeat=HEARTBEAT_SECONDS,
            pending_msgs_limit=-1,
            pending_bytes_limit=-1,
            config=ConsumerConfig(
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=max(self._position + 1, 1)
            ),
        )

    async def _take_all(self, arrivals: "asyncio.Queue[Msg]") -> None:
        """Raises TimeoutError where something is waited for and nothing comes, LogFailed."""
        held: list[Arrived] = []
        while True:
            held.append(_arrived(await self._next(arrivals)))
            while len(held) < ARRIVED_MAX and not arrivals.empty():
                held.append(_arrived(arrivals.get_nowait()))
            # An append is seen whole or not at all.
            whole = next((n for n in range(len(held), 0, -1) if not held[n - 1].message.rest), 0)
            if whole:
                taken, held = held[:whole], held[whole:]
                position, rows = await hop(self._writes, lambda taken=taken: self._mirror.take(taken))  # type: ignore[misc]
                for arriving in self._arriving:
                    for row in rows:
                        if row[1] in arriving:
                            arriving[row[1]].append(row)
                self._position = position
                self._wake()

    async def _next(self, arrivals: "asyncio.Queue[Msg]") -> Msg:
        while True:
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    return await arrivals.get()
            except TimeoutError:
                if self._wanted > self._position:
                    raise

    async def _skip_deleted(self) -> None:
        """Where the stream has nothing after the mirror's head, what was there has been deleted."""
        wanted = self._wanted
        try:
            await self.cluster.jetstream.get_msg(
                self.cluster.name, seq=self._position + 1, subject=f"{self.cluster.name}.>", next=True
            )
        except NotFoundError:
            await self._pass_over(wanted)
        except (NatsError, TimeoutError, OSError):
            pass

    async def _pass_over(self, position: int) -> None:
        if position > self._position:
            await hop(self._writes, lambda: self._mirror.pass_over(position))
            self._position = max(self._position, position)
            self._wake()

    async def _stop(self) -> None:
        while not self._mirror_task.done():
            # Told again until it takes it, see `heard`.
            self._mirror_task.cancel()
            await asyncio.wait([self._mirror_task], timeout=STOP_SECONDS)
        await self.cluster.client.close()


def _arrived(message: Msg) -> Arrived:
    position = message.metadata.sequence.stream
    return Arrived(position, decode(message.data, position))
