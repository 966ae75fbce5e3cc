"""A log file that is filled from a stream: it knows how far it has come, and waits for what it is asked to hold."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from typing import TypeVar

import aiosqlite
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from eventstore import reading
from eventstore.jetstream.cluster import RETRY_SECONDS, Cluster, heard, stream_state
from eventstore.jetstream.messages import GAP, decode
from eventstore.jetstream.mirror import Arrived, Mirror
from eventstore.jetstream.rewritten import Rewritten
from eventstore.sqlite import SqliteLog, hop
from runfold.errors import LogFailed, Unavailable
from runfold.events import REWRITES

PATIENCE_SECONDS = 20.0  # A leader that dies is replaced in 4 to 9 s.
FRESH_SECONDS = 2.0  # A reader waits so long for the leader, and so long nobody asks again one that was silent.
STOP_SECONDS = 0.5
HEARTBEAT_SECONDS = 1.0  # Two missed, and the stream is followed anew.
ARRIVED_MAX = 500
SILENCE_SECONDS = 3.0  # So long without what was promised, and the stream is followed anew.

_T = TypeVar("_T")


class MirroredLog(SqliteLog):
    """The reading half: a task of its own brings the stream into the mirror, in order, as long as the log is open."""

    def __init__(
        self, cluster: Cluster, mirror: Mirror, position: int, writes: aiosqlite.Connection, reads: aiosqlite.Connection
    ) -> None:
        super().__init__(mirror, writes, reads)
        self.cluster = cluster
        self._mirror = mirror
        self._position = position
        self._rewritten = Rewritten(cluster)
        self._arriving: list[dict[str, list[reading.Row]]] = []
        """For each group on its way, what has come of its runs."""
        self._first, self._wanted = 1, position
        self._is_current, self._current_at, self._silent_until = False, time.monotonic(), 0.0
        self._mirror_task = asyncio.create_task(self._keep_mirror(), name="log mirror")

    @property
    def behind_seconds(self) -> float:
        """How long ago the mirror was last known to be where the stream's leader was, if it is not now."""
        return 0.0 if self._is_current else time.monotonic() - self._current_at

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
            await self._begin_later(state.first_seq)
        if not state.messages:
            await self._pass_over(state.last_seq)
        await self._reach(state.last_seq)
        self._is_current, self._current_at = True, max(self._current_at, asked_at)

    async def _begin_later(self, first: int) -> None:
        """What the stream had before its first message was trimmed, but for what stands beside it."""
        with suppress(NatsError, TimeoutError):
            await self._remember()
            trimmed = await hop(self._writes, lambda: self._mirror.unfilled_before(first, since=self._first))
            if trimmed:
                await hop(self._writes, lambda: self._mirror.trim(trimmed + 1))
            self._first = first

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
        gap = f"{self.cluster.name}.{GAP}"

        async def arrive(message: Msg) -> None:
            if message.subject != gap:
                await arrivals.put(message)

        return await self.cluster.jetstream.subscribe(
            f"{self.cluster.name}.>",
            stream=self.cluster.name,
            cb=arrive,
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
                await self._make_ready(taken)
                position, rows = await hop(self._writes, lambda taken=taken: self._mirror.take(taken))  # type: ignore[misc]
                for arriving in self._arriving:
                    for row in rows:
                        if row[1] in arriving:
                            arriving[row[1]].append(row)
                self._position = position
                self._wake()

    async def _make_ready(self, taken: Sequence[Arrived]) -> None:
        """Have here what stands in holes, and have erased what these events say is gone. Raises TimeoutError."""
        told = [each for each in taken if each.message.type in REWRITES]
        places = [self._position, *(each.position for each in taken)]
        if not told and places[-1] - places[0] == len(taken):
            return
        try:
            await self._remember()
            positions, runs = await hop(self._writes, lambda: self._mirror.taken_back(told))
            await self._rewritten.erase(positions)
            for run_id in runs:
                await self._rewritten.shorten(run_id)
            for each in told:
                files = await self._rewritten.files(reading.uuid_text(each.message.id))
                await hop(self._writes, lambda each=each, files=files: self._mirror.announce_files(each, files))  # type: ignore[misc]
        except (NatsError, OSError) as error:
            # Nothing was taken: the stream is followed anew from here.
            raise TimeoutError(str(error)) from error

    async def _remember(self) -> None:
        """What has been put beside the stream since this was last asked."""
        async with aclosing(self._rewritten.fresh()) as found:
            left = [each async for each in found]
        if left:
            await hop(self._writes, lambda: self._mirror.remember(left))

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
