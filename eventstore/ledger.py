"""Commands in, events out: every wish is decided on the run's current state, and stored once however often it is sent.

Callers of one run wait in one line. Whoever comes first serves all who wait: what may be a retry is looked up, the
others are decided in order on the speculative state, and leave as one append. What the log does not take from all
together is looked up again, and then tried one by one, so that each is answered for what he himself sent.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from eventstore.contract import APPEND_BYTES_MAX, APPEND_EVENTS_MAX, EVENT_BYTES_MAX, Appended, EventLog
from eventstore.line import Caller, Line
from eventstore.objects.overflow import overflow
from eventstore.ordered_ids import ordered_id
from eventstore.preparing import check_sizes
from eventstore.recalling import recall
from eventstore.refusals import Refusals
from eventstore.state_file import TOLD_TYPES, kept_going, mend_states
from eventstore.telling import Tell, tell_at_once
from eventstore.wishes import Executed as Executed
from eventstore.wishes import Wish, new_events, own_ids, unknown_run, with_causes
from runfold.causation import Causes
from runfold.commands import Command, OpenReported, Queue, StartHere
from runfold.decide import decide
from runfold.envelope import SYSTEM_STREAM, NewEvent
from runfold.errors import Conflict, Contended, LogFailed, NotFound, Refused, RunfoldError, Unavailable
from runfold.events import decode_stored
from runfold.evolve import advance_all
from runfold.redact import Redactor
from runfold.state import Run, new_run

RUNS_CACHED_MAX = 1024
CONTENTION_SECONDS = 2.0


class _Decided(msgspec.Struct, frozen=True):
    """A caller's wish, the state before it, and what it adds; or the error that refuses it."""

    caller: Caller
    before: Run
    after: Run
    causes: Causes
    events: Sequence[NewEvent]
    size_bytes: int = 0
    refused: RunfoldError | None = None


