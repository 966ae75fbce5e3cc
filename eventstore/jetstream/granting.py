"""A mirrored log that is appended to: planned by what is known, granted by the stream, answered from the mirror."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import aiosqlite

from eventstore import reading
from eventstore.contract import Appended, Done
from eventstore.gathering import GROUP_REQUESTS_MAX, QUEUE_REQUESTS_MAX, Waiting
from eventstore.grouping import Group
from eventstore.jetstream.cluster import Cluster
from eventstore.jetstream.ends import Ends
from eventstore.jetstream.granted import Grant
from eventstore.jetstream.mirror import Mirror
from eventstore.jetstream.mirroring import PATIENCE_SECONDS, MirroredLog
from eventstore.jetstream.patience import APPEND_SECONDS_MAX, Patient, ungranted
from eventstore.jetstream.planning import Planned
from eventstore.jetstream.publishing import Publisher
from eventstore.preparing import Request
from eventstore.rows import RecordedRows, Row
from eventstore.sqlite import hop
from runfold.errors import LogFailed, RunfoldError

GROUPS_MAX = 2  # Of appends on their way at once: who comes meanwhile joins the next, which is one batch.
SHARED_EVENTS_MIN = 48  # What is less leaves as one batch: each costs the servers a write to three disks.
SETTLE_SECONDS = 0.01  # What a racer appends is refused to others before all replicas have it.


class GrantedLog(MirroredLog):
    """The appending half: groups of callers, two on their way at once, and who comes alone."""

    def __init__(
        self,
        cluster: Cluster,
        mirror: Mirror,
        head: tuple[int, int],
        writes: aiosqlite.Connection,
        reads: aiosqlite.Connection,
    ) -> None:
        super().__init__(cluster, mirror, head, writes, reads)
        self._publisher = Publisher(cluster)
        self._away = 0
        """Groups of appends that are on their way."""
        self._ends = Ends(lambda: self._position)
        self._flying: dict[str, None] = {}
        """Runs of which the servers' answer is awaited."""
        self._recorded_at_us = 0
        self._tasks: asyncio.TaskGroup | None = None
        self._was_lone = self._is_lone_away = False
        """Whether the last append left without others; whether one is on its way that no task waits for."""

    async def _write(self) -> None:
        """Groups overlap: the servers write one while the next is made ready."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for _ in range(GROUPS_MAX):
                tasks.create_task(self._write_groups(), name="log writer")

    async def _write_groups(self) -> None:
        while not (self._closing and not self._gathering and not self._is_lone_away):
            if not self._gathering:
                await self._gathering.wait_for_somebody()
                continue
            group = self._gathering.take(self._share())
            self._was_lone = len(group) == 1
            self._away += 1
            try:
                await self._serve(group)
            finally:
                self._away -= 1
        # Whoever waits for the next caller hears that none will come.
        self._gathering.look_again()

    def _share(self) -> int:
        """How many of the callers leave together: all, or, where they have much, their share of the groups' places."""
        waiting = len(self._gathering)
        if self._gathering.events > SHARED_EVENTS_MIN:
            waiting = -(-waiting // max(1, GROUPS_MAX - self._away))
        return min(waiting, GROUP_REQUESTS_MAX)

    async def _serve(self, group: Sequence[Waiting]) -> None:
        outcomes = await self._commit([request for request, _ in group])
        for (_, done), outcome in zip(group, outcomes, strict=True):
            done(outcome)

    async def _wait_for_room(self) -> None:
        try:
            async with asyncio.timeout(APPEND_SECONDS_MAX):
                await super()._wait_for_room()
        except TimeoutError:
            raise ungranted() from None

    def _accept(self, request: Request, done: Done) -> bool:
        if len(self._gathering) >= QUEUE_REQUESTS_MAX:
            return False
        patient = Patient(done, given_up=self._give_up)
        return self._begin_at_once(request, patient) or super()._accept(request, patient)

    def _give_up(self, patient: Patient) -> None:
        """Who was told that nobody knows is not sent behind his back, if he was not yet."""
        self._gathering.withdraw(patient)

    def _begin_at_once(self, request: Request, done: Done) -> bool:
        """Send what comes alone, as the one before it did: it waits for no task's turn, nor does its answer."""
        if not self._was_lone or self._away or self._gathering or self._failure or self._ends.doubtful([request]):
            return False
        plan = self._plan_known([request], Group(0, 0))[0]
        if plan is None or not self._publisher.publish_at_once(plan, partial(self._end_lone, request, done, plan)):
            return False
        self._flying[plan.stream] = None
        self._away, self._is_lone_away = 1, True
        return True

    def _end_lone(self, request: Request, done: Done, plan: Planned, last: int) -> None:
        self._away, self._is_lone_away = self._away - 1, False
        (grant,) = self._settle([plan], [last])
        try:
            is_stored = grant is not None and grant.rows is not None and self._fill_at_once()
        except LogFailed:
            is_stored = False
        if is_stored and grant is not None and grant.rows is not None:
            done(_appended(grant, grant.rows))
        else:
            # Whatever is not as it mostly is takes its time.
            assert self._tasks is not None  # noqa: S101
            self._tasks.create_task(self._serve_lone(request, done, grant), name="log writer of one")
        # Who came meanwhile, and who closes the log, waits for this.
        self._gathering.look_again()

    async def _serve_lone(self, request: Request, done: Done, grant: Grant | None) -> None:
        if grant is not None:
            with suppress(Exception):  # As below.
                done((await self._answer([grant]))[0])
                return
        await self._serve([(request, done)])

    async def _commit(self, requests: Sequence[Request]) -> Sequence[Appended | RunfoldError]:
        """Plan by what is known, publish; then look again, in the mirror, at whatever was not granted.

        An append whose answer was lost is found in the mirror by its ids, or is published again: only one can count.
        """
        outcomes: dict[int, Appended | RunfoldError] = {}
        began = time.monotonic()
        was_refused, refusals = False, 0
        with suppress(Exception):  # Who looks in the mirror is told what it is.
            was_refused = await self._publish(await self._plan(requests), outcomes)
        while len(outcomes) < len(requests):
            failed: RunfoldError | None = None
            try:
                await self._look_elsewhere(began)
                if was_refused:
                    await asyncio.sleep(SETTLE_SECONDS)
                await self._catch_up()
                plans = await self._plan_in_mirror(requests, outcomes)
                refusals += was_refused
                if refusals > 1:
                    # Refused at the place where the mirror, at the stream's head, has the run's end.
                    plans = dict(zip(plans, await self._publisher.as_left(list(plans.values())), strict=True))
                was_refused = await self._publish(plans, outcomes)
            except LogFailed as error:
                self._failure, failed = error.message, error
            except RunfoldError as error:
                failed = error
            except Exception as error:
                # Nobody else would answer those who wait, nor write for who comes.
                self._failure = f"{type(error).__name__}: {error}"
                failed = LogFailed(self._failure, hint="see `runfold doctor`")
            # A server that is cut from the others may tell where the log ends, and grants nothing.
            if self._failure or time.monotonic() - began > PATIENCE_SECONDS:
                failed = failed or ungranted()
                outcomes.update((n, failed) for n in range(len(requests)) if n not in outcomes)
        return [outcomes[number] for number in range(len(requests))]

    def _has_come(self, rows: Sequence[Row]) -> None:
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
        return {number: plan for number, plan in enumerate(self._plan_known(requests, known)) if plan is not None}

    def _plan_known(self, requests: Sequence[Request], known: Group) -> list[Planned | None]:
        self._recorded_at_us = max(self._recorded_at_us, self._now_us())
        return self._ends.plan(requests, known, self._recorded_at_us)

    async def _plan_in_mirror(
        self, requests: Sequence[Request], outcomes: dict[int, Appended | RunfoldError]
    ) -> dict[int, Planned]:
        """What the mirror lets pass of those without an outcome; what it refuses is final, for it has caught up."""
        numbers = [number for number in range(len(requests)) if number not in outcomes]
        waiting = [requests[number] for number in numbers]
        plans: dict[int, Planned] = {}
        found = await self._thread.do(lambda: self._mirror.plan(waiting))
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
        self._flying.update((plan.stream, None) for plan in plans.values())
        answers: list[int] = []
        try:
            answers = await self._publisher.publish(list(plans.values()))
        finally:
            grants = self._settle(list(plans.values()), answers)
        granted = [(number, grant) for number, grant in zip(plans, grants, strict=True) if grant is not None]
        answered = await self._answer([grant for _, grant in granted])
        outcomes.update((number, appended) for (number, _), appended in zip(granted, answered, strict=True))
        return len(granted) < len(plans)

    def _settle(self, plans: Sequence[Planned], answers: Sequence[int]) -> list[Grant | None]:
        """What the stream has granted of what was on its way; who has no answer was not granted it."""
        answered = dict(zip((plan.stream for plan in plans), answers, strict=False))
        granted = [(plan, last) for plan in plans if (last := answered.get(plan.stream))]
        for plan in plans:
            self._flying.pop(plan.stream, None)
            if not answered.get(plan.stream):
                self._ends.forget(plan.stream)
        for plan, last in granted:
            self._ends.granted(plan, last)
        grants = iter(self._granted.add(granted))
        return [next(grants) if answered.get(plan.stream) else None for plan in plans]

    async def _answer(self, grants: Sequence[Grant]) -> list[Appended]:
        """What was appended, when the mirror has it. Raises Unavailable, LogFailed."""
        own = self._granted.take()
        if own:
            await self._fill(own, ())
        await self._reach(max((grant.last for grant in grants), default=0))
        return [
            _appended(grant, grant.rows) if grant.rows is not None else await self._look_up(grant) for grant in grants
        ]

    async def _look_up(self, grant: Grant) -> Appended:
        """What another process has brought into the mirror."""
        first, last, stream = grant.first, grant.last, grant.plan.stream
        page = await self._read(
            lambda connection: reading.read_page(connection, after=first - 1, stream=stream, upto=last)
        )
        version, events = page.events[-1].version, page.events
        return Appended(first=first, last=last, version=version, duplicate=False, events=events)


def _appended(grant: Grant, rows: Sequence[Row]) -> Appended:
    return Appended(
        first=grant.first,
        last=grant.last,
        version=rows[-1][2],
        duplicate=False,
        events=RecordedRows(rows),
    )
