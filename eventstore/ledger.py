"""Commands in, events out: every wish is decided on the run's current state, and stored once however often it is sent.

Commands of one run wait in one line. Whoever comes first serves all who wait: they are decided in order on the
speculative state and leave as one append. A cancelled leader loses nothing: the next in line looks up what the log
holds before it decides.
"""

import asyncio
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

import msgspec

from eventstore.appending import check_sizes, is_same
from eventstore.contract import APPEND_BYTES_MAX, APPEND_EVENTS_MAX, Appended, EventLog
from eventstore.refusals import Refusals
from eventstore.wishes import Wish, is_same_wish, new_events, own_ids, run_of, unknown_run
from runfold.commands import Command, OpenReported, Queue, StartHere
from runfold.decide import decide
from runfold.envelope import SYSTEM_STREAM, NewEvent, Recorded
from runfold.errors import Conflict, Contended, EventIdConflict, KeyReused, NotFound, Refused, RunfoldError
from runfold.events import decode_stored
from runfold.evolve import evolve
from runfold.state import Run, new_run

RUNS_CACHED_MAX = 1024
CONTENTION_SECONDS = 2.0


class Executed(msgspec.Struct, frozen=True, kw_only=True):
    """The run after the command, the command's events, and whether they had been recorded before."""

    run: Run
    events: tuple[Recorded, ...]
    duplicate: bool


class _Decided(msgspec.Struct, frozen=True):
    """A wish, the state before it, and what it adds; or the error that refuses it."""

    wish: Wish
    before: Run
    after: Run
    events: tuple[NewEvent, ...]
    refused: RunfoldError | None = None