class Ledger:
    """The one way to write to a run."""

    def __init__(
        self,
        log: EventLog,
        *,
        data: Path | None = None,
        secrets: Iterable[str] = (),
        tell: Tell | None = None,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`data`: the folder whose blobs take texts too long for an event; `secrets`: values that are never stored.

        `tell` has the state files written; where none is given, who appends waits for the file.
        """
        self._log = log
        self._data = data
        self._told = tell
        self._redactor = Redactor(secrets)
        self._now_us = now_us
        self._monotonic = monotonic
        self._lines: OrderedDict[str, Line] = OrderedDict()
        self._refusals = Refusals(log, now_us)
        self._is_mended = data is None

    async def execute(
        self,
        run_id: str,
        command: Command,
        *,
        command_id: str | None = None,
        actor: str,
        tenant: str,
        ids: Sequence[str | None] = (),
        ats_us: Sequence[int | None] = (),
        at_us: int | None = None,
        cause: str | None = None,
    ) -> Executed:
        """Grant the command with events, or answer as the first time. Raises RunfoldError.

        A caller who may send it again gives the command id, or an id for each event; one who does neither is
        spared the lookup.
        `at_us` is when it happened, where that is not now: a run that is imported is over. `cause` is the event that
        the command answers, where the run's own state cannot tell.
        """
        if run_id == SYSTEM_STREAM:
            raise unknown_run(run_id)
        if not self._is_mended:
            await self._mend()
        wish = Wish.of(
            run_id,
            command,
            command_id=ordered_id() if command_id is None else command_id,
            is_new=command_id is None,
            actor=actor,
            tenant=tenant,
            ids=ids,
            ats_us=ats_us,
            at_us=at_us,
            cause=cause,
        )
        caller, line = Caller(wish), self._line(run_id)
        line.enter(caller)
        try:
            if not caller.leads:
                await caller.wait_for_outcome_or_lead()
            while caller.outcome is None:
                # Whoever is ready to call now joins this append and need not wait for the next.
                await asyncio.sleep(0)
                await self._serve(line)
        finally:
            line.leave(caller)
            self._forget_unknown(line)
        if isinstance(caller.outcome, RunfoldError):
            raise caller.outcome
        return caller.outcome

    async def state(self, run_id: str, *, tenant: str | None = None) -> Run:
        """The run as the log has it now. Raises NotFound when it is unknown or of another tenant."""
        if run_id == SYSTEM_STREAM:
            raise unknown_run(run_id)
        line = self._line(run_id)
        try:
            await line.catch_up(self._log)
        finally:
            self._forget_unknown(line)
        if line.run.version == 0 or (tenant is not None and line.run.tenant != tenant):
            raise unknown_run(run_id)
        return line.run

    def holds(self, run_id: str) -> bool:
        """Whether the run's state is known here, but for what was appended since."""
        line = self._lines.get(run_id)
        return line is not None and line.position > 0

    def _line(self, run_id: str) -> Line:
        line = self._lines.get(run_id)
        if line is None:
            line = self._lines[run_id] = Line(run_id)
        self._lines.move_to_end(run_id)
        if len(self._lines) > RUNS_CACHED_MAX:
            oldest = next((name for name, other in self._lines.items() if other is not line and other.is_idle), None)
            if oldest is not None:
                del self._lines[oldest]
        return line

    def _forget_unknown(self, line: Line) -> None:
        # Who asks for runs that do not exist must not push those out that do.
        if line.position == 0 and line.is_idle and self._lines.get(line.run_id) is line:
            del self._lines[line.run_id]

    async def _serve(self, line: Line) -> None:
        """Answer some of those who wait; returns without an answer where they have to be decided again."""
        if line.is_flying:
            await line.land(self._log)
        callers = line.next_callers()
        # A run that is about to be opened is most likely new: then there is nothing to read.
        if line.position == 0 and not isinstance(callers[0].wish.command, Queue | StartHere | OpenReported):
            await line.catch_up(self._log)
        unsure = [caller for caller in callers if caller.is_unsure]
        if line.position and unsure:
            await self._recall(line, unsure)
        base = line.position
        batch = await self._decide_in_order(line, [caller for caller in callers if caller.outcome is None])
        if batch:
            await self._store(line, base, batch)

    async def _recall(self, line: Line, callers: Sequence[Caller]) -> None:
        """Answer those whose wish the log knows already."""
        try:
            recalled = await recall(self._log, line.run_id, [caller.wish for caller in callers])
        except RunfoldError as error:
            for caller in callers:
                _settle(line, caller, _copy(error))
            return
        newest = max((known[-1].position for known in recalled if isinstance(known, tuple)), default=0)
        if newest > line.position:
            await line.catch_up(self._log)
        for caller, known in zip(callers, recalled, strict=True):
            caller.is_looked_up = True
            if isinstance(known, tuple):
                _settle(line, caller, Executed(run=line.run, events=known, duplicate=True))
            elif known is not None:
                _settle(line, caller, known)

    async def _decide_in_order(self, line: Line, callers: Sequence[Caller]) -> list[_Decided]:
        """What the callers' wishes become, each after the one before, as far as one append takes it."""
        batch: list[_Decided] = []
        run, causes, is_new, size, count = line.run, line.causes, line.position == 0, 0, 0
        for index, caller in enumerate(callers):
            decided = await self._decide(run, causes, caller)
            if not decided.events and not is_new and not caller.is_looked_up and own_ids(caller.wish):
                # Refused now, it may still have been granted before: the answer is then the first one.
                for doubtful in callers[index:]:
                    doubtful.is_unsure = doubtful.is_unsure or bool(own_ids(doubtful.wish))
                break
            size += decided.size_bytes
            count += len(decided.events)
            if batch and (count > APPEND_EVENTS_MAX or size > APPEND_BYTES_MAX):
                break
            batch.append(decided)
            run, causes = decided.after, decided.causes
        return batch

    async def _decide(self, run: Run, causes: Causes, caller: Caller) -> _Decided:
        now_us, wish = self._now_us(), caller.wish
        try:
            if run.version and run.tenant != wish.tenant:
                raise unknown_run(wish.run_id)
            if run.version == 0:
                if not isinstance(wish.command, Queue | StartHere | OpenReported):
                    raise unknown_run(wish.run_id)
                run = new_run(wish.run_id, wish.tenant)
            decided = decide(run, wish.command, now_us)
            news = new_events(wish, decided, now_us=now_us, redact=self._redactor.all_data)
            sizes = [len(new.data) for new in news]
            if sizes and max(sizes) > EVENT_BYTES_MAX:
                news = await self._without_long_texts(news)
                sizes = [len(new.data) for new in news]
            check_sizes(wish.run_id, sizes)
            events = [decode_stored(new.type, new.data) for new in news]
            made, after_causes = with_causes(wish, news, events, causes)
            after = advance_all(run, events, [new.at_us for new in news]) if news else run
        except RunfoldError as error:
            return _Decided(caller, run, run, causes, (), 0, error)
        return _Decided(caller, run, after, after_causes, made, sum(sizes))

    async def _without_long_texts(self, events: Sequence[NewEvent]) -> list[NewEvent]:
        """The events with what is too long for them in blobs; `sent` stays what the caller sent."""
        result: list[NewEvent] = []
        for event in events:
            content = event.data
            if len(content) > EVENT_BYTES_MAX and self._data is not None:
                content = await asyncio.to_thread(overflow, self._data, event.type, content)
            result.append(event if content is event.data else msgspec.structs.replace(event, data=content))
        return result

    async def _store(self, line: Line, base: int, batch: Sequence[_Decided]) -> None:
        """Store what was decided, then answer; refusals too are answered only from a state the log confirms."""
        events = batch[0].events if len(batch) == 1 else [event for decided in batch for event in decided.events]
        if not events:
            await line.catch_up(self._log)
            if line.position == base:
                await self._answer(line, batch, None)
            return
        outcome = await line.append(self._log, events, expected=base)
        callers = [decided.caller for decided in batch]
        match outcome:
            case Appended(duplicate=False):
                line.run, line.causes, line.position = batch[-1].after, batch[-1].causes, outcome.last
                await self._answer(line, batch, outcome)
            case Conflict():
                await line.catch_up(self._log)
                self._contend(line, callers)
            case Unavailable() | LogFailed():
                for caller in callers:
                    _settle(line, caller, _copy(outcome))
            case _:
                await line.catch_up(self._log)
                self._part(line, callers, outcome)

    def _contend(self, line: Line, callers: Sequence[Caller]) -> None:
        """Another process was quicker: all are decided again, but not for ever."""
        now = self._monotonic()
        for caller in callers:
            caller.is_unsure = True
            if caller.contended_since is None:
                caller.contended_since = now
            elif now - caller.contended_since >= CONTENTION_SECONDS:
                busy = f"other processes keep writing to run `{line.run_id}`"
                _settle(line, caller, Contended(busy, hint="try again", run_id=line.run_id))

    def _part(self, line: Line, callers: Sequence[Caller], outcome: Appended | RunfoldError) -> None:
        """The log knows some of it, or refuses it: find out whose it is, by lookup, then one by one."""
        if not all(caller.is_looked_up for caller in callers):
            for caller in callers:
                caller.is_unsure = True
        elif len(callers) > 1:
            line.one_by_one = len(callers)
        elif isinstance(outcome, RunfoldError):
            _settle(line, callers[0], outcome)
        else:
            _settle(line, callers[0], Executed(run=line.run, events=outcome.events, duplicate=True))

    async def _answer(self, line: Line, batch: Sequence[_Decided], appended: Appended | None) -> None:
        start = 0
        for decided in batch:
            end = start + len(decided.events)
            mine = () if appended is None else appended.events if len(batch) == 1 else appended.events[start:end]
            start = end
            granted = Executed(run=decided.after, events=mine, duplicate=False)
            _settle(line, decided.caller, decided.refused or granted)
        if appended is not None and self._data is not None:
            await self._tell(self._data, batch, appended)
        for decided in batch:
            if isinstance(decided.refused, Refused) and decided.refused.recorded and decided.before.version:
                await self._refusals.record(line.run, line.position, decided.caller.wish, decided.refused)

    async def _mend(self) -> None:
        """Before the first command: what a killed process left behind the log."""
        if self._is_mended or self._data is None:
            return
        self._is_mended = True
        with kept_going():
            await asyncio.to_thread(mend_states, self._data)

    async def _tell(self, data: Path, batch: Sequence[_Decided], appended: Appended) -> None:
        if not TOLD_TYPES.isdisjoint([event.type for decided in batch for event in decided.events]):
            moved = batch[0].before, appended.events
            await (self._told(moved) if self._told is not None else tell_at_once(data, moved))


def _settle(line: Line, caller: Caller, outcome: Executed | RunfoldError) -> None:
    # A run of another tenant is answered word for word like one that is not there.
    line.settle(caller, unknown_run(line.run_id) if isinstance(outcome, NotFound) else outcome)


def _copy(error: RunfoldError) -> RunfoldError:
    """One error a caller: a raised exception grows a traceback of its own."""
    return type(error)(error.message, hint=error.hint, run_id=error.run_id)
