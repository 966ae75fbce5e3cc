"""Commands in, events out: every wish is decided on the run's current state, and stored once however often it is sent.

Callers of one run wait in one line. All of them who are ready in one turn of the loop are decided in order on the
speculative state, leave as one append, and are answered when it is stored. Where that takes more than deciding, because
something is to be read, looked up or written beside, one of them leads: he serves all who wait until he has his answer.
What the log does not take from all together is looked up again, and then tried one by one, so that each is answered for
what he himself sent.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from eventstore.contract import Appended, EventLog
from eventstore.deciding import OPENING, Apart, Decided, TextsTooLong, decide_in_order
from eventstore.line import Caller, Line
from eventstore.objects.overflow import overflow
from eventstore.recalling import recall
from eventstore.refusals import Refusals
from eventstore.state_file import TOLD_TYPES, kept_going, mend_some
from eventstore.telling import Tell, tell_at_once
from eventstore.wishes import Executed as Executed
from eventstore.wishes import Wish, as_told, unknown_run
from runfold.commands import Command
from runfold.envelope import SYSTEM_STREAM, NewEvent
from runfold.errors import Conflict, Contended, LogFailed, NotFound, Refused, RunfoldError, Trimmed, Unavailable
from runfold.ordered_ids import ordered_id
from runfold.redact import Redactor
from runfold.state import Run

RUNS_CACHED_MAX = 1024
CONTENTION_SECONDS = 2.0
CONFLICTS_MIN = 5  # A machine that stood still for those seconds has been overtaken by nobody.


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

        `tell` has the state files written, by somebody who also sees to what others left; where none is given, who
        appends waits for the file.
        """
        self._log = log
        self._data = data
        self._told = tell
        self._redactor = Redactor(secrets)
        self._now_us = now_us
        self._monotonic = monotonic
        self._lines: OrderedDict[str, Line] = OrderedDict()
        self._refusals = Refusals(log, now_us)
        self._is_mended = data is None or tell is not None
        self._due: list[Line] = []

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
        self._see_to(line)
        try:
            await caller.called
            while caller.outcome is None:
                # Whoever is ready to call now joins this append and need not wait for the next.
                await asyncio.sleep(0)
                await self._serve(line)
            if isinstance(caller.outcome, RunfoldError):
                raise caller.outcome
        except Trimmed as error:
            raise as_told(error, run_id, tenant) from None
        finally:
            self._leave(line, caller)
        return caller.outcome

    async def state(self, run_id: str, *, tenant: str | None = None) -> Run:
        """The run as the log has it now. Raises NotFound when it is unknown or of another tenant, Trimmed."""
        if run_id == SYSTEM_STREAM:
            raise unknown_run(run_id)
        line = self._line(run_id)
        try:
            await line.catch_up(self._log)
        except Trimmed as error:
            raise as_told(error, run_id, tenant) from None
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

    def _leave(self, line: Line, caller: Caller) -> None:
        # Who was answered by others has left already.
        if caller.outcome is None or line.leader is caller:
            line.leave(caller)
            self._see_to(line)
            self._forget_unknown(line)

    def _forget_unknown(self, line: Line) -> None:
        # Who asks for runs that do not exist must not push those out that do.
        if line.position == 0 and line.is_idle and self._lines.get(line.run_id) is line:
            del self._lines[line.run_id]

    def _see_to(self, line: Line) -> None:
        """Have whoever waits in the line served, with all who come until then."""
        if not line.is_free:
            return
        if not line.is_ready:
            line.appoint()
            return
        line.is_due = True
        if not self._due:
            asyncio.get_running_loop().call_soon(self._serve_due)
        self._due.append(line)

    def _serve_due(self) -> None:
        due, self._due = self._due, []
        for line in due:
            line.is_due = False
            if not line.is_free:
                continue
            try:
                is_served = self._serve_at_once(line)
            except Exception:
                # Whoever leads meets it again, and hears of it.
                is_served = False
            if not is_served:
                line.appoint()

    def _serve_at_once(self, line: Line) -> bool:
        """Send off what the callers' wishes become; False where it takes more than that to answer one of them."""
        if not line.is_ready:
            return False
        callers = line.next_callers()
        for caller in callers:
            if caller.is_unsure:
                return False
        apart: Apart | None = None if self._data is None else {}
        batch = decide_in_order(line, callers, now_us=self._now_us(), redact=self._redactor.all_data, apart=apart)
        for decided in batch:
            if decided.refused is not None:
                return False
        events = _events_of(batch)
        if not events or self._is_told(events):
            return False
        done = partial(self._land, line, batch)
        line.is_away = self._log.offer(line.run_id, events, expected=line.position, done=done)
        return line.is_away

    def _land(self, line: Line, batch: Sequence[Decided], outcome: Appended | RunfoldError) -> None:
        """Answer those whose events were stored; whoever cannot be answered by that is seen to again."""
        line.is_away = False
        match outcome:
            case Appended(duplicate=False):
                self._answer(line, batch, outcome)
            case Conflict():
                line.is_behind = True
                self._contend(line, [decided.caller for decided in batch])
            case Unavailable() | LogFailed():
                for decided in batch:
                    _settle(line, decided.caller, _copy(outcome))
            case _:
                line.is_behind = True
                for decided in batch:
                    decided.caller.is_unsure = True
        self._see_to(line)

    async def _serve(self, line: Line) -> None:
        """Answer some of those who wait; returns without an answer where they have to be decided again."""
        if line.is_flying:
            await line.land()
        callers = line.next_callers()
        # A run that is about to be opened is most likely new: then there is nothing to read.
        if line.is_behind or (line.position == 0 and not isinstance(callers[0].wish.command, OPENING)):
            await line.catch_up(self._log)
        unsure = [caller for caller in callers if caller.is_unsure]
        if line.position and unsure:
            await self._recall(line, unsure)
        batch = await self._decide(line, [caller for caller in callers if caller.outcome is None])
        if batch:
            await self._store(line, batch)

    async def _decide(self, line: Line, callers: Sequence[Caller]) -> list[Decided]:
        """What the callers' wishes become, once the texts that are too long for their events are stored apart."""
        decide = partial(decide_in_order, line, callers, now_us=self._now_us(), redact=self._redactor.all_data)
        if self._data is None:
            return decide(apart=None)
        apart: Apart = {}
        while True:
            try:
                return decide(apart=apart)
            except TextsTooLong as found:
                for event in found.events:
                    try:
                        apart[event.data] = await asyncio.to_thread(overflow, self._data, event.type, event.data)
                    except RunfoldError as error:
                        apart[event.data] = error

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

    async def _store(self, line: Line, batch: Sequence[Decided]) -> None:
        """Store what was decided, then answer; refusals too are answered only from a state the log confirms."""
        base, events = line.position, _events_of(batch)
        if not events:
            await line.catch_up(self._log)
            if line.position == base:
                self._answer(line, batch, None)
                await self._note_refusals(line, batch)
            return
        outcome = await line.append(self._log, events, expected=base)
        callers = [decided.caller for decided in batch]
        match outcome:
            case Appended(duplicate=False):
                self._answer(line, batch, outcome)
                if self._is_told(events):
                    await self._tell(batch[0].before, outcome)
                await self._note_refusals(line, batch)
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
            caller.conflicts += 1
            if caller.contended_since is None:
                caller.contended_since = now
            elif now - caller.contended_since >= CONTENTION_SECONDS and caller.conflicts >= CONFLICTS_MIN:
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

    def _answer(self, line: Line, batch: Sequence[Decided], appended: Appended | None) -> None:
        if appended is not None:
            line.run, line.causes, line.position = batch[-1].after, batch[-1].causes, appended.last
        start = 0
        for decided in batch:
            end = start + len(decided.events)
            mine = () if appended is None else appended.events if len(batch) == 1 else appended.events[start:end]
            start = end
            granted = Executed(run=decided.after, events=mine, duplicate=False)
            _settle(line, decided.caller, decided.refused or granted)

    async def _note_refusals(self, line: Line, batch: Sequence[Decided]) -> None:
        for decided in batch:
            if isinstance(decided.refused, Refused) and decided.refused.recorded and decided.before.version:
                await self._refusals.record(line.run, line.position, decided.caller.wish, decided.refused)

    async def _mend(self) -> None:
        """Before the first command: what a killed process left behind the log."""
        if self._is_mended or self._data is None:
            return
        self._is_mended = True
        with kept_going():
            await asyncio.to_thread(mend_some, self._data)

    def _is_told(self, events: Sequence[NewEvent]) -> bool:
        """Whether the run's state file has to say something of it."""
        return self._data is not None and not TOLD_TYPES.isdisjoint([event.type for event in events])

    async def _tell(self, before: Run, appended: Appended) -> None:
        moved = before, appended.events
        if self._told is not None:
            await self._told(moved)
        elif self._data is not None:
            await tell_at_once(self._data, moved)


def _events_of(batch: Sequence[Decided]) -> Sequence[NewEvent]:
    return batch[0].events if len(batch) == 1 else [event for decided in batch for event in decided.events]


def _settle(line: Line, caller: Caller, outcome: Executed | RunfoldError) -> None:
    # A run of another tenant is answered word for word like one that is not there.
    line.settle(caller, unknown_run(line.run_id) if isinstance(outcome, NotFound) else outcome)


def _copy(error: RunfoldError) -> RunfoldError:
    """One error a caller: a raised exception grows a traceback of its own."""
    return type(error)(error.message, hint=error.hint, run_id=error.run_id)
