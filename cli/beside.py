"""Commands that a server runs beside itself: they end with it, however it ends, as their input is a pipe of its own."""

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path

NOT_STARTED = 127  # As a shell says it.


async def run_beside(data: Path, *arguments: str) -> int:
    """Run `runfold` on a data folder in a process of its own: its exit status, or NOT_STARTED.

    Cancelled, it is ended.
    """
    environment = {name: value for name, value in os.environ.items() if name != "RUNFOLD_URL"}
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "runfold", *arguments,
            env={**environment, "RUNFOLD_DATA": str(data)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
    except OSError as error:
        # As where another version was installed in the place of this one. Only a server comes here.
        import structlog

        structlog.get_logger().warning("a command could not be started beside the server", error=str(error))
        return NOT_STARTED
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


def end_with_input() -> None:
    """End this process when its standard input ends: who asked for it is gone."""
    threading.Thread(target=_wait_for_end, daemon=True).start()


def _wait_for_end() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
