"""The log on JetStream: an append is decided against the mirror, granted by the stream, and answered from the mirror.

Who has an answer therefore reads what he wrote; who asks for the head asks the leader; who follows reads the mirror.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import aiosqlite

from eventstore import reading
from eventstore.contract import Appended, Bounds, Page
from eventstore.jetstream.address import Address
from eventstore.jetstream.cluster import CONNECT_SECONDS, REPLICAS, Cluster, connect
from eventstore.jetstream.mirror import Mirror, Planned
from eventstore.jetstream.mirroring import PATIENCE_SECONDS, MirroredLog
from eventstore.jetstream.presence import JetStreamPresence
from eventstore.jetstream.publishing import Publisher
from eventstore.jetstream.seeding import seed_mirror
from eventstore.mirrored import Mirrored
from eventstore.preparing import Request
from eventstore.sqlite import Waiting, connected, hop
from eventstore.sqlite3_module import sqlite3
from runfold.envelope import Recorded
from runfold.errors import LogFailed, RunfoldError, Unavailable

if TYPE_CHECKING:
    from eventstore.jetstream.rewriting import Rewriter
    from eventstore.keeping.cleaning import Candidate, Cleaned
    from eventstore.keeping.redacting import Redacted

GROUPS_MAX = 2  # Of appends on their way at once: who comes meanwhile joins the next, which is one batch.
SETTLE_SECONDS = 0.01  # What a racer appends is refused to others before all replicas have it.


class JetStreamLog(MirroredLog):
    """As the log on SQLite, but a commit is the stream's, and a task of its own brings the stream into the mirror."""

    began_at = 0
    """Up to where a new mirror was brought from another machine's snapshot."""

    def __init__(
        self,
        cluster: Cluster,
        data: Path,
        mirror: Mirror,
        position: int,
        writes: aiosqlite.Connection,
        reads: aiosqlite.Connection,
    ) -> None:
        super().__init__(cluster, mirror, position, writes, reads)
        self.presence = JetStreamPresence(cluster)
        self._publisher = Publisher(cluster)
        self._mirrored_in = data
        self._groups = asyncio.Semaphore(GROUPS_MAX)
        self._serving: set[asyncio.Task[None]] = set()

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
        log = cls(cluster, data, made[0], position, writes, reads)
        log.began_at = began_at
        return log

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

    async def redact(
        self, stream: str, *, texts: Sequence[str] = (), positions: Sequence[int] = (), reason: str = "", actor: str
    ) -> bool:
        return (await self.take_out(stream, texts=texts, positions=positions, reason=reason, actor=actor)).is_gone

    async def take_out(
        self,
        stream: str,
        *,
        texts: Sequence[str] = (),
        positions: Sequence[int] = (),
        by_form: bool = False,
        reason: str = "",
        actor: str,
    ) -> "Redacted":
        """As `redact`, with what was found; `by_form`: also whatever has the form of a secret."""
        return await self._rewriter().redact(
            stream, texts=texts, positions=positions, by_form=by_form, reason=reason, actor=actor
        )

    async def archive(self, streams: Sequence[str], path: Path) -> None:
        from eventstore.keeping.archive import write_archive

        await self._freshen()
        await asyncio.to_thread(write_archive, self._mirrored_in, path, streams, now_us=time.time_ns() // 1000)

    async def trim(self, streams: Sequence[str], *, actor: str) -> tuple[str, ...]:
        return await self._rewriter().trim(streams, actor=actor)

    async def clean(self, chosen: "Sequence[Candidate]", *, whole: bool, actor: str) -> "Cleaned":
        """As `eventstore.keeping.cleaning.clean`."""
        return await self._rewriter().clean(chosen, whole=whole, actor=actor)

    def _rewriter(self) -> "Rewriter":
        from eventstore.jetstream.rewriting import Rewriter

        return Rewriter(
            self._mirrored_in,
            self._rewritten,
            self._publisher,
            append=lambda stream, events, expected: self.append(stream, events, expected=expected),
            plan=lambda requests: hop(self._writes, lambda: self._mirror.plan(requests)),
            catch_up=self._catch_up,
        )

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