class _Line:
    """The callers who wait for one run, and its fold up to a position."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.lock = asyncio.Lock()
        self.waiting: deque[tuple[Wish, asyncio.Future[Executed | RunfoldError]]] = deque()
        self.run = new_run(run_id)
        self.position = 0

    def forget(self) -> None:
        self.run, self.position = new_run(self.run_id), 0


class Ledger:
    """The one way to write to a run."""

    def __init__(
        self,
        log: EventLog,
        *,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self._log = log
        self._now_us = now_us
        self._new_id = new_id
        self._lines: OrderedDict[str, _Line] = OrderedDict()
        self._refusals = Refusals(log, now_us)

    async def execute(
        self,
        run_id: str,
        command: Command,
        *,
        command_id: str,
        actor: str,
        tenant: str,
        ids: Sequence[str | None] = (),
        ats_us: Sequence[int | None] = (),
    ) -> Executed:
        """Grant the command with events, or answer as the first time. Raises RunfoldError."""
        if run_id == SYSTEM_STREAM:
            raise unknown_run(run_id)
        wish = Wish.of(run_id, command, command_id=command_id, actor=actor, tenant=tenant, ids=ids, ats_us=ats_us)
        line = self._line(run_id)
        answer: asyncio.Future[Executed | RunfoldError] = asyncio.get_running_loop().create_future()
        entry = (wish, answer)
        line.waiting.append(entry)
        try:
            async with line.lock:
                deadline = time.monotonic() + CONTENTION_SECONDS
                while not answer.done():
                    await self._serve(line, deadline)
        finally:
            # A caller that is gone leaves no wish behind for others to carry out.
            if entry in line.waiting:
                line.waiting.remove(entry)
        outcome = answer.result()
        if isinstance(outcome, RunfoldError):
            raise outcome
        return outcome

    async def state(self, run_id: str, *, tenant: str | None = None) -> Run:
        """The run as the log has it now. Raises NotFound when it is unknown or of another tenant."""
        if run_id == SYSTEM_STREAM:
            raise unknown_run(run_id)
        line = self._line(run_id)
        await self._catch_up(line)
        if line.run.version == 0 or (tenant is not None and line.run.tenant != tenant):
            raise unknown_run(run_id)
        return line.run

    def _line(self, run_id: str) -> _Line:
        line = self._lines.get(run_id)
        if line is None:
            line = self._lines[run_id] = _Line(run_id)
        self._lines.move_to_end(run_id)
        if len(self._lines) > RUNS_CACHED_MAX:
            for oldest in list(self._lines.values()):
                if oldest is not line and not oldest.waiting and not oldest.lock.locked():
                    del self._lines[oldest.run_id]
                    break
        return line

    async def _catch_up(self, line: _Line) -> bool:
        """Fold what the log has beyond the line's position; whether there was anything."""
        run, position = line.run, line.position
        async for page in self._log.read(after=position, stream=line.run_id):
            if page.events:
                run = run_of(run, page.events)
                position = page.events[-1].position
        moved = position > line.position
        if moved:
            line.run, line.position = run, position
        return moved

    async def _serve(self, line: _Line, deadline: float) -> None:
        """Answer some of those who wait, in order; returns without an answer where another process was quicker."""
        if line.position == 0:
            await self._catch_up(line)
        base, run, batch = line.position, line.run, list[_Decided]()
        answers = dict[int, asyncio.Future[Executed | RunfoldError]]()
        size, count, seen = 0, 0, set[str]()
        for wish, answer in list(line.waiting):
            if answer.done():
                continue
            # A retry that waits beside its original is looked up when the original is in the log.
            if seen & wish.names:
                break
            seen |= wish.names
            known = await self._known(line, wish)
            if known is not None:
                # What is known may be newer than the state at hand.
                if isinstance(known, Executed) and known.events[-1].position > line.position:
                    await self._catch_up(line)
                    known = msgspec.structs.replace(known, run=line.run)
                    _settle(line, wish, answer, known)
                    break
                _settle(line, wish, answer, known)
                continue
            decided = self._decide(run, wish)
            size += sum(len(event.data) for event in decided.events)
            count += len(decided.events)
            if batch and (count > APPEND_EVENTS_MAX or size > APPEND_BYTES_MAX):
                break
            batch.append(decided)
            answers[id(wish)] = answer
            run = decided.after
        if batch:
            await self._finish(line, base, batch, answers, deadline)

    async def _known(self, line: _Line, wish: Wish) -> Executed | RunfoldError | None:
        """The original answer of a wish that the log knows already."""
        if line.position == 0:
            return None
        try:
            found = await self._log.find(line.run_id, ids=own_ids(wish), commands=[wish.command_id])
        except RunfoldError as error:
            return error
        if not found:
            return None
        if found[0].tenant != wish.tenant:
            return unknown_run(line.run_id)
        commanded = [recorded for recorded in found if recorded.command == wish.command_id]
        if commanded and not is_same_wish(wish, commanded):
            return KeyReused(
                f"that command id was used for something else on run `{line.run_id}`",
                hint="take a new Idempotency-Key for a new wish",
                run_id=line.run_id,
            )
        by_id = {recorded.id: recorded for recorded in found}
        given = own_ids(wish)
        missing = [name for name in given if name not in by_id]
        if len(missing) == len(given) and given and not commanded:
            return None
        if missing:
            return _changed(line.run_id, missing[0], "is new, though others sent with it are known")
        for event in new_events(wish, wish.observed, now_us=0):
            recorded = by_id.get(event.id)
            if event.id in given and recorded is not None and not is_same(recorded, event):
                return _changed(line.run_id, event.id, "is known with other content")
        positions = [by_id[name].position for name in given]
        if positions != sorted(positions):
            return _changed(line.run_id, given[0], "is known in another order")
        return Executed(run=line.run, events=found, duplicate=True)

    def _decide(self, run: Run, wish: Wish) -> _Decided:
        now_us = self._now_us()
        try:
            if run.version and run.tenant != wish.tenant:
                raise unknown_run(wish.run_id)
            if run.version == 0:
                if not isinstance(wish.command, Queue | StartHere | OpenReported):
                    raise unknown_run(wish.run_id)
                run = new_run(wish.run_id, wish.tenant)
            events = new_events(wish, decide(run, wish.command, now_us), now_us=now_us)
            check_sizes(wish.run_id, [len(event.data) for event in events])
        except RunfoldError as error:
            return _Decided(wish, run, run, (), error)
        after = run
        for event in events:
            after = evolve(after, decode_stored(event.type, event.data), at_us=event.at_us)
        return _Decided(wish, run, after, events)

    async def _finish(
        self,
        line: _Line,
        base: int,
        batch: Sequence[_Decided],
        answers: dict[int, asyncio.Future[Executed | RunfoldError]],
        deadline: float,
    ) -> None:
        """Store what was decided, then answer; refusals too are answered only from a state the log confirms."""
        events = [event for decided in batch for event in decided.events]
        appended: Appended | None = None
        try:
            if events:
                appended = await self._log.append(line.run_id, events, expected=base)
            elif await self._catch_up(line):
                return
        except (Conflict, EventIdConflict) as error:
            line.forget()
            await self._catch_up(line)
            if isinstance(error, EventIdConflict) and len(batch) == 1:
                _settle(line, batch[0].wish, answers[id(batch[0].wish)], error)
            elif time.monotonic() > deadline:
                busy = f"other processes keep writing to run `{line.run_id}`"
                for decided in batch:
                    _settle(line, decided.wish, answers[id(decided.wish)], Contended(busy, hint="try again"))
            return
        except RunfoldError as error:
            for decided in batch:
                copy = type(error)(error.message, hint=error.hint, run_id=error.run_id)
                _settle(line, decided.wish, answers[id(decided.wish)], copy)
            return
        if appended is not None and appended.duplicate:
            # Another process stored the same: the state at hand is not after it.
            line.forget()
            await self._catch_up(line)
        elif appended is not None:
            line.run, line.position = batch[-1].after, appended.last
        stored = deque(appended.events if appended is not None else ())
        duplicate = appended is not None and appended.duplicate
        for decided in batch:
            mine = tuple(stored.popleft() for _ in decided.events)
            answer = answers[id(decided.wish)]
            after = line.run if duplicate else decided.after
            granted = Executed(run=after, events=mine, duplicate=duplicate)
            _settle(line, decided.wish, answer, decided.refused or granted)
        for decided in batch:
            if isinstance(decided.refused, Refused) and decided.refused.recorded and decided.before.version:
                await self._refusals.record(line.run, line.position, decided.wish, decided.refused)


def _settle(
    line: _Line, wish: Wish, answer: asyncio.Future[Executed | RunfoldError], outcome: Executed | RunfoldError
) -> None:
    if isinstance(outcome, NotFound):
        outcome = unknown_run(wish.run_id)
    if (wish, answer) in line.waiting:
        line.waiting.remove((wish, answer))
    if not answer.done():
        answer.set_result(outcome)


def _changed(run_id: str, identity: str, how: str) -> EventIdConflict:
    return EventIdConflict(
        f"event `{identity}` of run `{run_id}` {how}",
        hint="send the same events again as they were, or give new events new ids",
        run_id=run_id,
    )
