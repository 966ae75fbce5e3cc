"""Drives one claimed run over its turns as its stream and its rules want, and writes down what became of it.

What others wish of the run is heard while a turn runs (`runner/heeding.py`), and looked up again between turns
(`_settle`).
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import cast

from eventstore.failpoints import reach
from eventstore.objects.shared_outputs import bring_ended
from runfold.commands import (
    Cancelled,
    Claim,
    Command,
    Complete,
    Deny,
    EndTurn,
    Fail,
    Grant,
    Observe,
    Paused,
    ReleaseClaim,
    Start,
    StartTurn,
    Stop,
)
from runfold.errors import AlreadyFinal, BadRequest, Fenced, NotAllowed, Refused, TooLarge, Unavailable
from runfold.events import (
    Event,
    Failure,
    Json,
    TurnFailed,
    TurnStarted,
    Unknown,
    event_type,
)
from runfold.state import Run
from runner import machine
from runner.claims import background
from runner.heeding import Charge, Heeding
from runner.launch import counted_before
from runner.recovering.recorded import end_before_loss
from runner.turns.listener import Listener
from runner.turns.output import Output
from runner.turns.response import keep_response
from runner.turns.turn import Turn, TurnEnd
from runner.turns.watching import Watching
from runner.verdict import judge, turn_ended

SETTLE_TRIES = 8


class Driving(Heeding):
    """See `Heeding` for what may be asked of it."""

    def __init__(self, charge: Charge) -> None:
        super().__init__(charge)
        self._folder = charge.data / "runs" / charge.run_id
        self._waits, self._asking, self._resumes = charge.waits, charge.asking, charge.resumes
        self._has_response = False
        self._counted: dict[str, Json] = {}
        self._failed_turns = 0
        self.last: TurnEnd | None = None

    async def drive(self, *, after: int) -> Run:
        """Go on from a claimed run until it rests, or is given back; `after` is a position before anything asked.

        What the disk refuses fails the run, where the log can still say so. Raises RunfoldError.
        """
        try:
            return await self._drive(after)
        except BaseExceptionGroup as group:
            error = _only(group)
            if not isinstance(error, OSError):
                raise error from group
        what = f"{error.strerror or error}: {error.filename}" if error.filename else error.strerror or str(error)
        await self._fail(what.lower(), code="SYS_WRITE_ERROR")
        await self._give_back()
        return await self._ledger.state(self.run_id)

    async def _drive(self, after: int) -> Run:
        before = await self._ledger.state(self.run_id)
        # Another machine may have begun it: what this one adds stands behind that.
        with contextlib.suppress(Unavailable, OSError):
            await asyncio.to_thread(bring_ended, self._data, self.run_id)
        if before.recoveries and not before.steps:
            self.last = await end_before_loss(self._log, self.run_id, format_name=self._launch.format)
            self._failed_turns = before.fails_in_row
        renewing = self._claims.renewing(self.run_id, lambda: self._claim, self._fence)
        async with renewing, background(self._follow(after)), background(self._tick()):
            opened = await self._ledger.state(self.run_id)
            # Nobody has a claim to a run that a person has to allow first.
            may_start = bool(opened.worker) or await self._wait_resumed()
            while may_start and await self._settle() and await self._run_turn():
                pass
        run = await self._ledger.state(self.run_id)
        # A claim that could not be ended keeps its lease: when that runs out, the run is somebody else's to end.
        if run.is_resting or not run.worker or run.claim != self._claim:
            await self._give_back()
        return run

    async def _give_back(self) -> None:
        claim, self._claim = self._claim, 0
        if claim:
            await self._claims.release(self.run_id, claim)

    # One turn.

    async def _run_turn(self) -> bool:
        """Run the next turn to its recorded end; False where the run was taken away meanwhile."""
        run = await self._ledger.state(self.run_id)
        number = run.turn + 1
        try:
            if self._resumes:
                self._counted = await counted_before(self._log, self.run_id)
            plan, digest = await asyncio.to_thread(self._launch.plan, run, number, resumes=self._resumes)
            watching = await asyncio.to_thread(Watching, self._launch, data=self._data)
            listener = Listener(
                format_name=self._launch.format,
                pattern=self._launch.completion.pattern,
                model=self._launch.model,
                counted=self._counted,
            )
            turn = Turn.open(plan, run_id=self.run_id, path=self._folder / "output.log", listener=listener)
            reach("turn.opened")
        except OSError as error:
            await self._fail(f"turn {number} cannot be started: {error.strerror or error}: {error.filename}")
            return True
        try:
            started = TurnStarted(turn=number, pid=turn.pid, prompt_sha256=digest)
            budgets = await self._left(run)
            executed = await self.execute(StartTurn(claim=self._claim, started=started, budgets=budgets))
            if not executed.run.turn_open:
                # A limit was in the way.
                await turn.abandon()
                return True
        except BaseException as error:
            await asyncio.shield(turn.abandon())
            if isinstance(error, Fenced | AlreadyFinal):
                self._is_fenced = True
            if isinstance(error, Refused):
                # Somebody was quicker with a wish of his own: look again.
                return True
            raise
        self._turn, self._resumes = turn, False
        # What was asked between the record and this moment found no turn to act on.
        if self._is_ending:
            turn.end()
        try:
            await self._stop_when_due()
            async with watching.telling(listener, self._observe, self._observe) as observe:
                self.last = await turn.run(observe)
            self._counted = self.last.heard.counted
        finally:
            self._turn = None
            watching.close()
        return True

    async def _observe(
        self, events: Sequence[Event | Unknown], output: Output | None = None, *, cause: str | None = None
    ) -> None:
        if not events or self._is_fenced:
            return
        try:
            await self.execute(Observe(events=tuple(events), claim=self._claim), cause=cause)
        except (Fenced, AlreadyFinal):
            self._fence()
        except (BadRequest, Refused, TooLarge) as error:
            if len(events) == 1:
                if output is not None and event_type(events[0]) != "telemetry_rejected":
                    output.reject(error.message, event_type(events[0]))
                return
            # One bad report must not take its neighbours with it.
            for event in events:
                await self._observe((event,), output, cause=cause)

    # Between turns.

    async def _settle(self) -> bool:
        """Write down what follows from the run's own state; True where that is another turn.

        Another's wish may come between the look and the word, so a refusal means: look again.
        """
        refused = 0
        while refused < SETTLE_TRIES:
            run = await self._ledger.state(self.run_id)
            if self._is_fenced or run.is_resting:
                return False
            try:
                if run.turn_open and self.last is not None:
                    ended = turn_ended(run, self.last, cut_short=self._is_ending)
                    run = (await self.execute(EndTurn(claim=self._claim, ended=ended))).run
                    self._failed_turns = self._failed_turns + 1 if isinstance(ended, TurnFailed) else 0
                if run.is_resting:
                    return False
                command = self._verdict(run)
                if command is None and run.status == "paused":
                    # Its turn was ended from outside while it was stopped.
                    await self._wait_moved()
                elif command is None:
                    return True
                elif isinstance(command, Complete | Fail | Stop | Cancelled) and not self._has_response:
                    self._has_response = True
                    if (message := self.last.heard.final_message if self.last is not None else None) is not None:
                        stored = await asyncio.to_thread(keep_response, self._data, self.run_id, message)
                        await self._observe([stored])
                elif not (await self.execute(command)).run.worker:
                    return await self._wait_resumed()
            except Fenced:
                self._is_fenced = True
            except (NotAllowed, AlreadyFinal):
                refused += 1
        return False

    def _verdict(self, run: Run) -> Command | None:
        """What to do now; None is: the next turn."""
        end, claim = self.last, self._claim
        receipt = end.report.receipt if end is not None else None
        if run.status == "cancelling":
            return Cancelled(claim=claim, receipt=receipt)
        if run.status == "stopping":
            # The run knows its limit: whatever ends it now ends it as stopped.
            return Complete(claim=claim, reason_code="EXIT_ZERO")
        if self._limit is not None:
            # A limit that asks leaves the run paused, for a person to say whether it goes on.
            return Paused(claim=claim, reason=self._limit.reason or self._limit.limit)
        if self.interrupted:
            return Stop(claim=claim, reason_code="USER_INTERRUPT", message=f"interrupted by {self.interrupted}")
        if self._is_handed_over:
            if run.on_lost == "resume":
                return ReleaseClaim(claim=claim, reason="its worker stops")
            return Stop(claim=claim, reason_code="USER_INTERRUPT", message="its server was stopped")
        if run.status == "queued":
            return Start(claim=claim, worker=self._claims.worker, **machine.this_process())
        if (
            end is not None
            and (judged := judge(self._launch, run, end, claim, failed_turns=self._failed_turns)) is not None
        ):
            return judged
        if run.status == "pausing":
            return Paused(claim=claim)
        return None

    async def _fail(self, message: str, *, code: str = "SYS_LAUNCH_FAILED") -> None:
        error = Failure(code=code, message=message)
        await self.execute(Fail(claim=self._claim, reason_code=error.code, error=error))

    async def _wait_resumed(self) -> bool:
        """A paused run has given its claim back; stay with it where asked to, until it is claimed again here."""
        await self._give_back()
        if not self._waits:
            return False
        async with self._claims.waiting(self.run_id):
            return await self._until_resumed()

    async def _until_resumed(self) -> bool:
        put: str | None = None
        async with contextlib.AsyncExitStack() as question:
            while True:
                run = await self._ledger.state(self.run_id)
                if run.is_resting or run.worker:
                    return False
                if self.interrupted:
                    await self.execute(Stop(reason_code="USER_INTERRUPT", message=f"interrupted by {self.interrupted}"))
                    return False
                if run.status == "queued" and run.driver == "here":
                    return await self._claim_again(run)
                if put != run.waiting_on:
                    # What was asked before has been answered elsewhere.
                    await question.aclose()
                    put = run.waiting_on
                    await question.enter_async_context(background(self._ask(run)))
                await self._wait_moved()

    async def _ask(self, run: Run) -> None:
        """Put the run's open question to whoever is at this terminal; his answer is one as any other."""
        name = (run.waiting_on or "").removeprefix("approval:")
        asked = run.approvals.get(name)
        if self._asking is None or asked is None:
            return
        said = await self._asking.ask(asked.summary)
        if said is None:
            return
        answer = Grant(approval_id=name, digest=asked.digest) if said else Deny(approval_id=name)
        with contextlib.suppress(Refused):
            await self.execute(answer, actor=self._asking.actor)

    async def _wait_moved(self) -> None:
        await self._moved.wait()
        self._moved.clear()

    async def _claim_again(self, run: Run) -> bool:
        claim = run.claim + 1
        await self._claims.take(self.run_id, self._tenant, claim)
        executed = await self.execute(Claim(worker=self._claims.worker, host=machine.host()))
        self._claim, self.last = executed.run.claim, None
        return True


def first_of(error: BaseException) -> BaseException:
    """What went wrong first, of what tasks beside each other met."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What went wrong, out of the groups that tasks beside it have put round it; several stay together."""
    inner = group.exceptions
    if len(inner) != 1:
        return group
    error: BaseException = inner[0]
    return _only(cast("BaseExceptionGroup[BaseException]", error)) if isinstance(error, BaseExceptionGroup) else error
