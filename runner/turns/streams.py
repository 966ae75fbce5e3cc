"""The command's output descriptors: two pipes, or one pseudo terminal where our own output is a terminal."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Sequence

from runner.turns import terminal
from runner.turns.output import Output
from runner.turns.process import KeptProcess


class Streams:
    def __init__(
        self, sources: list[tuple[int, int | None, str]], stdout: int, stderr: int, *, is_terminal: bool
    ) -> None:
        self._sources, self.stdout, self.stderr, self.is_terminal = sources, stdout, stderr, is_terminal
        self._are_pumped = False

    @classmethod
    def open(cls, *, tty: bool, shown: bool) -> "Streams":
        """`shown`: what the command writes goes on to our own output."""
        if tty and shown:
            master, slave = terminal.open_terminal(1)
            return cls([(master, 1, "terminal")], slave, slave, is_terminal=True)
        stdout_read, stdout_write = os.pipe()
        stderr_read, stderr_write = os.pipe()
        sources = [(stdout_read, 1 if shown else None, "stdout"), (stderr_read, 2 if shown else None, "stderr")]
        return cls(sources, stdout_write, stderr_write, is_terminal=False)

    def close_writers(self) -> None:
        """Only the command's tree may hold the writing ends, or the end of its output is never seen."""
        for number in {self.stdout, self.stderr}:
            os.close(number)

    def close(self) -> None:
        """Let go of what nobody pumps."""
        if not self._are_pumped:
            for source, _, _ in self._sources:
                os.close(source)
        self._are_pumped = True

    def pump(self, output: Output) -> list[asyncio.Future[None]]:
        """Carry each stream in a thread of its own; a future for the end of each."""
        self._are_pumped = True
        return [_in_thread(output, *source) for source in self._sources]

    def resize(self, process: KeptProcess) -> None:
        if self.is_terminal:
            terminal.copy_size(1, self._sources[0][0])
            # The pseudo terminal is nobody's controlling one, so the kernel tells nobody.
            process.send(b"W")


async def drained(pumping: Sequence[asyncio.Future[None]], seconds: float | None) -> None:
    """Wait for the end of all streams; with a bound where a survivor, or a stuck reader of ours, may hold them."""
    done, _ = await asyncio.wait(pumping, timeout=seconds)
    for future in done:
        future.result()


def _in_thread(output: Output, source: int, sink: int | None, name: str) -> "asyncio.Future[None]":
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def tell(error: Exception | None) -> None:
        if ended.done():
            return
        if error is None:
            ended.set_result(None)
        else:
            ended.set_exception(error)

    def work() -> None:
        failed: Exception | None = None
        try:
            output.pump(source, sink, name)
        except Exception as error:  # The event loop raises it.
            failed = error
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(tell, failed)

    # A daemon: a stream that a survivor holds open must not hold us.
    threading.Thread(target=work, name=f"runfold-{name}", daemon=True).start()
    return ended
