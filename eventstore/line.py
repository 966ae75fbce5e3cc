"""The callers who wait for one run in this process, in order, and the run's fold as far as this process has read it."""

import asyncio
from collections.abc import Sequence

from eventstore.contract import APPEND_EVENTS_MAX, Appended, EventLog
from eventstore.wishes import Executed, Wish, own_ids
from runfold.causation import NOTHING, Causes, remember
from runfold.envelope import NewEvent, Recorded
from runfold.errors import InvalidEvent, RunfoldError
from runfold.events import REWRITES
from runfold.evolve import CHANGING_NOTHING, evolve_decoded
from runfold.state import Run, new_run


class Caller:
    """One caller of the ledger, from his call to his answer."""

    __slots__ = ("called", "conflicts", "contended_since", "is_looked_up", "is_unsure", "outcome", "wish")

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.outcome: Executed | RunfoldError | None = None
        self.is_unsure = not wish.is_new
        """Whether the log may know the wish already: then it is looked up before it is decided."""
        self.is_looked_up = False
        self.contended_since: float | None = None
        self.conflicts = 0
        self.called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Is done when there is an outcome, or he is called to lead."""

    @property
    def is_gone(self) -> bool:
        return self.called.cancelled()

    def settle(self, outcome: Executed | RunfoldError) -> None:
        self.outcome = outcome
        self.call()

    def call(self) -> None:
        if not self.called.done():
            self.called.set_result(None)


class _Flight:
    """An append on its way, which lands whether or not somebody still waits; one at a time does."""

    def __init__(self) -> None:
        self.outcome: Appended | RunfoldError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def land(self, outcome: Appended | RunfoldError) -> None:
        self.outcome = outcome
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> Appended | RunfoldError:
        while self.outcome is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self.outcome


class Line:
    """One run's callers: all who wait are served together, or by one of them where that takes more than deciding."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.run: Run = new_run(run_id)
        self.causes: Causes = NOTHING
        self.position = 0
        """Of the last event in `run`; 0 also where nothing was read yet."""
        self.one_by_one = 0
        """How many callers are next served alone, because together they could not be."""
        self.leader: Caller | None = None
        self.is_due = False
        """Whether its callers are served in a moment."""
        self.is_away = False
        """Whether an append is on its way that answers its callers itself."""
        self.is_behind = False
        """Whether the log is known to have more of the run."""
        self._waiting: dict[Caller, None] = {}
        self._flight: _Flight | None = None

    @property
    def is_idle(self) -> bool:
        is_still = self._flight is None or self._flight.outcome is not None
        return is_still and not self._waiting and not (self.is_due or self.is_away or self.leader)

    @property
    def is_free(self) -> bool:
        """Whether somebody waits, and nobody sees to it."""
        return bool(self._waiting) and not (self.is_due or self.is_away or self.leader)

    @property
    def is_ready(self) -> bool:
        """Whether whoever comes next can be decided upon what is known here."""
        if not self.position or self.is_behind or self.one_by_one or self._flight is not None:
            return False
        return not next(iter(self._waiting)).is_unsure

    def enter(self, caller: Caller) -> None:
        self._waiting[caller] = None

    def appoint(self) -> None:
        """Call the first who is still there to lead: to serve all, until he has his own answer."""
        self.leader = next((caller for caller in self._waiting if not caller.is_gone), None)
        if self.leader is not None:
            self.leader.call()

    def leave(self, caller: Caller) -> None:
        """A caller that is gone leaves no wish behind for others to carry out."""
        self._waiting.pop(caller, None)
        if self.leader is caller:
            self.leader = None

    def settle(self, caller: Caller, outcome: Executed | RunfoldError) -> None:
        self._waiting.pop(caller, None)
        caller.settle(outcome)

    def next_callers(self) -> list[Caller]:
        """Those to serve together; a retry that waits beside its original is served when that is in the log."""
        waiting = [caller for caller in self._waiting if not caller.is_gone]
        callers: list[Caller] = []
        names: set[str] = set()
        ids = 0
        for caller in waiting:
            caller.is_looked_up = False
            if len(waiting) > 1:
                ids += len(own_ids(caller.wish))
                is_full = ids > APPEND_EVENTS_MAX or len(callers) == APPEND_EVENTS_MAX or self.one_by_one
                if callers and (is_full or names & caller.wish.names):
                    break
                names |= caller.wish.names
            callers.append(caller)
        self.one_by_one = max(0, self.one_by_one - 1)
        return callers

    async def append(self, log: EventLog, events: Sequence[NewEvent], *, expected: int) -> Appended | RunfoldError:
        """Append for the callers; goes on when the leader is cancelled, and the next leader waits for it."""
        flight = _Flight()
        try:
            await log.submit(self.run_id, events, expected=expected, done=flight.land)
        except RunfoldError as error:
            return error
        self._flight = flight
        outcome = await flight.wait()
        self._flight = None
        return outcome

    @property
    def is_flying(self) -> bool:
        return self._flight is not None

    async def land(self) -> None:
        """Wait for what a leader that is gone had sent; whose events it was is then looked up."""
        if self._flight is None:
            return
        await self._flight.wait()
        self._flight = None
        for caller in self._waiting:
            caller.is_unsure = True
        self.is_behind = True

    async def catch_up(self, log: EventLog) -> None:
        """Fold what the log has beyond the line's position, and nothing before."""
        self.is_behind = False
        run, causes, position = self.run, self.causes, self.position
        while True:
            is_rewritten = False
            async for page in log.read(after=position, stream=self.run_id):
                if page.events:
                    # What was folded before may be what the redaction has taken away.
                    is_rewritten = is_rewritten or any(event.type in REWRITES for event in page.events)
                    run, causes = _fold(run, causes, page.events)
                    position = page.events[-1].position
            if not (is_rewritten and self.position):
                break
            self.position = 0
            run, causes, position = new_run(self.run_id), NOTHING, 0
        # Whoever asks for the state reads beside the leader, and may have come further meanwhile.
        if position > self.position:
            self.run, self.causes, self.position = run, causes, position


def _fold(run: Run, causes: Causes, recordeds: Sequence[Recorded]) -> tuple[Run, Causes]:
    """The run after more of its events, and what later ones may answer; its first event says whose it is."""
    for recorded in recordeds:
        event = None
        if recorded.type not in CHANGING_NOTHING:
            try:
                event = recorded.event()
            except InvalidEvent:
                event = None
        run = evolve_decoded(run, recorded, event)
        causes = remember(causes, event, recorded.id)
    return run, causes
