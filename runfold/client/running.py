"""What a program writes: `with run(…) as r: with r.step(…): …`. Each `with` works with `async with` too."""

import contextlib
import os
import tempfile
import threading
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import msgspec

from runfold import events
from runfold.client.delivery import Delivery
from runfold.client.failing import (
    Cancelled,
    Interrupted,
    Stopped,
    encode_hidden,
    failure_of,
    is_interruption,
    make_redactor,
)
from runfold.client.parts import Step, Unit
from runfold.client.requests import Answer, ArtifactBody, Do, Problem, Unreachable
from runfold.client.ways import Ways
from runfold.errors import InvalidEvent, RunfoldError, TooLarge, Unavailable, error_of_code
from runfold.events import Failure, StepSpec
from runfold.observing import REPORTER_TYPES
from runfold.ordered_ids import ordered_id

LEASE_SECONDS = 30.0
EVENT_BYTES_MAX = 512 * 1024
ENVIRONMENT_RUN = "RUNFOLD_RUN_ID"

Steps: TypeAlias = Mapping[str, Sequence[str]] | Sequence[str | StepSpec]


class Run:
    """A run that this program drives. It is opened by `with`, and ended with it."""

    def __init__(self, opening: dict[str, Any]) -> None:
        self._opening = opening
        self._redactor = make_redactor()
        self._delivery: Delivery | None = None
        self._attempts: dict[str, int] = {}
        self._lock = threading.Lock()
        self._failed_step: tuple[str, BaseException] | None = None
        self.message = ""
        """What is said of the run when it completes."""

    def __enter__(self) -> Self:
        """Raises RunfoldError where the run is refused, Unavailable where it cannot be recorded anywhere."""
        key = ordered_id()
        self._delivery = Delivery(Ways(key))
        try:
            self._ask("open", self._opening, key=key)
        except BaseException:
            self._delivery.close()
            raise
        self._delivery.deliver_left()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._end(error)
        except (RunfoldError, Interrupted) as refused:
            # The program's own exception is what its caller has to see.
            if error is None:
                raise
            error.add_note(f"the end of run {self.id} was refused: {refused}")
        finally:
            self._told.close()

    async def __aenter__(self) -> Self:
        import asyncio

        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import asyncio

        await asyncio.shield(asyncio.to_thread(self.__exit__, kind, error, trace))

    @property
    def id(self) -> str:
        return self._told.run

    @property
    def status(self) -> str:
        """As far as it is known here; at most a heartbeat old."""
        return self._told.status

    @property
    def refused(self) -> tuple[Problem, ...]:
        """What was reported and not taken, newest last; each was also said on stderr."""
        return tuple(self._told.refused)

    def check(self) -> None:
        """Return where the run goes on. While it is paused this waits; Raises Cancelled, Stopped.

        Steps and units check when they begin. Call it where a long piece of work can be left.
        """
        while (status := self.status) not in ("queued", "running"):
            if status == "pausing":
                self._ask("control", {"action": "paused"})
            elif status == "paused":
                self._told.wait_for_status(unlike="paused")
            elif status in ("cancelling", "cancelled", "ended"):
                raise Cancelled(f"run {self.id} was cancelled")
            else:
                raise Stopped(f"run {self.id} is {status}; `runfold status {self.id}` says why")

    async def acheck(self) -> None:
        """`check` for a coroutine."""
        import asyncio

        await asyncio.to_thread(self.check)

    def step(self, name: str, *, skill: str | None = None, input: Any = None, **metadata: Any) -> Step:
        """A step of the run, for `with`. It begins only when its needs are met: else NotAllowed, naming them."""
        return Step(self, name, skill=skill, input=input, metadata=metadata)

    def unit(self, name: str | int, *, index: int | None = None, action: str | None = None,
             strategy: str | None = None) -> Unit:  # fmt: skip
        """A counted piece of work, for `with`: approved at its end unless it was rejected, or failed."""
        return Unit(self, str(name), index=index, action=action, strategy=strategy)

    def plan(self, total: int, *, unit_name: str | None = None) -> None:
        """How many units there are to do."""
        self.report(events.UnitsPlanned(total=total, unit_name=unit_name))

    def skip(self, step: str, reason: str = "") -> None:
        self.ask_report(events.StepSkipped(step=step, reason=reason))

    def rerun(self, step: str, reason: str = "") -> None:
        """Mark a step, and all that rests on it, as to be done again."""
        self.ask_report(events.StepMarkedForRerun(step=step, reason=reason))

    def usage(self, *, model: str | None = None, input_tokens: int = 0, output_tokens: int = 0,
              cost_usd: float | None = None, **more: Any) -> None:  # fmt: skip
        """Tokens and money spent since the last time; `input_tokens` includes what came from a cache."""
        cost_micros = None if cost_usd is None else round(cost_usd * 1_000_000)
        self.report(
            events.TokenUsage(
                model=model, input_tokens=input_tokens, output_tokens=output_tokens, cost_micros=cost_micros, **more
            )
        )

    def say(self, text: str, *, role: str = "assistant") -> None:
        self.report(events.Message(text=text, role=role))

    def note(self, text: str) -> None:
        self.report(events.NoteAdded(text=text))

    def set(self, key: str, value: Any) -> None:
        """Keep a small value with the run; the last one wins."""
        self.report(events.ContextSet(key=key, value=value))

    def event(self, kind: str, **data: Any) -> None:
        """Any event of the vocabulary: `run.event("file_written", path="a.py", bytes=12)`. Raises InvalidEvent."""
        if kind not in events.EVENT_TYPES:
            self.report(events.Telemetry(name=kind, data=data))
            return
        if kind not in REPORTER_TYPES:
            raise InvalidEvent(f"`{kind}` is not a reporter's to say", hint="docs/client.md lists what is")
        if event := events.decode_data(kind, msgspec.json.encode(data)):
            self.report(event)

    def artifact(self, name: str, content: bytes | str | os.PathLike[str], *,
                 media_type: str = "application/octet-stream", step: str | None = None) -> None:  # fmt: skip
        """Keep a file with the run, by its path or by its bytes; it is stored when this returns."""
        if isinstance(content, bytes):
            with tempfile.NamedTemporaryFile(prefix="runfold-") as file:
                file.write(content)
                file.flush()
                self.artifact(name, file.name, media_type=media_type, step=step)
            return
        path = str(Path(content).absolute())
        body = msgspec.json.encode(ArtifactBody(name=name, path=path, media_type=media_type, step=step))
        with _reached(self.id):
            self._check_answer(self._told.upload(body))

    def ask(self, summary: str, *, kind: str = "question", amount_usd: float | None = None,
            expires_at: str | None = None) -> None:  # fmt: skip
        """Ask a person, and wait for the answer, however long it takes; Raises Stopped where it is no.

        The question outlives this program; `runfold approve RUN` answers it.
        """
        self.check()
        body = {"kind": kind, "summary": summary, "amount_usd": amount_usd, "expires_at": expires_at}
        self._ask("ask", {name: value for name, value in body.items() if value is not None})
        self.check()

    def flush(self) -> None:
        """Wait until all that was reported is recorded."""
        self._told.flush()

    def report(self, event: events.Event | events.Unknown) -> None:
        """Send an event without waiting."""
        self._told.say(events.event_type(event), self._data(event))

    def ask_report(self, event: events.Event) -> None:
        """Send an event and wait until it is recorded. Raises RunfoldError where the run's rules refuse it."""
        said = {"id": ordered_id(), "type": events.event_type(event), "data": msgspec.Raw(self._data(event))}
        self._ask("report", {"events": [said]})

    def failure(self, error: BaseException) -> Failure:
        return failure_of(error, self._redactor)

    def next_attempt(self, what: str) -> int:
        with self._lock:
            attempt = self._attempts[what] = self._attempts.get(what, 0) + 1
            return attempt

    def remember_failure(self, step: str, error: BaseException) -> None:
        self._failed_step = (step, error)

    @property
    def _told(self) -> Delivery:
        if self._delivery is None:
            raise RuntimeError("the run is not open: write `with runfold.run(…) as run:`")
        return self._delivery

    def _data(self, event: events.Event | events.Unknown) -> bytes:
        content = self._redactor.data(events.encode_data(event))
        if len(content) > EVENT_BYTES_MAX:
            raise TooLarge(
                f"`{events.event_type(event)}` has {len(content)} bytes, more than {EVENT_BYTES_MAX}",
                hint="store it with `run.artifact`",
            )
        return content

    def _ask(self, do: Do, body: Any, *, key: str | None = None) -> None:
        with _reached(self.id):
            self._check_answer(self._told.ask(do, encode_hidden(body, self._redactor), key=key))

    def _check_answer(self, answer: Answer) -> None:
        if answer.status >= 400:
            problem = msgspec.json.decode(answer.body, type=Problem)
            raise error_of_code(problem.code)(problem.detail, hint=problem.hint, run_id=self.id)

    def _end(self, error: BaseException | None) -> None:
        if isinstance(error, SystemExit) and error.code in (None, 0):
            error = None
        if error is None:
            self._ask("control", {"action": "complete", "message": self.message})
        elif isinstance(error, Cancelled):
            if self.status == "cancelling":
                self._ask("control", {"action": "cancelled"})
        elif isinstance(error, Stopped):
            if self.status == "stopping":
                self._ask("control", {"action": "stop"})
        elif is_interruption(error):
            self._ask("control", {"action": "stop", "reason_code": "USER_INTERRUPT"})
        else:
            failure = self.failure(error)
            code = failure.code
            if self._failed_step is not None and self._failed_step[1] is error and code == "SYS_EXCEPTION":
                code = "STEP_FAILED"
            self._ask("control", {"action": "fail", "reason_code": code, "error": failure})


