"""`runfold logs RUN`: what the run's command wrote, as it was stored."""

import sys
import time
from pathlib import Path
from typing import BinaryIO

import click

from cli.folder import POLL_SECONDS, FolderRuns, need_folder, open_folder
from cli.reading import run_argument, settings_of
from cli.runs import find_run
from runfold.errors import NotFound

CHUNK_BYTES = 64 * 1024


@click.command()
@run_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until the run rests.")
@click.option("--tail", type=click.IntRange(min=0), help="Only the last so many lines.")
@click.pass_context
def logs(context: click.Context, *, run_text: str, follow: bool, tail: int | None) -> None:
    """Print what a run's command wrote, both streams in order."""
    settings = settings_of(context)
    need_folder(settings, "logs")
    with open_folder(settings) as runs:
        run_id = find_run(runs, run_text).id
        path = settings.data / "runs" / run_id / "output.log"
        while follow and not path.exists() and not runs.rests(run_id):
            time.sleep(POLL_SECONDS)
        if not path.exists():
            raise NotFound(
                f"run `{run_id}` has no output",
                hint=f"`runfold events {run_id}` shows what was recorded",
                run_id=run_id,
            )
        _print(path, runs, run_id, follow=follow, tail=tail)


def _print(path: Path, runs: FolderRuns, run_id: str, *, follow: bool, tail: int | None) -> None:
    with path.open("rb") as file:
        if tail is not None:
            file.seek(_offset_of_last(file, tail))
        while True:
            # Asked before the copy, so that what was written up to the end is printed too.
            last = not follow or runs.rests(run_id)
            while chunk := file.read(CHUNK_BYTES):
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            if last:
                return
            time.sleep(POLL_SECONDS)


def _offset_of_last(file: BinaryIO, lines: int) -> int:
    """Where the last so many lines begin, read backwards."""
    offset = file.seek(0, 2)
    found = -1 if lines else 0
    if not lines:
        return offset
    end = offset
    while offset > 0:
        start = max(offset - CHUNK_BYTES, 0)
        file.seek(start)
        block = file.read(offset - start)
        for index in range(len(block) - 1, -1, -1):
            if block[index] == 0x0A:
                # A newline at the very end closes the last line; it begins none.
                found += 1 if start + index != end - 1 else 0
                if found == lines - 1:
                    return start + index + 1
        offset = start
    return 0
