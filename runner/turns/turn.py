"""One subprocess of a run under its keeper: started, carried, heard, and told about once nothing of it is left."""

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from runfold.events import Event, Unknown
from runner.turns import terminal
from runner.turns.listener import Heard, Listener
from runner.turns.output import Output
from runner.turns.process import KeptProcess, Report
from runner.turns.streams import Streams, drained

FLUSH_SECONDS = 0.1  # At most ten samples of output a second.
DRAIN_SECONDS = 2.0

Observe = Callable[[Sequence[Event | Unknown], Output], Awaitable[None]]


class TurnPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What to start. `stdin` None inherits ours; bytes are given to it, and then its end."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    secrets: tuple[str, ...] = ()
    cwd: str | None = None
    stdin: bytes | None = None
    grace_seconds: float = 5.0
    timeout_seconds: float | None = None
    shown: bool = False
    tty: bool = False
    mark: str = ""
    """What its processes carry beside the run's id, where other turns of the run go on at the same time."""


class TurnEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How it ended, in the system's words and in the program's own (`heard`)."""

    report: Report
    duration_ms: int
    output_bytes: int
    output_sha256: str
    output_offset: int = 0
    timed_out: bool = False
    output_error: str = ""
    """Why its output could not be kept, where it could not."""
    heard: Heard = Heard()


class Turn:
    def __init__(self, plan: TurnPlan, process: KeptProcess, streams: Streams, output: Output, heard: Listener) -> None:
        self._plan, self._process, self._streams, self._output, self._heard = plan, process, streams, output, heard
        self._is_ending = asyncio.Event()
        self._timed_out = False
        self.pid = process.pid
        """The keeper's: the root of the turn's process tree, there before the command and after it."""

    @classmethod
    def open(cls, plan: TurnPlan, *, run_id: str, path: Path, listener: Listener) -> "Turn":
        """Start the keeper, which waits; `run` starts the command. Raises OSError."""
        streams = Streams.open(tty=plan.tty, shown=plan.shown)
        try:
            process = _start(plan, streams, run_id)
        except BaseException:
            streams.close()
            raise
        finally:
            streams.close_writers()
        try:
            output = Output(path, plan.secrets, listener)
        except BaseException:
            streams.close()
            process.drop()
            raise
        return cls(plan, process, streams, output, listener)

    def send(self, order: Literal[b"S", b"C"]) -> None:
        """Stop the whole tree, or let it continue."""
        self._process.send(order)

    def end(self, *, at_once: bool = False) -> None:
        """TERM, the grace, KILL; `at_once` without the grace. Before `run` it means that nothing starts."""
        self._is_ending.set()
        self._process.send(b"K" if at_once else b"T")

    def resize(self) -> None:
        self._streams.resize(self._process)

    async def abandon(self) -> None:
        """End it without a word; nothing of it was recorded."""
        self.end()
        self._streams.close()
        await self._process.wait_report()
        self._output.close()

    async def run(self, observe: Observe) -> TurnEnd:
        """Carry it to its end; `observe` is handed its events, in order, in batches."""
        try:
            return await self._run(observe)
        finally:
            # Also where its events could not be recorded.
            self._output.close()

    async def _run(self, observe: Observe) -> TurnEnd:
        began = time.monotonic()
        reporting = asyncio.create_task(self._process.wait_report())
        try:
            # An end asked for before the start is an order that the keeper reads first; then nothing starts.
            self._process.go()
            pumping = self._streams.pump(self._output)
            async with asyncio.TaskGroup() as group:
                # Told to end, never cancelled: what it has taken from the buffer is nowhere else.
                ended = asyncio.Event()
                group.create_task(self._observe(observe, ended))
                report = await self._wait_report(reporting)
                await drained(pumping, None if self._is_natural(report) else DRAIN_SECONDS)
                ended.set()
        except BaseException:
            # Whatever went wrong with the record, nothing of the run stays behind.
            self.end()
            await asyncio.shield(reporting)
            raise
        duration_ms = int((time.monotonic() - began) * 1000)
        self._output.finish()
        while self._output.has_telemetry:
            await observe(self._output.take(sampling=False), self._output)
        await observe(self._output.close(), self._output)
        return TurnEnd(
            report=report,
            duration_ms=duration_ms,
            output_bytes=self._output.file.size_bytes,
            output_sha256=self._output.file.sha256,
            output_offset=self._output.file.began_at,
            output_error=self._output.file.error,
            timed_out=self._timed_out,
            heard=self._heard.heard(),
        )

    async def _wait_report(self, reporting: "asyncio.Task[Report]") -> Report:
        done, _ = await asyncio.wait([reporting], timeout=self._plan.timeout_seconds)
        if not done:
            self._timed_out = True
            self.end()
        return await reporting

    async def _observe(self, observe: Observe, ended: asyncio.Event) -> None:
        sampled_at = 0.0
        while not ended.is_set():
            if not self._output.has_telemetry:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), FLUSH_SECONDS)
            # Reports come as fast as the log takes them; samples of output keep their pace beside them.
            is_due = time.monotonic() - sampled_at >= FLUSH_SECONDS
            sampled_at = time.monotonic() if is_due else sampled_at
            await observe(self._output.take(sampling=is_due), self._output)
            if self._output.file.error and not self._is_ending.is_set():
                # What nobody can prove afterwards is not gone on with.
                self.end()

    def _is_natural(self, report: Report) -> bool:
        return not self._is_ending.is_set() and not (report.receipt and report.receipt.survivors)


def _start(plan: TurnPlan, streams: Streams, run_id: str) -> KeptProcess:
    # A file, not a pipe: a program that reads its prompt late, or never, holds up nobody.
    with tempfile.TemporaryFile() if plan.stdin else open(os.devnull, "rb") as given:
        if plan.stdin:
            given.write(plan.stdin)
            given.seek(0)
        inherits = plan.stdin is None
        return KeptProcess.prepare(
            plan.argv,
            run_id=run_id,
            mark=plan.mark or run_id,
            grace_seconds=plan.grace_seconds,
            stdin=None if inherits else given.fileno(),
            stdout=streams.stdout,
            stderr=streams.stderr,
            environment=plan.environment,
            cwd=plan.cwd,
            # A session of its own would take the terminal away from a command that reads from it.
            session=not (inherits and terminal.is_terminal(0)),
        )
