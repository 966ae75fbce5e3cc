"""The way to the installed tool: `runfold ingest` as a child, a request a line in, an answer a line out."""

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from runfold.client.requests import Answer, Request, Unreachable, decode_answer, encode_request

END_SECONDS = 10.0
ANSWER_BYTES_MAX = 4 * 1024 * 1024


def find_tool() -> str | None:
    """The tool beside this Python, else the one on the PATH."""
    beside = Path(sys.executable).parent / "runfold"
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("runfold")


class ToolWay:
    def __init__(self, tool: str, data: Path) -> None:
        """Raises Unreachable where it cannot be started."""
        # The tool works on the folder, whatever server is named here; a session of its own, so that Ctrl-C reaches
        # only the program, which has something to say about it.
        environment = {
            name: value for name, value in os.environ.items() if name not in ("RUNFOLD_URL", "RUNFOLD_TOKEN")
        }
        try:
            process = self._process = subprocess.Popen(
                [tool, "--data", str(data.absolute()), "ingest"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise Unreachable(f"`{tool}` cannot be started: {error}") from error
        if process.stdin is None or process.stdout is None:
            raise Unreachable(f"`{tool}` has no pipes")
        self._input, self._output = process.stdin, process.stdout

    def send(self, request: Request) -> Answer:
        """Raises Unreachable."""
        try:
            self._input.write(encode_request(request) + b"\n")
            self._input.flush()
            line = self._output.readline(ANSWER_BYTES_MAX)
            return decode_answer(line)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            self.close()
            raise Unreachable(f"`runfold ingest` does not answer: {error}") from error

    def close(self) -> None:
        """The end of its input is the end of the tool."""
        for pipe in (self._input, self._output):
            # It may be gone; what it has not answered is sent again another way.
            with suppress(OSError):
                pipe.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
