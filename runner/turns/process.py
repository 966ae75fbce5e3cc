"""The driver's side of a keeper: start it, let it go, tell it to end, read its report."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from runfold.events import Receipt
from runner.turns import keeper

_KEEPER = str(Path(keeper.__file__).resolve())
_CLOSED = -1


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """How the command ended; `errno` when it never started."""

    pid: int = 0
    exit_code: int | None = None
    signal: int | None = None
    errno: int | None = None
    receipt: Receipt | None = None

    @property
    def signal_name(self) -> str | None:
        if self.signal is None:
            return None
        try:
            return signal.Signals(self.signal).name
        except ValueError:
            return f"SIG{self.signal}"


class KeptProcess:
    def __init__(self, process: subprocess.Popen[bytes], control: int, status: int, run_id: str) -> None:
        self._process, self._control, self._status, self._run_id = process, control, status, run_id
        self.pid = process.pid

    @classmethod
    def prepare(
        cls,
        argv: Sequence[str],
        *,
        run_id: str,
        mark: str,
        grace_seconds: float,
        stdin: int | None,
        stdout: int,
        stderr: int,
        environment: Mapping[str, str],
        session: bool,
        cwd: str | None = None,
    ) -> "KeptProcess":
        """Start the keeper; it starts the command at `go`, so that what leads to it is recorded meanwhile."""
        control_read, control_write = os.pipe()
        status_read, status_write = os.pipe()
        words = [
            sys.executable,
            "-I",
            "-S",
            _KEEPER,
            str(control_read),
            str(status_write),
            str(grace_seconds),
            mark,
            run_id,
        ]
        try:
            process = subprocess.Popen(
                [*words, *(["--session"] if session else []), "--", *argv],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=environment,
                cwd=cwd,
                pass_fds=(control_read, status_write),
            )
        except BaseException:
            os.close(control_write)
            os.close(status_read)
            raise
        finally:
            os.close(control_read)
            os.close(status_write)
        return cls(process, control_write, status_read, mark)

    def go(self) -> None:
        self.send(b"G")

    def send(self, order: bytes) -> None:
        """`T` end, `K` end without grace, `S` stop, `C` continue, `W` the window has changed; later, nothing."""
        with contextlib.suppress(OSError):
            os.write(self._control, order)

    def drop(self) -> None:
        """Let the keeper end that was not told to start anything."""
        os.close(self._status)
        self._close_control()
        self._process.wait()

    async def wait_report(self) -> Report:
        try:
            text = await _read_whole(self._status)
            # The keeper ends right after its report; waiting here leaves no zombie.
            await asyncio.to_thread(self._process.wait)
        except BaseException:
            # Nobody waits any more: it ends what it holds, and then itself.
            self._close_control()
            threading.Thread(target=self._process.wait, name="runfold-keeper", daemon=True).start()
            raise
        self._close_control()
        if text:
            return msgspec.json.decode(text, type=Report)
        # The keeper itself was killed: what carries the run's marker has nobody else to end it.
        receipt = await asyncio.to_thread(end_leftovers, self._run_id)
        return Report(signal=int(signal.SIGKILL), receipt=receipt)

    def _close_control(self) -> None:
        # Its number is given to the next file that is opened, and an order may still come.
        control, self._control = self._control, _CLOSED
        os.close(control)


class LivingKeeper(msgspec.Struct, frozen=True, kw_only=True):
    pid: int
    ends_within_seconds: float
    """How long it takes from the loss of its driver until nothing of its turn is left."""


def keepers_of(run_id: str) -> list[LivingKeeper]:
    """The keepers on this machine that hold a turn of the run, or still end one; none where there is no /proc."""
    found: list[LivingKeeper] = []
    for pid, (_, state) in keeper.processes().items():
        if state in "ZX":
            continue
        try:
            before = Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0--\0")[0]
        except OSError:
            continue
        # As `prepare` writes them: -I -S keeper.py CONTROL STATUS GRACE MARK RUN_ID.
        match before.decode(errors="replace").split("\0")[1:]:
            case ["-I", "-S", path, _, _, grace, _, of, *_] if of == run_id and Path(path).name == "keeper.py":
                found.append(LivingKeeper(pid=pid, ends_within_seconds=float(grace) + keeper.KILL_WAIT_SECONDS))
            case _:
                pass
    return found


def end_keepers(run_id: str) -> None:
    """End at once what the run's keepers hold, and then them: for those that are overdue."""
    for it in keepers_of(run_id):
        ending = keeper.Ending(it.pid, run_id, 0.0)
        while not ending.step():
            time.sleep(keeper.POLL_SECONDS)
        keeper.send({it.pid}, signal.SIGKILL)


def end_leftovers(run_id: str) -> Receipt:
    """End at once whatever carries the run's marker; blocks for at most the time that a kill may take."""
    ending = keeper.Ending(None, run_id, 0.0)
    while not ending.step():
        time.sleep(keeper.POLL_SECONDS)
    return msgspec.json.decode(ending.receipt(), type=Receipt)


async def _read_whole(source: int) -> bytes:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(source, "rb", buffering=0)
    )
    try:
        return await reader.read()
    finally:
        transport.close()
