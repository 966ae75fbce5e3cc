"""How things look on a terminal: colour only there, every foreign text made harmless, durations and money in words."""

import os
import sys
import time
from collections.abc import Sequence

import click

from runfold.envelope import time_us
from runfold.snapshot import Snapshot
from runfold.state import RESTING

STATUS_COLOURS = {
    "completed": "green",
    "failed": "red",
    "stopped": "red",
    "cancelled": "red",
    "queued": "cyan",
}
ID_CHARACTERS_MIN = 12
USUAL_COLUMNS = 80


def is_terminal() -> bool:
    # Python has no stdout where it was closed.
    return bool(sys.stdout) and sys.stdout.isatty()


def edge() -> int:
    """The columns of the terminal; one that does not tell its size is taken to be as wide as most."""
    return os.get_terminal_size(sys.stdout.fileno()).columns or USUAL_COLUMNS


def is_talking() -> bool:
    """Whether a person sees what goes to stderr as it comes."""
    return sys.stderr.isatty()


def colour(text: str, name: str | None, *, bold: bool = False) -> str:
    if not is_terminal() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return click.style(text, fg=name, bold=bold)


def status_colour(status: str) -> str:
    return STATUS_COLOURS.get(status, "yellow")


def talk(text: str) -> None:
    """Say something to the person, beside the data."""
    click.echo(text, err=True)


def next_command(text: str) -> None:
    talk(f"next: {text}")


def plain(text: str, characters_max: int = 200) -> str:
    """One harmless line: control characters, which could drive the terminal, become spaces."""
    line = "".join(character if character.isprintable() else " " for character in text[: characters_max * 2]).strip()
    return line if len(line) <= characters_max else line[: characters_max - 1] + "…"


def duration(milliseconds: float | None) -> str:
    """`4m 32s`, as people say it."""
    if milliseconds is None:
        return "-"
    if milliseconds < 10_000:
        return f"{max(milliseconds, 0) / 1000:.1f}s"
    seconds = int(milliseconds // 1000)
    days, hours, minutes = seconds // 86_400, seconds // 3600 % 24, seconds // 60 % 60
    parts = [(days, "d"), (hours, "h"), (minutes, "m"), (seconds % 60, "s")]
    while not parts[0][0] and len(parts) > 1:
        parts.pop(0)
    return " ".join(f"{number}{unit}" for number, unit in parts[:2])


def about(milliseconds: float) -> str:
    """`7m`: an estimate, no finer than it is."""
    minutes = round(milliseconds / 60_000)
    if minutes < 1:
        return f"{max(round(milliseconds / 1000), 1)}s"
    return f"{minutes}m" if minutes < 60 else f"{minutes // 60}h {minutes % 60}m"


def elapsed_ms(snapshot: Snapshot) -> float | None:
    """What the run took, or has taken so far."""
    if snapshot.status in RESTING:
        return snapshot.duration_ms
    started = snapshot.started_at or snapshot.created_at
    return None if not started else time.time() * 1000 - time_us(started) / 1000


def cost(dollars: float | None) -> str:
    return "-" if dollars is None else f"${dollars:.2f}" if dollars >= 0.01 or dollars == 0 else f"${dollars:.4f}"


def short_ids(run_ids: Sequence[str]) -> dict[str, str]:
    """Each id cut to the shortest common length at which they all differ."""
    for length in range(ID_CHARACTERS_MIN, 29):
        cut = {run_id: run_id[:length] for run_id in run_ids}
        if len(set(cut.values())) == len(cut):
            return cut
    return {run_id: run_id for run_id in run_ids}


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, colour_column: int | None = None) -> None:
    """Columns as wide as their widest cell; the last one is free, and cut at the terminal's edge."""
    widths = [max(len(row[index]) for row in (header, *rows)) for index in range(len(header))]
    columns = edge() if is_terminal() else 0
    click.echo("  ".join(cell.ljust(width) for cell, width in zip(header, widths, strict=True)).rstrip())
    for row in rows:
        room = columns - sum(widths[:-1]) - 2 * (len(row) - 1)
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        cells[-1] = row[-1] if not columns else row[-1][: max(room, 8)]
        if colour_column is not None:
            cells[colour_column] = colour(cells[colour_column], status_colour(row[colour_column].partition(" ")[0]))
        click.echo("  ".join(cells).rstrip())
