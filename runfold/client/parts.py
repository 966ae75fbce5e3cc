"""The parts of a run that begin and end: steps, which the run's graph may hold back, and units, which are counted."""

import time
from types import TracebackType
from typing import Any, Protocol, Self

from runfold.client.failing import is_interruption
from runfold.events import (
    Event,
    Failure,
    StepCompleted,
    StepFailed,
    StepStarted,
    UnitAction,
    UnitApproved,
    UnitFailed,
    UnitRejected,
    UnitStarted,
)

Kind = type[BaseException] | None


class Reported(Protocol):
    """What a part asks of its run."""

    def check(self) -> None: ...
    def report(self, event: Event) -> None: ...
    def ask_report(self, event: Event) -> None: ...
    def failure(self, error: BaseException) -> Failure: ...
    def next_attempt(self, what: str) -> int: ...
    def remember_failure(self, step: str, error: BaseException) -> None: ...


class _Part:
    """Begins and ends with `with`, or in a thread beside the loop with `async with`."""

    def __enter__(self) -> Self:
        raise NotImplementedError

    def __exit__(self, kind: Kind, error: BaseException | None, trace: TracebackType | None) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        import asyncio

        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(self, kind: Kind, error: BaseException | None, trace: TracebackType | None) -> None:
        import asyncio

        await asyncio.shield(asyncio.to_thread(self.__exit__, kind, error, trace))


class Step(_Part):
    """`output` and `metadata` may be set while it runs; they are kept with its end."""

    def __init__(self, run: Reported, name: str, *, skill: str | None, input: Any, metadata: dict[str, Any]) -> None:
        self._run = run
        self.name = name
        self._skill = skill
        self._input = input
        self.metadata = metadata
        self.output: Any = None
        self.attempt = 0
        self._began = 0.0

    def __enter__(self) -> Self:
        self._run.check()
        self.attempt = self._run.next_attempt(f"step {self.name}")
        self._began = time.monotonic()
        self._run.ask_report(
            StepStarted(
                step=self.name, skill=self._skill, attempt=self.attempt, input=self._input, metadata=self.metadata
            )
        )
        return self

    def __exit__(self, kind: Kind, error: BaseException | None, trace: TracebackType | None) -> None:
        duration_ms = round((time.monotonic() - self._began) * 1_000)
        if error is None:
            self._run.ask_report(
                StepCompleted(
                    step=self.name,
                    attempt=self.attempt,
                    output=self.output,
                    duration_ms=duration_ms,
                    metadata=self.metadata,
                )
            )
        elif not is_interruption(error):
            self._run.remember_failure(self.name, error)
            self._run.report(
                StepFailed(
                    step=self.name,
                    attempt=self.attempt,
                    error=self._run.failure(error),
                    output=self.output,
                    duration_ms=duration_ms,
                    metadata=self.metadata,
                )
            )
        # What an interruption leaves open is closed with the run.


class Unit(_Part):
    def __init__(
        self, run: Reported, name: str, *, index: int | None, action: str | None, strategy: str | None
    ) -> None:
        self._run = run
        self.name = name
        self._index = index
        self._action = action
        self._strategy = strategy
        self._judged = False
        self.attempt = 0

    def __enter__(self) -> Self:
        self._run.check()
        self.attempt = self._run.next_attempt(f"unit {self.name}")
        self._run.report(
            UnitStarted(
                unit=self.name, index=self._index, attempt=self.attempt, action=self._action, strategy=self._strategy
            )
        )
        return self

    def __exit__(self, kind: Kind, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.approve()
        elif not is_interruption(error):
            self.fail(f"{type(error).__name__}: {error}", error)

    def action(self, action: str, *, strategy: str | None = None, reason: str = "") -> None:
        """What is done with it now."""
        self._run.report(
            UnitAction(
                unit=self.name,
                action=action,
                index=self._index,
                attempt=self.attempt,
                strategy=strategy,
                reason=reason,
            )
        )

    def approve(self) -> None:
        if self._judge():
            self._run.report(UnitApproved(unit=self.name, index=self._index, attempt=self.attempt))

    def reject(self, reason: str = "") -> None:
        if self._judge():
            self._run.report(UnitRejected(unit=self.name, index=self._index, attempt=self.attempt, reason=reason))

    def fail(self, reason: str = "", error: BaseException | None = None) -> None:
        if self._judge():
            failure = None if error is None else self._run.failure(error)
            self._run.report(
                UnitFailed(unit=self.name, index=self._index, attempt=self.attempt, reason=reason, error=failure)
            )

    def _judge(self) -> bool:
        """A unit gets one verdict an attempt: the first."""
        judged, self._judged = self._judged, True
        return not judged
