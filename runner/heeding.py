"""What others ask of a run that is driven here, and what the time asks: heard while its turn runs, and acted on.

Every wish is an event on the run's own stream: there is no second channel, and what was asked for first happens.
"""

import asyncio
import contextlib
import time
from pathlib import Path

import msgspec

from eventstore.contract import EventLog
from eventstore.failpoints import reach
from eventstore.ledger import Executed, Ledger
from eventstore.objects.shared_outputs import share_ended
from projections.spending import Left, no_budgets
from runfold.commands import (
    CheckLimits,
    Command,
    EndTurn,
    Paused,
)
from runfold.decide import decide
from runfold.errors import Refused, Unavailable
from runfold.events import (
    Event,
    LimitExceeded,
    PauseRequested,
    Unknown,
)
from runfold.ordered_ids import ordered_id
from runner.asking import Asking
from runner.claims import Claims
from runner.hearing import pages_of
from runner.launch import Launch
from runner.turns.turn import Turn

PAUSE_DEADLINE_SECONDS = 600.0  # A turn that ends later than this is stopped where it is.
TICK_SECONDS = 0.5  # What breaks a limit while nothing is reported stops the run within a second.
UNAVAILABLE_TRIES = 10
_HEEDED = frozenset(
    {"cancel_requested", "limit_exceeded", "pause_requested", "run_resumed", "claim_lost"}
    | {"run_failed", "run_cancelled", "run_completed", "run_stopped"}
)


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """What a driver is given: the run and its claim, the log that it writes to, and how it is to be driven.

    `waits`: stay with a paused run, and claim it again when it goes on; `asking` is whom it may ask meanwhile.
    `resumes`: a turn was cut short, so the next one goes on with the agent's own session where there is one.
    `left` tells what the run may still draw on of what it shares with others.
    `is_stirred`: whoever gives it reads the log for all of its drivers, and calls `stir` when the run has moved.
    """

    ledger: Ledger
    log: EventLog
    claims: Claims
    launch: Launch
    data: Path
    run_id: str
    tenant: str
    claim: int
    waits: bool = False
    asking: Asking | None = None
    resumes: bool = False
    left: Left = no_budgets
    is_stirred: bool = False


class Heeding:
    """`interrupt` and `hand_over` may be called at any time from the event loop."""

    def __init__(self, charge: Charge) -> None:
        self._ledger, self._log, self._claims = charge.ledger, charge.log, charge.claims
        self._launch, self._data, self._left = charge.launch, charge.data, charge.left
        self.run_id, self._tenant, self._claim = charge.run_id, charge.tenant, charge.claim
        self._turn: Turn | None = None
        self._limit: LimitExceeded | None = None
        self._is_fenced = False
        self._is_handed_over = False
        self._is_cancelled = False
        self._pause_at: float | None = None
        self._stirred = asyncio.Event() if charge.is_stirred else None
        self._moved = asyncio.Event()
        self.interrupted = ""
        """What interrupted the run, in words."""

    def interrupt(self, what: str) -> None:
        """Stop the run, resumable; asked twice, without the grace."""
        self._end_turn(at_once=bool(self.interrupted))
        self.interrupted = what

    def hand_over(self) -> None:
        """End the turn and let another worker go on, where the run allows that; else stop it, resumable."""
        self._is_handed_over = True
        self._end_turn()

    def stir(self) -> None:
        """The run has moved: look at what has come."""
        if self._stirred is not None:
            self._stirred.set()

    def resize(self) -> None:
        if self._turn is not None:
            self._turn.resize()

    async def execute(self, command: Command, *, actor: str | None = None, cause: str | None = None) -> Executed:
        if isinstance(command, EndTurn):
            # Where other machines share the log, its output is there before they hear of it.
            await asyncio.to_thread(share_ended, self._data, self.run_id, command.ended)
        command_id = ordered_id()
        name = type(command).__name__
        for attempt in range(UNAVAILABLE_TRIES):
            try:
                reach(f"before.{name}")
                executed = await self._ledger.execute(
                    self.run_id,
                    command,
                    command_id=command_id,
                    actor=actor or f"worker:{self._claims.worker}",
                    tenant=self._tenant,
                    cause=cause,
                )
                reach(f"after.{name}")
                return executed
            except Unavailable as error:
                if attempt + 1 == UNAVAILABLE_TRIES:
                    raise
                await asyncio.sleep(error.retry_after_seconds)
        raise AssertionError("unreachable")

    def _fence(self) -> None:
        self._is_fenced = True
        self._end_turn()

    def _end_turn(self, *, at_once: bool = False) -> None:
        self._moved.set()
        if self._turn is not None:
            self._turn.end(at_once=at_once)

    @property
    def _is_ending(self) -> bool:
        return bool(self._is_fenced or self._is_handed_over or self._is_cancelled or self.interrupted or self._limit)

    # What others ask.

    async def _follow(self, position: int) -> None:
        """Act on what others ask of the run: its own stream is the only control channel."""
        coming = pages_of(self._log, self.run_id, position, self._stirred)
        async with contextlib.aclosing(coming) as pages:
            async for page in pages:
                for recorded in page.events:
                    if recorded.type in _HEEDED:
                        reach(f"heard.{recorded.type}")
                        await self._obey(recorded.type, recorded.event())
                self._moved.set()

    async def _obey(self, type_name: str, event: Event | Unknown | None) -> None:
        if type_name == "cancel_requested":
            self._is_cancelled = True
            self._end_turn()
        elif isinstance(event, LimitExceeded):
            if event.on_exceed != "warn":
                self._limit = event
                self._end_turn()
        elif isinstance(event, PauseRequested):
            # The end of a run's only turn would be no pause at all.
            self._pause_at = time.monotonic()
            if not event.now and self._launch.max_turns > 1:
                self._pause_at += PAUSE_DEADLINE_SECONDS
            await self._stop_when_due()
        elif type_name == "run_resumed":
            self._limit = self._pause_at = None
            if self._turn is not None:
                self._turn.send(b"C")
        else:
            self._fence()

    async def _tick(self) -> None:
        """Keep what has a time: nothing waits for ever for a turn's end."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            await self._stop_when_due()
            await self._check_limits()

    async def _check_limits(self) -> None:
        """Time passes, and answers are overdue, also while nothing is reported."""
        with contextlib.suppress(Refused, Unavailable):
            run = await self._ledger.state(self.run_id)
            if run.is_resting:
                return
            command = CheckLimits(budgets=await self._left(run) if run.status in ("running", "pausing") else ())
            # Decided here first: most looks change nothing, and the log is not asked for them.
            if decide(run, command, time.time_ns() // 1000):
                await self.execute(command)

    async def _stop_when_due(self) -> None:
        """Stop the turn's processes where they are; between turns the run pauses by itself."""
        if self._turn is not None and self._pause_at is not None and time.monotonic() >= self._pause_at:
            self._pause_at = None
            self._turn.send(b"S")
            with contextlib.suppress(Refused):
                await self.execute(Paused(claim=self._claim, reason="its processes are stopped"))
