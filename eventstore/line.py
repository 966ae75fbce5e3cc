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

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.outcome: Executed | RunfoldError | None = None
        self.leads = False
        self.is_unsure = not wish.is_new
        """Whether the log may know the wish already: then it is looked up before it is decided."""
        self.is_looked_up = False
        self.contended_since: float | None = None
        self._woken: asyncio.Future[None] | None = None

    async def wait_for_outcome_or_lead(self) -> None:
        if not self.leads and self.outcome is None:
            self._woken = asyncio.get_running_loop().create_future()
            await self._woken

    @property
    def is_gone(self) -> bool:
        return self._woken is not None and self._woken.cancelled()

    def lead(self) -> None:
        self.leads = True
        self._wake()

    def settle(self, outcome: Executed | RunfoldError) -> None:
        self.outcome = outcome
        self._wake()

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)


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
    """One run's callers: the first leads, and serves those behind him until he has his own answer."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.run: Run = new_run(run_id)
        self.causes: Causes = NOTHING
        self.position = 0
        """Of the last event in `run`; 0 also where nothing was read yet."""
        self.one_by_one = 0
        """How many callers are next served alone, because together they could not be."""
        self._waiting: dict[Caller, None] = {}
        self._is_led = False
        self._flight: _Flight | None = None

    @property
    def is_idle(self) -> bool:
        return not self._waiting and not self._is_led and (self._flight is None or self._flight.outcome is not None)

    def enter(self, caller: Caller) -> None:
        self._waiting[caller] = None
        if not self._is_led:
            self._is_led = True
            caller.lead()

    def leave(self, caller: Caller) -> None:
        """A caller that is gone leaves no wish behind for others to carry out; a leader hands on."""
        self._waiting.pop(caller, None)
        if not caller.leads:
            return
        for following in self._waiting:
            if following.outcome is None and not following.is_gone:
                following.lead()
                return
        self._is_led = False

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

    async def land(self, log: EventLog) -> None:
        """Wait for what a leader that is gone had sent; whose events it was is then looked up."""
        if self._flight is None:
            return
        await self._flight.wait()
        self._flight = None
        for caller in self._waiting:
            caller.is_unsure = True
        await self.catch_up(log)

    async def catch_up(self, log: EventLog) -> None:
        """Fold what the log has beyond the line's position, and nothing before."""
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
