"""The log on JetStream: an append is decided against the mirror, granted by the stream, and answered from the mirror.

Who has an answer therefore reads what he wrote; who asks for the head asks the leader; who follows reads the mirror.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import aiosqlite

from eventstore import reading
from eventstore.contract import Appended, Bounds, Page
from eventstore.grouping import Group
from eventstore.jetstream.address import Address
from eventstore.jetstream.cluster import CONNECT_SECONDS, REPLICAS, Cluster, connect
from eventstore.jetstream.ends import Ends
from eventstore.jetstream.granted import Grant
from eventstore.jetstream.mirror import Mirror
from eventstore.jetstream.mirroring import PATIENCE_SECONDS, MirroredLog
from eventstore.jetstream.planning import Planned
from eventstore.jetstream.presence import JetStreamPresence
from eventstore.jetstream.publishing import Publisher
from eventstore.jetstream.seeding import seed_mirror
from eventstore.mirrored import Mirrored
from eventstore.preparing import Request
from eventstore.sqlite import GROUP_REQUESTS_MAX, Waiting, connected, hop
from eventstore.sqlite3_module import sqlite3
from runfold.envelope import Recorded
from runfold.errors import LogFailed, RunfoldError, Unavailable

if TYPE_CHECKING:
    from eventstore.jetstream.rewriting import Rewriter
    from eventstore.keeping.cleaning import Candidate, Cleaned
    from eventstore.keeping.redacting import Redacted

GROUPS_MAX = 2  # Of appends on their way at once: who comes meanwhile joins the next, which is one batch.
SHARED_EVENTS_MIN = 48  # What is less leaves as one batch: each costs the servers a write to three disks.
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
        head: tuple[int, int],
        writes: aiosqlite.Connection,
        reads: aiosqlite.Connection,
    ) -> None:
        super().__init__(cluster, mirror, head, writes, reads)
        self.presence = JetStreamPresence(cluster)
        self._publisher = Publisher(cluster)
        self._mirrored_in = data
        self._away = 0
        """Groups of appends that are on their way."""
        self._ends = Ends(lambda: self._position)
        self._flying: dict[str, None] = {}
        """Runs of which the servers' answer is awaited."""
        self._recorded_at_us = 0

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
                head = await hop(writes, lambda: made[0].head)
                reads = await connected(lambda: reading.open_reader(data))
            except BaseException:
                await hop(writes, made[0].abandon)
                await writes.close()
                raise
        except BaseException:
            await cluster.client.close()
            raise
        log = cls(cluster, data, made[0], head, writes, reads)
        log._now_us = now_us
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
        """Groups overlap: the servers write one while the next is made ready."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(GROUPS_MAX):
                tasks.create_task(self._write_groups(), name="log writer")

    async def _write_groups(self) -> None:
        while not (self._closing and not self._waiting):
            if not self._waiting:
                await self._arrived.wait()
                self._arrived.clear()
                continue
            group = self._take(self._share())
            self._away += 1
            try:
                await self._serve(group)
            finally:
                self._away -= 1
        # Whoever waits for the next caller hears that none will come.
        self._arrived.set()

    def _share(self) -> int:
        """How many of the callers leave together: all, or, where they have much, their share of the groups' places."""
        waiting = len(self._waiting)
        if sum([len(request.ids) for request, _ in self._waiting]) > SHARED_EVENTS_MIN:
            waiting = -(-waiting // (GROUPS_MAX - self._away))
        return min(waiting, GROUP_REQUESTS_MAX)

    async def _serve(self, group: Sequence[Waiting]) -> None:
        outcomes = await self._commit([request for request, _ in group])
        for (_, done), outcome in zip(group, outcomes, strict=True):
            done(outcome)

    async def _commit(self, requests: Sequence[Request]) -> Sequence[Appended | RunfoldError]:
        """Plan by what is known, publish; then look again, in the mirror, at whatever was not granted.

        An append whose answer was lost is found in the mirror by its ids, or is published again: only one can count.
        """
        outcomes: dict[int, Appended | RunfoldError] = {}
        began = time.monotonic()
        ends = began + PATIENCE_SECONDS
        was_refused = False
        with suppress(LogFailed, Unavailable):
            was_refused = await self._publish(await self._plan(requests), outcomes)
        while len(outcomes) < len(requests):
            try:
                await self._look_elsewhere(began)
                if was_refused:
                    await asyncio.sleep(SETTLE_SECONDS)
                await self._catch_up()
                was_refused = await self._publish(await self._plan_in_mirror(requests, outcomes), outcomes)
            except LogFailed as error:
                self._failure = error.message
                outcomes.update((n, error) for n in range(len(requests)) if n not in outcomes)
            except Unavailable as error:
                if time.monotonic() > ends:
                    outcomes.update((n, error) for n in range(len(requests)) if n not in outcomes)
        return [outcomes[number] for number in range(len(requests))]

    def _has_come(self, rows: Sequence[reading.Row]) -> None:
        self._ends.forget_passed(rows, but=self._flying)

    async def _plan(self, requests: Sequence[Request]) -> dict[int, Planned]:
        """What can be published at once; the mirror decides on the others."""
        if self._failure:
            return {}
        doubtful = self._ends.doubtful(requests)
        known = Group(0, 0)
        if doubtful:
            known = await hop(self._reads, lambda: self._ends.look_up(self._reads._conn, doubtful))
            self._ends.learn(doubtful, known)
        self._recorded_at_us = max(self._recorded_at_us, self._now_us())
        plans = self._ends.plan(requests, known, self._recorded_at_us)
        return {number: plan for number, plan in enumerate(plans) if plan is not None}

    async def _plan_in_mirror(
        self, requests: Sequence[Request], outcomes: dict[int, Appended | RunfoldError]
    ) -> dict[int, Planned]:
        """What the mirror lets pass of those without an outcome; what it refuses is final, for it has caught up."""
        numbers = [number for number in range(len(requests)) if number not in outcomes]
        waiting = [requests[number] for number in numbers]
        plans: dict[int, Planned] = {}
        found = await hop(self._writes, lambda: self._mirror.plan(waiting))
        for number, plan in zip(numbers, found, strict=True):
            if isinstance(plan, Planned):
                plans[number] = plan
            elif plan is not None:
                outcomes[number] = plan
        return plans

    async def _publish(self, plans: dict[int, Planned], outcomes: dict[int, Appended | RunfoldError]) -> bool:
        """Publish, and answer what was granted; whether something was not."""
        if not plans:
            return False
        streams = {plan.stream: None for plan in plans.values()}
        self._flying.update(streams)
        try:
            answers = await self._publisher.publish(list(plans.values()))
            granted = [
                (number, plan, last) for (number, plan), last in zip(plans.items(), answers, strict=True) if last
            ]
            for _, plan, last in granted:
                self._ends.granted(plan, last)
                streams.pop(plan.stream, None)
            grants = self._granted.add([(plan, last) for _, plan, last in granted])
        finally:
            for plan in plans.values():
                self._flying.pop(plan.stream, None)
            for stream in streams:
                self._ends.forget(stream)
        own = self._granted.take()
        if own:
            await self._fill(own, ())
        await self._reach(max((last for _, _, last in granted), default=0))
        for (number, _, _), grant in zip(granted, grants, strict=True):
            outcomes[number] = await self._answer(grant)
        return len(granted) < len(plans)

    async def _answer(self, grant: Grant) -> Appended:
        """What was appended, as it is recorded; where another process brought it into the mirror, it is read."""
        rows = grant.rows
        if rows is None:
            first, last, stream = grant.first, grant.last, grant.plan.stream
            page = await self._read(
                lambda connection: reading.read_page(connection, after=first - 1, stream=stream, upto=last)
            )
            version, events = page.events[-1].version, page.events
            return Appended(first=first, last=last, version=version, duplicate=False, events=events)
        return Appended(
            first=grant.first,
            last=grant.last,
            version=rows[-1][2],
            duplicate=False,
            events=reading.RecordedRows(rows),
        )
