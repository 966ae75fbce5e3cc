"""Drives a run over its graph: every ready step that has a command is a turn, as many at once as there are slots.

Which step may start, what a failure or a rerun does to others, and when a limit ends one, the domain decides; here
processes are started for what it allows, and what became of them is written down. A step without a command is somebody
else's: the run waits for him, and holds no slot meanwhile.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from eventstore.failpoints import reach
from eventstore.run_files import output_path, part_path
from runfold.commands import (
    Command,
    Complete,
    CompleteStep,
    EndTurn,
    Fail,
    FailStep,
    Observe,
    Paused,
    StartStep,
    StartTurn,
)
from runfold.errors import AlreadyFinal, Fenced, Refused, Unavailable
from runfold.events import (
    ArtifactStored,
    Event,
    Failure,
    Json,
    LimitExceeded,
    StepSpec,
    TokenUsage,
    TurnStarted,
    Unknown,
)
from runfold.state import Run
from runfold.steps import MET, state_of
from runfold.workflows import TURNS_MAX
from runner.driving import Driving
from runner.heeding import Charge
from runner.steps.step_cache import find, restore
from runner.steps.step_choice import code_of, digest_of, is_retried, key_of, question_of, run_error, startable
from runner.steps.step_files import MissingFile, collect, digests_of
from runner.turns.listener import Listener
from runner.turns.output import Output
from runner.turns.output_file import OutputFile
from runner.turns.turn import Turn, TurnEnd, TurnPlan
from runner.turns.watching import Watching
from runner.verdict import failure_of, turn_ended

STEP_SLOTS = 4
COPY_BYTES = 1024 * 1024
NOTICE_SECONDS = 1.0  # A back-off and a deadline are kept to within this.


class StepDriving(Driving):
    """The driver of a run whose steps have commands; see `Driving` for what others may ask of it."""

    def __init__(self, charge: Charge, *, slots: int = STEP_SLOTS) -> None:
        super().__init__(charge)
        # A pause waits for the steps that are at work, where the only turn of a run would be stopped as it is.
        self._launch = msgspec.structs.replace(self._launch, max_turns=TURNS_MAX)
        self._workspace = Path(self._launch.cwd or ".")
        self._slots = slots
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._step_turns: dict[str, Turn] = {}
        self._opening = asyncio.Lock()
        self._closing = asyncio.Lock()
        self._watching: Watching | None = None

    async def drive(self, *, after: int) -> Run:
        try:
            return await super().drive(after=after)
        finally:
            # Whatever broke, no step's processes are left behind, nor those of one that is just about to begin.
            self._fence()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            self._close_watching()

    def _close_watching(self) -> None:
        if self._watching is not None:
            self._watching.close()

    def _end_turn(self, *, at_once: bool = False) -> None:
        self._moved.set()
        for turn in self._step_turns.values():
            turn.end(at_once=at_once)

    async def _obey(self, type_name: str, event: Event | Unknown | None) -> None:
        if isinstance(event, LimitExceeded) and event.scope.startswith("step:") and event.on_exceed == "stop":
            # The step's own limit ends its turn, and nobody else's.
            turn = self._step_turns.get(event.scope.removeprefix("step:"))
            if turn is not None:
                turn.end()
            return
        await super()._obey(type_name, event)
        if type_name == "run_resumed":
            self._send(b"C")

    async def _stop_when_due(self) -> None:
        if self._step_turns and self._pause_at is not None and time.monotonic() >= self._pause_at:
            self._pause_at = None
            self._send(b"S")
            with contextlib.suppress(Refused):
                await self.execute(Paused(claim=self._claim, reason="its processes are stopped"))

    def _send(self, order: Literal[b"S", b"C"]) -> None:
        for turn in self._step_turns.values():
            turn.send(order)

    async def _settle(self) -> bool:
        """Before the run itself moves on, what is open in it has come to its end."""
        run = await self._ledger.state(self.run_id)
        if self._tasks and (self._is_ending or run.status != "running"):
            await self._reap(wait_all=True)
        return True if self._tasks else await super()._settle()

    def _verdict(self, run: Run) -> Command | None:
        command = super()._verdict(run)
        if command is not None or run.status != "running" or self._tasks:
            return command
        return self._next(run)

    async def _run_turn(self) -> bool:
        """Start what may start, and come back when something has moved."""
        run = await self._ledger.state(self.run_id)
        if run.status == "running" and not self._is_ending:
            for spec in startable(run, now_us=_now_us()):
                if len(self._tasks) >= self._slots:
                    break
                if spec.command and spec.id not in self._tasks and question_of(run, spec) is None:
                    self._tasks[spec.id] = asyncio.create_task(self._carry(spec))
        await self._reap()
        return True

    async def _reap(self, *, wait_all: bool = False) -> None:
        self._moved.clear()
        moving = asyncio.create_task(self._moved.wait())
        try:
            running = [*self._tasks.values()]
            if wait_all:
                await asyncio.wait(running)
            else:
                await asyncio.wait([*running, moving], timeout=NOTICE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            moving.cancel()
        for step, task in list(self._tasks.items()):
            if task.done():
                del self._tasks[step]
                task.result()

    def _next(self, run: Run) -> Command | None:
        """What follows when no step is at work; None is: start what is ready, or wait for a back-off."""
        claim, waiting = self._claim, startable(run, now_us=_now_us())
        questions = [asked for spec in waiting if (asked := question_of(run, spec)) is not None]
        if any(spec.command and question_of(run, spec) is None for spec in waiting):
            return None
        if questions:
            return msgspec.structs.replace(questions[0], claim=claim)
        if (by_hand := next((spec for spec in waiting if not spec.command), None)) is not None:
            return Paused(claim=claim, reason=f"step {by_hand.id} is done by hand", waiting_on=f"step:{by_hand.id}")
        if any(is_retried(spec, state_of(run, spec.id)) for spec in run.steps):
            return None
        states = [(spec, state_of(run, spec.id)) for spec in run.steps]
        if all(state.status in MET for _, state in states):
            return Complete(claim=claim, reason_code="EXIT_ZERO")
        failed = next(((spec, state) for spec, state in states if state.status == "failed"), None)
        if failed is None:
            return Fail(
                claim=claim, reason_code="STEP_FAILED", error=Failure(code="STEP_FAILED", message="no step is ready")
            )
        return Fail(claim=claim, reason_code=code_of(failed[1]), error=run_error(*failed))

    # One step.

    async def _carry(self, spec: StepSpec) -> None:
        """Run one attempt of a step to its recorded end."""
        try:
            given = await asyncio.to_thread(digests_of, self._workspace, spec.inputs)
            missing: MissingFile | None = None
        except MissingFile as error:
            given, missing = {}, error
        try:
            shown = {"files": given} if given else None
            budgets = await self._left(await self._ledger.state(self.run_id))
            run = (await self.execute(StartStep(step=spec.id, claim=self._claim, input=shown, budgets=budgets))).run
            if state_of(run, spec.id).status != "running":
                return  # A limit was in the way.
            if missing is not None:
                await self._fail_step(spec, Failure(code="STEP_FAILED", message=str(missing)))
                return
            if not await self._restore(spec, run, given):
                await self._run_step(spec, run, given)
        except (Fenced, AlreadyFinal):
            self._fence()
        except Refused:
            return  # Somebody was quicker with a wish of his own: the next look decides.

    async def _run_step(self, spec: StepSpec, run: Run, given: dict[str, str]) -> None:
        attempt = state_of(run, spec.id).attempt
        path = part_path(self._data, self.run_id, spec.id, attempt)
        path.unlink(missing_ok=True)
        async with self._opening:
            # Turns are numbered in the order of the log, so only one is opened at a time.
            number = (await self._ledger.state(self.run_id)).turn + 1
            listener = Listener(format_name=self._launch.format, model=self._launch.model)
            if self._watching is None or not self._step_turns:
                # One for all that go on at once: they share the workspace.
                self._close_watching()
                self._watching = await asyncio.to_thread(Watching, self._launch, data=self._data)
            watching = self._watching
            try:
                turn = Turn.open(self._plan(spec, attempt), run_id=self.run_id, path=path, listener=listener)
                reach("step_turn.opened")
            except OSError as error:
                message = f"its command cannot be started: {error.strerror or error}: {error.filename}"
                await self._fail_step(spec, Failure(code="SYS_LAUNCH_FAILED", message=message))
                return
            try:
                started = TurnStarted(turn=number, step=spec.id, attempt=attempt, pid=turn.pid)
                executed = await self.execute(StartTurn(claim=self._claim, started=started))
                opened = executed.run
                is_open = any(it.turn == number for it in opened.open_turns)
            except BaseException:
                await asyncio.shield(turn.abandon())
                raise
        if not is_open:
            await turn.abandon()  # A limit was in the way.
            return
        self._step_turns[spec.id] = turn
        # What was asked between the record and this moment found no turn to act on.
        if self._is_ending or spec.id in opened.step_hits:
            turn.end()
        try:
            observe = partial(self._observe_step, spec.id, executed.events[-1].id)
            async with watching.telling(listener, self._observe, observe) as hear:
                end = await turn.run(hear)
        finally:
            del self._step_turns[spec.id]
        async with self._closing:
            # The parts of the run's output stand in it in the order in which their turns ended.
            end = await asyncio.to_thread(_append, path, output_path(self._data, self.run_id), end)
            await self._close(spec, number, attempt, end, given)

    async def _close(self, spec: StepSpec, number: int, attempt: int, end: TurnEnd, given: dict[str, str]) -> None:
        before = await self._ledger.state(self.run_id)
        cut_short = self._is_ending or spec.id in before.step_hits
        ended = turn_ended(before, end, cut_short=cut_short)
        ended = msgspec.structs.replace(ended, turn=number, step=spec.id, attempt=attempt)
        run = (await self.execute(EndTurn(claim=self._claim, ended=ended))).run
        if state_of(run, spec.id).status != "running" or run.status in ("cancelling", "stopping") or self._is_ending:
            return  # What ends the run, or the step's own limit, has closed it or will.
        error = failure_of(end, spec.command)
        if error is not None:
            await self._fail_step(spec, error)
            return
        await self._complete_step(spec, run, given)

    async def _complete_step(self, spec: StepSpec, run: Run, given: dict[str, str]) -> None:
        try:
            made = await asyncio.to_thread(collect, self._data, self._workspace, spec)
        except MissingFile as error:
            await self._fail_step(spec, Failure(code="STEP_FAILED", message=str(error)))
            return
        except Unavailable as error:
            await self._fail_step(spec, Failure(code="SYS_WRITE_ERROR", message=error.message, retryable=True))
            return
        await self._keep(spec, made, key_of(run, spec, given))

    async def _restore(self, spec: StepSpec, run: Run, given: dict[str, str]) -> bool:
        """Complete the step with what an earlier one made of the very same; False where it has to run."""
        key = key_of(run, spec, given)
        if key is None or not run.cache:
            return False
        cached = await asyncio.to_thread(find, self._data, self._tenant, key)
        if cached is None or not await asyncio.to_thread(restore, self._data, self._workspace, cached):
            return False
        try:
            made = await asyncio.to_thread(collect, self._data, self._workspace, spec)
        except MissingFile:
            return False
        if {it.name: it.sha256 for it in made} != cached.files:
            return False  # What else lies there would count as its work.
        await self._keep(spec, made, key, made_in=cached.run_id)
        return True

    async def _keep(
        self, spec: StepSpec, made: Sequence[ArtifactStored], key: str | None, *, made_in: str | None = None
    ) -> None:
        if made:
            await self.execute(Observe(events=tuple(made), claim=self._claim))
        files = {it.name: it.sha256 for it in made}
        metadata: dict[str, Json] = {"made": digest_of(files)} if files else {}
        if made_in is not None:
            metadata["made_in"] = made_in
        await self.execute(
            CompleteStep(
                step=spec.id,
                claim=self._claim,
                output={"files": files} if files else None,
                cache_hit=made_in is not None,
                cache_key=key,
                metadata=metadata,
            )
        )

    async def _fail_step(self, spec: StepSpec, error: Failure) -> None:
        await self.execute(FailStep(step=spec.id, claim=self._claim, error=error))

    async def _observe_step(self, step: str, began: str, events: Sequence[Event | Unknown], output: Output) -> None:
        """The facts of one step: what several steps spend at once is told apart by name, and by the turn it is of."""
        named = [_with_step(event, step) for event in events]
        await self._observe(named, output, cause=began)

    def _plan(self, spec: StepSpec, attempt: int) -> TurnPlan:
        launch, prompt = self._launch, spec.prompt
        in_argv = prompt is not None and any("{prompt}" in word for word in spec.command)
        argv = tuple(word.replace("{prompt}", prompt or "") for word in spec.command) if in_argv else spec.command
        return TurnPlan(
            argv=argv,
            environment={**launch.environment, "RUNFOLD_STEP": spec.id, "RUNFOLD_ATTEMPT": str(attempt)},
            secrets=launch.secrets,
            cwd=launch.cwd,
            stdin=b"" if prompt is None or in_argv else prompt.encode(),
            grace_seconds=launch.grace_seconds,
            timeout_seconds=spec.timeout_seconds,
            mark=f"{self.run_id}:{attempt}:{spec.id}",
        )


def driving_of(steps: Sequence[StepSpec], *, slots: int = STEP_SLOTS) -> Callable[[Charge], Driving]:
    """Who drives a run: over its graph, where it has one, with so many steps at once."""
    return functools.partial(StepDriving, slots=slots) if steps else Driving


def _with_step(event: Event | Unknown, step: str) -> Event | Unknown:
    if isinstance(event, TokenUsage | ArtifactStored) and event.step is None:
        return msgspec.structs.replace(event, step=step)
    return event


def _append(part: Path, whole: Path, end: TurnEnd) -> TurnEnd:
    """A turn's output at the end of its run's, as far as the disk has room; the turn's end with where it is there."""
    target = OutputFile(whole)
    with part.open("rb") as source:
        while (chunk := source.read(COPY_BYTES)) and not target.error:
            target.write(chunk)
    part.unlink()
    target.close()
    return msgspec.structs.replace(
        end,
        output_offset=target.began_at,
        output_bytes=target.size_bytes,
        output_sha256=target.sha256,
        output_error=end.output_error or target.error,
    )


def _now_us() -> int:
    return time.time_ns() // 1000
