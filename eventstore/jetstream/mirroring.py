"""A log file that is filled from a stream: it knows how far it has come, and waits for what it is asked to hold."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import aclosing, contextmanager, suppress
from typing import TypeVar

import aiosqlite
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from eventstore.contract import Page
from eventstore.framing import Framed, Framing
from eventstore.jetstream.cluster import RETRY_SECONDS, Cluster, heard, stream_bounds
from eventstore.jetstream.following import HEARTBEAT_SECONDS, Following
from eventstore.jetstream.granted import Granted
from eventstore.jetstream.messages import decode
from eventstore.jetstream.mirror import Arrived, Mirror
from eventstore.jetstream.mirror_thread import MirrorThread
from eventstore.jetstream.rewritten import Rewritten
from eventstore.rows import Row, recorded_of, uuid_text
from eventstore.sqlite import SqliteLog
from runfold.errors import LogFailed, Unavailable
from runfold.events import REWRITES

PATIENCE_SECONDS = 20.0  # A leader that dies is replaced in 4 to 9 s.
LOOK_AGAIN_SECONDS = 1.0
ELSEWHERE_SECONDS = 10.0  # Longer than an election: who has no answer so long asks another server.
FRESH_SECONDS = 2.0  # A reader waits so long for the leader, and so long nobody asks again one that was silent.
STOP_SECONDS = 0.5
ARRIVED_MAX = 1_000  # Messages a transaction of the mirror; an append has less.
SHOWN_MAX = 100  # Events that are handed on without reading them back.
AGAIN = "a majority of its servers must be up; try again with the same ids"
SILENCE_SECONDS = 3.0  # So long without what was promised, and the stream is followed anew.

_T = TypeVar("_T")


class MirroredLog(SqliteLog):
    """The reading half: a task of its own brings the stream into the mirror, in order, as long as the log is open."""

    def __init__(
        self,
        cluster: Cluster,
        mirror: Mirror,
        head: tuple[int, int],
        writes: aiosqlite.Connection,
        reads: aiosqlite.Connection,
    ) -> None:
        super().__init__(mirror, writes, reads)
        self.cluster = cluster
        self._mirror = mirror
        self._thread = MirrorThread(writes, mirror)
        self._position = head[0]
        self._granted = Granted(*head)
        self._something = asyncio.Event()
        """Is set when the mirror may have something to take."""
        self._rewritten = Rewritten(cluster)
        self._first, self._wanted = 1, head[0]
        self._moved_at = self._idle_asked_at = 0.0
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
        state = await self._ask(lambda: stream_bounds(self.cluster))
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
            trimmed = await self._thread.do(lambda: self._mirror.unfilled_before(first, since=self._first))
            if trimmed:
                await self._thread.do(lambda: self._mirror.trim(trimmed + 1))
            self._first = first

    async def _reach(self, position: int) -> None:
        """Wait until the mirror holds the stream up to a position. Raises Unavailable, LogFailed."""
        self._wanted = max(self._wanted, position)
        began = time.monotonic()
        while self._position < position:
            if self._failure:
                raise LogFailed(self._failure, hint="see `runfold doctor`")
            if time.monotonic() - began > PATIENCE_SECONDS:
                raise Unavailable(
                    f"the replicated log did not deliver position {position} in {PATIENCE_SECONDS:g} s", hint=AGAIN
                )
            await self._look_elsewhere(began)
            # Taken before the position is looked at, so that no step is slept through.
            woken = self._woken
            if self._position < position:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_AGAIN_SECONDS):
                        await woken.wait()

    async def _ask(self, question: Callable[[], Awaitable[_T]]) -> _T:
        """What the stream's leader answers, asked again while there is none. Raises Unavailable."""
        began = time.monotonic()
        ends = began + PATIENCE_SECONDS
        while True:
            try:
                return await question()
            except (NatsError, TimeoutError, OSError) as error:
                await self._look_elsewhere(began)
                if self._closing or time.monotonic() > ends:
                    raise Unavailable(
                        f"the replicated log does not answer: {type(error).__name__}", hint=AGAIN
                    ) from error
            await asyncio.sleep(RETRY_SECONDS)

    async def _look_elsewhere(self, since: float) -> None:
        """Go to another server when nothing was granted or answered since then.

        A server that is cut from the others still answers pings, and so do its clients' connections.
        """
        now = time.monotonic()
        # Who waits beside may have moved a moment ago, and all would be moved again from where they are answered.
        if now - max(since, self._moved_at) >= ELSEWHERE_SECONDS:
            self._moved_at = now
            await self.cluster.client.force_reconnect()

    async def _keep_mirror(self) -> None:
        """Bring the stream into the mirror until cancelled; where it is silent too long, follow it anew."""
        lost_at = time.monotonic()
        while True:
            following = Following(
                self.cluster, self._position, arrived=self._something.set, is_known=self._granted.is_known
            )
            self._granted.follow_from(self._position)
            try:
                await following.begin()
                try:
                    await self._take_all(following)
                finally:
                    lost_at = time.monotonic()
            except TimeoutError:
                await self._skip_deleted()
            except (NatsError, OSError):
                await asyncio.sleep(RETRY_SECONDS)
            except Exception as error:
                self._failure = self._failure or f"{type(error).__name__}: {error}"
                self._wake()
                return
            finally:
                with suppress(NatsError):
                    await following.end()
            await self._look_elsewhere(lost_at)

    async def _take_all(self, following: Following) -> None:
        """Raises TimeoutError where something is waited for and nothing comes, LogFailed, nats.errors.Error."""
        held: list[tuple[int, bytes]] = []
        while True:
            held += await following.take()
            # Not a step between these two: what is granted stands before what is new of what arrived.
            held, own = self._granted.unknown(held), self._granted.take()
            arrived = [Arrived(position, decode(content, position)) for position, content in held[:ARRIVED_MAX]]
            # An append is seen whole or not at all.
            whole = next((n for n in range(len(arrived), 0, -1) if not arrived[n - 1].message.rest), 0)
            if own or whole:
                held = held[whole:]
                await self._fill(own, arrived[:whole])
            elif len(held) < ARRIVED_MAX:
                await self._wait_for_something(following)

    async def _fill(self, own: Sequence[Row], arrived: Sequence[Arrived]) -> None:
        """Add what was granted, and behind it what arrived. Raises TimeoutError, LogFailed."""
        before = self._position
        try:
            await self._make_ready(own[-1][0] if own else before, arrived)
        except TimeoutError:
            self._granted.give_back(own)
            raise
        with self._failing():
            position, rows = await self._thread.take(own, arrived)
        self._filled(before, position, rows, arrived)

    def _fill_at_once(self) -> bool:
        """Add what was granted, where nobody has to be waited for. Raises LogFailed."""
        before = self._position
        with self._failing():
            taken = self._thread.take_at_once(self._granted.rows, ())
        if taken is None:
            return False
        self._granted.take()
        self._filled(before, *taken, ())
        return True

    @contextmanager
    def _failing(self) -> Generator[None]:
        """Raises LogFailed for whatever fails within, as everybody is told from now on."""
        try:
            yield
        except Exception as error:
            self._failure = error.message if isinstance(error, LogFailed) else f"{type(error).__name__}: {error}"
            self._wake()
            raise LogFailed(self._failure, hint="see `runfold doctor`") from error

    def _filled(self, before: int, position: int, rows: Sequence[Row], arrived: Sequence[Arrived]) -> None:
        """The mirror has come to a position, from the one before by these rows."""
        self._position = max(self._position, position)
        self._granted.mirrored(position, rows, arrived=[each.position for each in arrived])
        if arrived:
            self._has_come(rows)
        self._wake()
        self._show(before, rows)

    def _show(self, before: int, rows: Sequence[Row]) -> None:
        """Who follows everything is given what has come, without another look at the mirror."""
        if self._tails and rows and len(rows) <= SHOWN_MAX and rows[-1][0] - before == len(rows):
            self._pages.show(before, None, Page(events=tuple(map(recorded_of, rows)), scanned_to=rows[-1][0]))

    async def _wait_for_something(self, following: Following) -> None:
        """Raises TimeoutError."""
        with suppress(TimeoutError):
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                await self._something.wait()
        self._something.clear()
        await self._ask_when_idle(following)
        is_silent = time.monotonic() - following.came_at > SILENCE_SECONDS and self._wanted > self._granted.upto
        if following.is_lost or (is_silent and not following.has_come):
            raise TimeoutError

    async def _ask_when_idle(self, following: Following) -> None:
        """Where nothing comes, ask whether there is anything: a server that is cut from the others says nothing of it.

        Raises nats.errors.Error, TimeoutError where the server knows no leader.
        """
        now = time.monotonic()
        if now - max(following.came_at, self._idle_asked_at) > ELSEWHERE_SECONDS:
            self._idle_asked_at = now
            self._wanted = max(self._wanted, (await heard(stream_bounds(self.cluster))).last_seq)

    async def _make_ready(self, after: int, taken: Sequence[Arrived]) -> None:
        """Have here what stands in holes, and have erased what these events say is gone. Raises TimeoutError."""
        told = [each for each in taken if each.message.type in REWRITES]
        if not taken or (not told and taken[-1].position - after == len(taken)):
            return
        try:
            await self._remember()
            positions, runs = await self._thread.do(lambda: self._mirror.taken_back(told))
            await self._rewritten.erase(positions)
            for run_id in runs:
                await self._rewritten.shorten(run_id)
            for each in told:
                files = await self._rewritten.files(uuid_text(each.message.id))
                await self._thread.do(lambda each=each, files=files: self._mirror.announce_files(each, files))  # type: ignore[misc]
        except (NatsError, OSError) as error:
            # Nothing was taken: the stream is followed anew from here.
            raise TimeoutError(str(error)) from error

    async def _remember(self) -> None:
        """What has been put beside the stream since this was last asked."""
        async with aclosing(self._rewritten.fresh()) as found:
            left = [each async for each in found]
        if left:
            await self._thread.do(lambda: self._mirror.remember(left))

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
            await self._thread.do(lambda: self._mirror.pass_over(position))
            self._position = max(self._position, position)
            self._granted.mirrored(self._position, ())
            self._wake()

    async def page(self, *, after: int, stream: str | None = None) -> Page:
        await self._come_to(after)
        return await super().page(after=after, stream=stream)

    async def framed(self, *, after: int, framing: Framing, stream: str | None = None, begins: bool = False) -> Framed:
        await self._come_to(after)
        return await super().framed(after=after, stream=stream, framing=framing, begins=begins)

    async def _come_to(self, position: int) -> None:
        """A cursor may be from another machine, which was further. Raises Unavailable while nobody can tell."""
        if position > self._position:
            await self._freshen()
            if position > self._position and not self._is_current:
                raise Unavailable(f"this machine has not yet come to position {position} of the log", hint=AGAIN)

    def _has_come(self, rows: Sequence[Row]) -> None:
        """These events have come from the servers."""

    async def _stop(self) -> None:
        while not self._mirror_task.done():
            # Told again until it takes it, see `heard`.
            self._mirror_task.cancel()
            await asyncio.wait([self._mirror_task], timeout=STOP_SECONDS)
        await self.cluster.client.close()
        # Who closes the mirror seals it, and waits for others to do so.
        await self._thread.do(lambda: None)
