"""Runs one command in the foreground as a recorded run, and is transparent: same bytes, same input, same exit code."""

import asyncio
import contextlib
import errno
import os
import signal
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping, Sequence
from pathlib import Path

import msgspec

from eventstore.contract import EventLog
from eventstore.leases import LEASE_SECONDS, Lease, Leases
from eventstore.ledger import Executed, Ledger
from runfold.commands import (
    Cancelled,
    Command,
    Complete,
    EndTurn,
    Fail,
    Observe,
    Paused,
    StartHere,
    StartTurn,
    Stop,
)
from runfold.envelope import run_id_of
from runfold.errors import AlreadyFinal, BadRequest, Fenced, NotAllowed, Refused, TooLarge, Unavailable
from runfold.events import (
    Event,
    Failure,
    LimitExceeded,
    RunQueued,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
    Unknown,
    event_type,
)
from runfold.redact import redact, secrets_of
from runfold.state import Run
from runner import machine, terminal
from runner.output import Output
from runner.process import KeptProcess, Report
from runner.streams import Streams, drained

FLUSH_SECONDS = 0.1  # At most ten samples of output a second.
RENEW_SECONDS = LEASE_SECONDS / 3
GRACE_SECONDS = 5.0
DRAIN_SECONDS = 2.0
UNAVAILABLE_TRIES = 10
CLAIM = 1  # The first and only claim of a run that starts with its command.
EXIT_LIMIT, EXIT_NOT_RUNNABLE, EXIT_NOT_FOUND = 75, 126, 127


async def run_here(
    ledger: Ledger,
    log: EventLog,
    *,
    data: Path,
    argv: Sequence[str],
    title: str | None = None,
    labels: Mapping[str, str] | None = None,
    tenant: str = "default",
    actor: str = "system",
    quiet: bool = False,
    tty: bool = True,
    grace_seconds: float = GRACE_SECONDS,
    start: Callable[[str], None] | None = None,
) -> int:
    """Run the command to its end and give the exit code; `start` is told the run's id once it is recorded."""
    run_id = run_id_of(_new_uuid7())
    secrets = secrets_of(os.environ)
    queued = RunQueued(
        driver="here",
        title=redact(title if title is not None else " ".join(argv), secrets),
        labels=dict(labels or {}),
        command=tuple(redact(word, secrets) for word in argv),
        cwd=str(Path.cwd()),
        grace_seconds=grace_seconds,
    )
    driver = _Driver(ledger, log, run_id, tenant=tenant, actor=actor, grace_seconds=grace_seconds)
    is_told = not quiet and terminal.is_terminal(2)
    leases = await asyncio.to_thread(Leases.open, data)
    try:
        # The lease comes first: a claim is never without one.
        await asyncio.to_thread(leases.take, _lease(run_id, tenant, driver.worker))
        output = Output(data / "runs" / run_id / "output.log", secrets)
        async with driver.renewing(leases):
            code = await driver.drive(queued, output, argv, tty=tty, start=start, is_told=is_told)
        if is_told:
            run = await ledger.state(run_id)
            _tell(f"{run_id} {run.status} {run.reason_code}")
        return code
    finally:
        await asyncio.shield(asyncio.to_thread(leases.release, run_id, CLAIM))
        leases.close()


