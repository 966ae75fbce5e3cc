"""Programs of the tests as processes of their own."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"


async def output_of(program: str, *args: str | Path) -> str:
    """What a program of ours prints until it ends well."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, PROGRAMS / program, *args, stdout=asyncio.subprocess.PIPE, cwd=PROGRAMS.parents[1]
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


def stop(process: "subprocess.Popen[bytes]") -> None:
    """It stands still when this returns: a signal alone stops its threads one after the other, in a while."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
