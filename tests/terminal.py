"""The command line as a person meets it: real processes on a real data folder."""

import codecs
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def environment(data: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RUNFOLD_")}
    return {**kept, "RUNFOLD_DATA": str(data), "RUNFOLD_PORT": "0", **more}


def runfold(data: Path, *arguments: str, cwd: Path = ROOT, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; `more` is added to its environment."""
    return subprocess.run(
        [sys.executable, "-m", "runfold", *arguments],
        cwd=cwd,
        env=environment(data, PYTHONPATH=str(ROOT), **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def read(data: Path, *arguments: str, **more: str) -> Any:
    done = runfold(data, *arguments, "--json", cwd=ROOT, **more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def record(data: Path, program: str = "print('hello')") -> subprocess.CompletedProcess[str]:
    return runfold(data, "run", "--quiet", "--", sys.executable, "-c", program)


@contextmanager
def started(data: Path, *arguments: str, cwd: Path = ROOT, **more: str) -> Generator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "runfold", *arguments]
    with subprocess.Popen(
        command,
        cwd=cwd,
        env=environment(data, PYTHONPATH=str(ROOT), **more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)


def first_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def wait_for_word(server: "subprocess.Popen[str]", word: str) -> None:
    """Read what the server says of itself until it says that."""
    assert server.stderr is not None
    for line in server.stderr:
        if word in line:
            return
    raise AssertionError(f"the server ended without a word of `{word}`")


def ready(url: str) -> Any:
    with urllib.request.urlopen(f"{url}/readyz", timeout=30) as answer:
        return json.loads(answer.read())


class Screen:
    """A program on a terminal of its own; what it shows is read as it comes."""

    def __init__(self, command: list[str], environ: dict[str, str], cwd: Path = ROOT) -> None:
        self._master, slave = os.openpty()
        self.shown = ""
        # What is read may end in the middle of a character.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        try:
            self._process = subprocess.Popen(
                command, cwd=cwd, env=environ, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
            )
        finally:
            os.close(slave)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, text: str) -> None:
        """Read until the text is shown; an end without it is a failure."""
        while text not in self.shown:
            assert self._read(), f"`{text}` was not shown:\n{self.shown}"

    def end(self) -> int:
        """Read to the end and give the exit code."""
        while self._read():
            pass
        return self._process.wait(30)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(30)
        os.close(self._master)

    def _read(self) -> bool:
        try:
            content = os.read(self._master, 65536)
        except OSError:  # Linux says so where nobody holds the other side any more.
            return False
        self.shown += self._decoder.decode(content)
        return bool(content)