class _Driver:
    """One run, one turn: what is asked of it, how it ended, and how that is written down."""

    def __init__(
        self, ledger: Ledger, log: EventLog, run_id: str, *, tenant: str, actor: str, grace_seconds: float
    ) -> None:
        self.ledger, self.log, self.run_id, self.tenant, self.actor = ledger, log, run_id, tenant, actor
        self.grace_seconds = grace_seconds
        self.worker = f"{machine.host()}:{os.getpid()}"
        self.interrupt: signal.Signals | None = None
        self.limit: LimitExceeded | None = None
        self.is_fenced = False
        self.process: KeptProcess | None = None
        self.wind_down = asyncio.Event()

    async def execute(self, command: Command, *, actor: str | None = None) -> Executed:
        command_id = str(uuid.uuid4())
        for attempt in range(UNAVAILABLE_TRIES):
            try:
                return await self.ledger.execute(
                    self.run_id,
                    command,
                    command_id=command_id,
                    actor=actor or f"worker:{self.worker}",
                    tenant=self.tenant,
                )
            except Unavailable as error:
                if attempt + 1 == UNAVAILABLE_TRIES:
                    raise
                await asyncio.sleep(error.retry_after_seconds)
        raise AssertionError("unreachable")

    @contextlib.asynccontextmanager
    async def renewing(self, leases: Leases) -> AsyncGenerator[None, None]:
        async def renew() -> None:
            while True:
                await asyncio.sleep(RENEW_SECONDS)
                await asyncio.to_thread(leases.renew, self.run_id, CLAIM)

        async with _background(renew()):
            yield

    async def drive(
        self,
        queued: RunQueued,
        output: Output,
        argv: Sequence[str],
        *,
        tty: bool,
        start: Callable[[str], None] | None,
        is_told: bool,
    ) -> int:
        modes = terminal.saved_modes()
        streams = Streams.open(tty=tty and terminal.is_terminal(1))
        self.process = streams.start(argv, self.run_id, self.grace_seconds)
        reporting = asyncio.create_task(self.process.wait_report())
        with self._signals(streams):
            try:
                opened = await self._open(queued)
                if start is not None:
                    start(self.run_id)
                if is_told:
                    _tell(f"{self.run_id} running; `runfold cancel {self.run_id}` ends it")
                began = time.monotonic()
                # An end asked for before the start is an order that the keeper reads first; then nothing starts.
                self.process.go()
                pumping = streams.pump(output)
                async with _background(self._follow(opened)), asyncio.TaskGroup() as group:
                    # Told to end, never cancelled: what it has taken from the buffer is nowhere else.
                    ended = asyncio.Event()
                    group.create_task(self._observe(output, ended))
                    report = await reporting
                    await drained(pumping, None if self._is_natural(report) else DRAIN_SECONDS)
                    ended.set()
            except BaseException:
                # Whatever went wrong with the record, nothing of the run stays behind.
                self.end()
                await asyncio.shield(reporting)
                raise
            finally:
                terminal.restore_modes(modes)
            duration_ms = int((time.monotonic() - began) * 1000)
            while output.has_telemetry and await self._flush(output, sampling=False):
                pass
            await self._report_events(output.close(), output)
            return await self._close(report, output, duration_ms, argv)

    def end(self, order: bytes = b"T") -> None:
        self.wind_down.set()
        if self.process is not None:
            self.process.send(order)

    async def _open(self, queued: RunQueued) -> int:
        """Record the run and its turn; the position to follow it from."""
        pid = self.process.pid if self.process is not None else None
        started = StartHere(
            queued=queued, worker=self.worker, host=machine.host(), pid=os.getpid(), boot_id=machine.boot_id() or None
        )
        opened = await self.execute(started, actor=self.actor)
        # The keeper's number: it is the root of the turn's process tree.
        await self.execute(StartTurn(claim=CLAIM, started=TurnStarted(turn=1, pid=pid)))
        return opened.events[-1].position

    async def _follow(self, position: int) -> None:
        """Act on what others ask of the run: its own stream is the only control channel."""
        async for page in self.log.tail(after=position, stream=self.run_id):
            for recorded in page.events:
                await self._obey(recorded.type, recorded.event())

    async def _obey(self, type_name: str, event: Event | Unknown | None) -> None:
        if type_name == "cancel_requested":
            self.end()
        elif isinstance(event, LimitExceeded) and event.on_exceed != "warn":
            self.limit = event
            self.end()
        elif type_name in ("claim_lost", "run_failed", "run_cancelled", "run_completed", "run_stopped"):
            self.is_fenced = True
            self.end()
        elif type_name == "pause_requested" and self.process is not None:
            # A plain command is one turn, so its turn's end would be no pause at all.
            self.process.send(b"S")
            with contextlib.suppress(Refused):
                await self.execute(Paused(claim=CLAIM, reason="the command is stopped"))
        elif type_name == "run_resumed" and self.process is not None:
            self.process.send(b"C")

    async def _observe(self, output: Output, ended: asyncio.Event) -> None:
        sampled_at = 0.0
        while not ended.is_set():
            if not output.has_telemetry:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), FLUSH_SECONDS)
            # Reports come as fast as the log takes them; samples of output keep their pace beside them.
            is_due = time.monotonic() - sampled_at >= FLUSH_SECONDS
            sampled_at = time.monotonic() if is_due else sampled_at
            await self._flush(output, sampling=is_due)

    async def _flush(self, output: Output, *, sampling: bool) -> bool:
        events = output.take(sampling=sampling)
        if not events or self.is_fenced:
            return False
        await self._report_events(events, output)
        return True

    async def _report_events(self, events: Sequence[Event | Unknown], output: Output) -> None:
        if not events or self.is_fenced:
            return
        try:
            await self.execute(Observe(events=tuple(events), claim=CLAIM))
        except (Fenced, AlreadyFinal):
            self.is_fenced = True
            self.end()
        except (BadRequest, Refused, TooLarge) as error:
            if len(events) == 1:
                if event_type(events[0]) != "telemetry_rejected":
                    output.reject(error.message, event_type(events[0]))
                return
            # One bad report must not take its neighbours with it.
            for event in events:
                await self._report_events((event,), output)

    async def _close(self, report: Report, output: Output, duration_ms: int, argv: Sequence[str]) -> int:
        """Write the end down as the run's own state wants it; another's request may come first, so look again."""
        for _ in range(5):
            run = await self.ledger.state(self.run_id)
            if self.is_fenced or run.is_resting:
                return _exit_code(report, run, self)
            try:
                if run.turn_open:
                    await self.execute(EndTurn(claim=CLAIM, ended=self._ended(report, output, duration_ms, run)))
                    run = await self.ledger.state(self.run_id)
                if not run.is_resting:
                    run = (await self.execute(self._verdict(report, run, argv))).run
                return _exit_code(report, run, self)
            except Fenced:
                self.is_fenced = True
            except (NotAllowed, AlreadyFinal):
                continue
        return _exit_code(report, await self.ledger.state(self.run_id), self)

    def _is_cut_short(self, run: Run) -> bool:
        return run.status in ("cancelling", "stopping") or self.interrupt is not None

    def _ended(
        self, report: Report, output: Output, duration_ms: int, run: Run
    ) -> TurnCompleted | TurnFailed | TurnCancelled:
        size, digest = output.size_bytes, output.sha256
        if self._is_cut_short(run):
            return TurnCancelled(
                turn=1,
                exit_code=report.exit_code,
                signal=report.signal_name,
                duration_ms=duration_ms,
                output_bytes=size,
                output_sha256=digest,
                receipt=report.receipt,
            )
        completed = TurnCompleted(
            turn=1,
            exit_code=report.exit_code,
            signal=report.signal_name,
            duration_ms=duration_ms,
            output_bytes=size,
            output_sha256=digest,
        )
        if report.exit_code == 0:
            return completed
        return TurnFailed(**msgspec.structs.asdict(completed), error=_failure(report, ()))

    def _verdict(self, report: Report, run: Run, argv: Sequence[str]) -> Command:
        if run.status == "cancelling":
            return Cancelled(claim=CLAIM, receipt=report.receipt)
        if run.status == "stopping":
            # The run knows its limit: whatever ends it now ends it as stopped.
            return Complete(claim=CLAIM, reason_code="EXIT_ZERO", exit_code=report.exit_code)
        if self.limit is not None:
            # A limit that asks leaves the run paused, for a person to say whether it goes on.
            return Paused(claim=CLAIM, reason=self.limit.reason or self.limit.limit)
        if self.interrupt is not None:
            return Stop(claim=CLAIM, reason_code="USER_INTERRUPT", message=f"interrupted by {self.interrupt.name}")
        if report.exit_code == 0:
            return Complete(claim=CLAIM, reason_code="EXIT_ZERO", exit_code=0)
        error = _failure(report, argv)
        return Fail(claim=CLAIM, reason_code=error.code, error=error)

    def _is_natural(self, report: Report) -> bool:
        return not self.wind_down.is_set() and not (report.receipt and report.receipt.survivors)

    @contextlib.contextmanager
    def _signals(self, streams: Streams) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()

        def interrupted(number: signal.Signals) -> None:
            # Whoever asks twice does not want to wait for the grace.
            self.end(b"T" if self.interrupt is None else b"K")
            self.interrupt = number

        ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        held = [number for number in ending if signal.getsignal(number) != signal.SIG_IGN]
        for number in held:
            loop.add_signal_handler(number, interrupted, number)
        if self.process is not None:
            loop.add_signal_handler(signal.SIGWINCH, streams.resize, self.process)
        try:
            yield
        finally:
            for number in (*held, signal.SIGWINCH):
                loop.remove_signal_handler(number)


