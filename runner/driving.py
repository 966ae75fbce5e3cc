"""Drives one claimed run over its turns as its stream and its rules want, and writes down what became of it.

Everything that others wish of the run is an event on its own stream, read while a turn runs (`_follow`) and looked up
again between turns (`_settle`): there is no second channel, and what was asked for first is what happens.
"""

import asyncio
import contextlib
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eventstore.contract import EventLog
from eventstore.ledger import Executed, Ledger
from runfold.commands import (
    Cancelled,
    Claim,
    Command,
    Complete,
    EndTurn,
    Fail,
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
    LimitExceeded,
    PauseRequested,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
    Unknown,
    event_type,
)
from runfold.state import Run
from runner import machine
from runner.claims import Claims, background
from runner.launch import Launch
from runner.listener import Listener
from runner.output import Output
from runner.turn import Turn, TurnEnd
from runner.verdict import failure_of, seen_complete

PAUSE_DEADLINE_SECONDS = 600.0  # A turn that ends later than this is stopped where it is.
UNAVAILABLE_TRIES = 10
SETTLE_TRIES = 5


class Driving:
    """`interrupt` and `hand_over` may be called at any time from the event loop."""

    def __init__(
        self,
        ledger: Ledger,
        log: EventLog,
        claims: Claims,
        launch: Launch,
        *,
        data: Path,
        run_id: str,
        tenant: str,
        claim: int,
        waits: bool = False,
    ) -> None:
        """`waits`: stay with a paused run, and claim it again when it goes on."""
        self._ledger, self._log, self._claims, self._launch = ledger, log, claims, launch
        self._folder = data / "runs" / run_id
        self.run_id, self._tenant, self._claim, self._waits = run_id, tenant, claim, waits
        self._turn: Turn | None = None
        self._limit: LimitExceeded | None = None
        self._is_fenced = False
        self._is_handed_over = False
        self._failed_turns = 0
        self._moved = asyncio.Event()
        self.interrupted = ""
        """What interrupted the run, in words."""
        self.last: TurnEnd | None = None

    async def drive(self, *, after: int) -> Run:
        """Go on from a claimed run until it rests, or is given back; `after` is a position before anything asked."""
        renewing = self._claims.renewing(self.run_id, lambda: self._claim, self._fence)
        try:
            async with renewing, background(self._follow(after)):
                while await self._settle() and await self._run_turn():
                    pass
            return await self._ledger.state(self.run_id)
        finally:
            await self._give_back()

    def interrupt(self, what: str) -> None:
        """Stop the run, resumable; asked twice, without the grace."""
        self._end_turn(at_once=bool(self.interrupted))
        self.interrupted = what

    def hand_over(self) -> None:
        """End the turn and let another worker go on, where the run allows that; else stop it, resumable."""
        self._is_handed_over = True
        self._end_turn()

    def resize(self) -> None:
        if self._turn is not None:
            self._turn.resize()

    async def execute(self, command: Command, *, actor: str | None = None) -> Executed:
        command_id = str(uuid.uuid4())
        for attempt in range(UNAVAILABLE_TRIES):
            try:
                return await self._ledger.execute(
                    self.run_id,
                    command,
                    command_id=command_id,
                    actor=actor or f"worker:{self._claims.worker}",
                    tenant=self._tenant,
                )
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
        return bool(self._is_fenced or self._is_handed_over or self.interrupted or self._limit)

    async def _give_back(self) -> None:
        claim, self._claim = self._claim, 0
        if claim:
            await self._claims.release(self.run_id, claim)

    # What others ask.

    async def _follow(self, position: int) -> None:
        """Act on what others ask of the run: its own stream is the only control channel."""
        deadline: asyncio.TimerHandle | None = None
        async for page in self._log.tail(after=position, stream=self.run_id):
            for recorded in page.events:
                event = recorded.event()
                await self._obey(recorded.type, event)
                if deadline is not None:
                    deadline.cancel()
                    deadline = None
                if isinstance(event, PauseRequested) and not self._pauses_at_once(event):
                    deadline = asyncio.get_running_loop().call_later(PAUSE_DEADLINE_SECONDS, self._stop_turn)
            self._moved.set()

    async def _obey(self, type_name: str, event: Event | Unknown | None) -> None:
        if type_name == "cancel_requested":
            self._end_turn()
        elif isinstance(event, LimitExceeded) and event.on_exceed != "warn":
            self._limit = event
            self._end_turn()
        elif type_name in ("claim_lost", "run_failed", "run_cancelled", "run_completed", "run_stopped"):
            self._fence()
        elif isinstance(event, PauseRequested) and self._pauses_at_once(event):
            self._stop_turn()
            with contextlib.suppress(Refused):
                await self.execute(Paused(claim=self._claim, reason="its processes are stopped"))
        elif type_name == "run_resumed":
            self._limit = None
            if self._turn is not None:
                self._turn.send(b"C")

    def _pauses_at_once(self, event: PauseRequested) -> bool:
        # The end of a run's only turn would be no pause at all.
        return self._turn is not None and self._launch.max_turns == 1

    def _stop_turn(self) -> None:
        if self._turn is not None:
            self._turn.send(b"S")

    # One turn.

    async def _run_turn(self) -> bool:
        """Run the next turn to its recorded end; False where the run was taken away meanwhile."""
        run = await self._ledger.state(self.run_id)
        number = run.turn + 1
        try:
            plan, digest = await asyncio.to_thread(self._launch.plan, run, number)
            listener = Listener()
            turn = Turn.open(plan, run_id=self.run_id, path=self._folder / "output.log", listener=listener)
        except OSError as error:
            await self._fail(f"turn {number} cannot be started: {error.strerror or error}: {error.filename}")
            return True
        try:
            started = TurnStarted(turn=number, pid=turn.pid, prompt_sha256=digest)
            await self.execute(StartTurn(claim=self._claim, started=started))
        except BaseException as error:
            await asyncio.shield(turn.abandon())
            if isinstance(error, Fenced | AlreadyFinal):
                self._is_fenced = True
            if isinstance(error, Refused):
                # Somebody was quicker with a wish of his own: look again.
                return True
            raise
        self._turn = turn
        if self._is_ending:
            turn.end()
        try:
            self.last = await turn.run(self._observe)
        finally:
            self._turn = None
        return True

    async def _observe(self, events: Sequence[Event | Unknown], output: Output) -> None:
        if not events or self._is_fenced:
            return
        try:
            await self.execute(Observe(events=tuple(events), claim=self._claim))
        except (Fenced, AlreadyFinal):
            self._fence()
        except (BadRequest, Refused, TooLarge) as error:
            if len(events) == 1:
                if event_type(events[0]) != "telemetry_rejected":
                    output.reject(error.message, event_type(events[0]))
                return
            # One bad report must not take its neighbours with it.
            for event in events:
                await self._observe((event,), output)

    # Between turns.

    async def _settle(self) -> bool:
        """Write down what follows from the run's own state; True where that is another turn.

        Another's wish may come between the look and the word, so a refusal means: look again.
        """
        for _ in range(SETTLE_TRIES):
            run = await self._ledger.state(self.run_id)
            if self._is_fenced or run.is_resting:
                return False
            try:
                if run.turn_open and self.last is not None:
                    ended = self._ended(run, self.last)
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
                elif not (await self.execute(command)).run.worker:
                    return await self._wait_resumed()
            except Fenced:
                self._is_fenced = True
            except (NotAllowed, AlreadyFinal):
                continue
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
        if end is not None and (judged := self._judge(run, end)) is not None:
            return judged
        if run.status == "pausing":
            return Paused(claim=claim)
        if run.status == "queued":
            boot_id = machine.boot_id() or None
            return Start(claim=claim, worker=self._claims.worker, pid=os.getpid(), boot_id=boot_id)
        return None

    def _judge(self, run: Run, end: TurnEnd) -> Command | None:
        """What the last turn means for the run."""
        launch, claim, code = self._launch, self._claim, end.report.exit_code
        completion = seen_complete(launch.completion, end, launch.cwd)
        if completion is not None and completion.rule == "stop_file":
            return Complete(claim=claim, reason_code="STOP_FILE", exit_code=code, completion=completion)
        error = failure_of(end, launch.argv)
        if error is not None and (completion is None or completion.rule != "exit_code"):
            if self._failed_turns <= launch.turn_retries:
                return None
            return Fail(claim=claim, reason_code=error.code, error=error)
        if completion is not None:
            return Complete(claim=claim, reason_code="COMPLETION_DETECTED", exit_code=code, completion=completion)
        if run.turns < launch.max_turns:
            return None
        if launch.completion.is_empty:
            return Complete(claim=claim, reason_code="EXIT_ZERO", exit_code=code)
        return Stop(
            claim=claim,
            reason_code="MAX_TURNS_REACHED",
            condition="turns",
            threshold=launch.max_turns,
            actual=run.turns,
        )

    def _ended(self, run: Run, end: TurnEnd) -> TurnCompleted | TurnFailed | TurnCancelled:
        report = end.report
        common: dict[str, Any] = {
            "turn": run.turn,
            "exit_code": report.exit_code,
            "signal": report.signal_name,
            "duration_ms": end.duration_ms,
            "output_bytes": end.output_bytes,
            "output_sha256": end.output_sha256,
            "agent_session_id": end.heard.session_id,
        }
        if run.status in ("cancelling", "stopping") or self._is_ending:
            return TurnCancelled(**common, receipt=report.receipt)
        error = failure_of(end, ())
        if error is None:
            return TurnCompleted(**common)
        return TurnFailed(**common, error=error)

    async def _fail(self, message: str) -> None:
        error = Failure(code="SYS_LAUNCH_FAILED", message=message)
        await self.execute(Fail(claim=self._claim, reason_code=error.code, error=error))

    async def _wait_resumed(self) -> bool:
        """A paused run has given its claim back; stay with it where asked to, until it is claimed again here."""
        await self._give_back()
        while self._waits:
            run = await self._ledger.state(self.run_id)
            if run.is_resting or run.worker:
                return False
            if self.interrupted:
                await self.execute(Stop(reason_code="USER_INTERRUPT", message=f"interrupted by {self.interrupted}"))
                return False
            if run.status == "queued" and run.driver == "here":
                return await self._claim_again(run)
            await self._wait_moved()
        return False

    async def _wait_moved(self) -> None:
        await self._moved.wait()
        self._moved.clear()

    async def _claim_again(self, run: Run) -> bool:
        claim = run.claim + 1
        await self._claims.take(self.run_id, self._tenant, claim)
        executed = await self.execute(Claim(worker=self._claims.worker, host=machine.host()))
        self._claim, self.last = executed.run.claim, None
        return True