@contextlib.contextmanager
def _reached(run: str) -> Generator[None]:
    try:
        yield
    except Unreachable as error:
        raise Unavailable(
            f"run `{run}` cannot be recorded anywhere: {error}", hint="RUNFOLD_DATA names a folder that can be written"
        ) from error


def run(
    workflow: str | None = None,
    *,
    title: str = "",
    steps: Steps = (),
    payload: Any = None,
    labels: Mapping[str, str] | None = None,
    limits: Mapping[str, Any] | None = None,
    unit_name: str | None = None,
    units_total: int | None = None,
    lease_seconds: float | None = LEASE_SECONDS,
) -> Run:
    """A run of this program, for `with`. `steps`: names, or each name with what it needs."""
    opening: dict[str, Any] = {
        "workflow": workflow,
        "title": title,
        "steps": _graph(steps),
        "payload": payload,
        "labels": dict(labels or {}),
        "limits": dict(limits or {}),
        "unit_name": unit_name,
        "units_total": units_total,
        "lease_seconds": lease_seconds,
        "parent_run_id": os.environ.get(ENVIRONMENT_RUN),
    }
    return Run({name: value for name, value in opening.items() if value not in (None, "", {}, [])})


def _graph(steps: Steps) -> list[StepSpec]:
    if isinstance(steps, Mapping):
        return [StepSpec(id=name, needs=tuple(needs)) for name, needs in steps.items()]
    return [StepSpec(id=step) if isinstance(step, str) else step for step in steps]