def _failure(report: Report, argv: Sequence[str]) -> Failure:
    name = f"`{argv[0]}`" if argv else "the command"
    if report.errno is not None:
        reason = os.strerror(report.errno).lower()
        return Failure(code="SYS_LAUNCH_FAILED", message=f"{name} could not be started: {reason}")
    if report.signal_name is not None:
        code = "KILLED" if report.signal_name in ("SIGKILL", "SIGTERM") else "CRASHED"
        return Failure(type="agent", code=code, message=f"{name} ended by {report.signal_name}")
    return Failure(type="agent", code="EXIT_NONZERO", message=f"{name} exited with {report.exit_code}")


def _exit_code(report: Report, run: Run, driver: _Driver) -> int:
    if run.status in ("cancelled", "cancelling"):
        return 128 + signal.SIGTERM
    if driver.limit is not None:
        return EXIT_LIMIT
    if driver.interrupt is not None:
        return 128 + driver.interrupt
    if report.errno is not None:
        return EXIT_NOT_FOUND if report.errno == errno.ENOENT else EXIT_NOT_RUNNABLE
    if report.signal is not None:
        return 128 + report.signal
    return report.exit_code or (0 if run.status == "completed" else 1)


def _lease(run_id: str, tenant: str, worker: str) -> Lease:
    return Lease(
        run_id=run_id,
        tenant=tenant,
        claim=CLAIM,
        owner=worker,
        host=machine.host(),
        boot_id=machine.boot_id(),
        pid=os.getpid(),
        pid_started_at=machine.process_started_at(os.getpid()),
    )


def _tell(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"runfold: {text}\n".encode())


def _new_uuid7() -> uuid.UUID:
    stamp = (time.time_ns() // 1_000_000).to_bytes(6, "big")
    content = bytearray(stamp + os.urandom(10))
    content[6] = content[6] & 0x0F | 0x70
    content[8] = content[8] & 0x3F | 0x80
    return uuid.UUID(bytes=bytes(content))


@contextlib.asynccontextmanager
async def _background(work: Coroutine[object, object, None]) -> AsyncGenerator[None, None]:
    """Run `work` beside the block and end it with the block; its failure ends the block."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        try:
            yield
        finally:
            task.cancel()
