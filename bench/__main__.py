"""Runs the benches, each in a process of its own, and writes what they measured into RESULTS.md.

`python -m bench [NAME…]`, all without a name; exit 1 where a figure misses its floor or a bench fails. Rows of benches
that did not run stay, and so does what is written below the table.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

import msgspec

from bench.scoreboard import Figure, number
from eventstore.sqlite3_module import sqlite3

# Those of one minute or less; `python -m bench.kill9` and `python -m bench.big_log` take longer and are run by hand.
BENCHES = (
    "append",
    "ledger",
    "post",
    "sse",
    "fanout",
    "fairness",
    "cli",
    "rebuild",
    "busy",
    "listing",
    "page",
    "growth",
    "steps",
    "domain",
    "control",
    "jetstream",
    "peers",
)
RESULTS = Path(__file__).with_name("RESULTS.md")
_HEAD = """# What was measured

Written by `make bench` (`python -m bench NAME` measures one anew). A ratio is of what stands beside it, measured in the
same run in rounds that alternate; it is the median of the rounds, with the least and the most of them. The load is that
of the machine with all that ran beside: above the number of its cores, times by the clock say little, and their ratios
not much more. The figures of `rebuild` are of process time, but for those of two processes.

"""
_COLUMNS = "| bench | work | measured | unit | ratio | of | spread | floor | | when and where |\n|" + "---|" * 10
_BELOW = "\n## "


def measured(name: str) -> list[Figure]:
    """Runs one bench in a process of its own, which prints its lines as they come."""
    with tempfile.NamedTemporaryFile() as file:
        process = subprocess.run([sys.executable, "-m", "bench", "--one", name, "--into", file.name])
        if process.returncode:
            raise SystemExit(f"bench `{name}` failed with {process.returncode}")
        return msgspec.json.decode(Path(file.name).read_bytes(), type=list[Figure])


def measure_one(name: str, into: Path) -> None:
    figures: list[Figure] = []
    for figure in import_module(f"bench.{name}").measure():
        print(figure.line, flush=True)
        figures.append(figure)
    into.write_bytes(msgspec.json.encode(figures))


def row(bench: str, figure: Figure) -> str:
    ratio = "" if figure.ratio is None else number(figure.ratio)
    spread = "" if figure.spread is None else f"{number(figure.spread[0])} – {number(figure.spread[1])}"
    cells = (
        bench, figure.work, number(figure.value), figure.unit, ratio, figure.beside, spread, figure.bound,
        figure.verdict, _where(),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _where() -> str:
    versions = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    machine = f"{os.cpu_count()} × {platform.machine()}, load {os.getloadavg()[0]:.0f}"
    return f"{time.strftime('%Y-%m-%d', time.gmtime())}, {machine}, {versions}"


def write(figures: dict[str, list[Figure]]) -> None:
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
    before, _, below = text.partition(_BELOW)
    kept: dict[str, list[str]] = {}
    for line in before.splitlines():
        if line.startswith("| "):
            kept.setdefault(line[2:].partition(" ")[0], []).append(line)
    kept |= {bench: [row(bench, figure) for figure in found] for bench, found in figures.items()}
    rows = [line for bench in BENCHES for line in kept.get(bench, [])]
    table = "\n".join([_COLUMNS, *rows])
    RESULTS.write_text(f"{_HEAD}{table}\n{_BELOW + below if below else ''}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], metavar="NAME")
    parser.add_argument("--one", choices=BENCHES, help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        measure_one(asked.one, asked.into)
        return 0
    figures: dict[str, list[Figure]] = {}
    for name in asked.names or BENCHES:
        started = time.monotonic()
        figures[name] = measured(name)
        print(f"-- {name}: {time.monotonic() - started:.0f} s", flush=True)
        write(figures)
    return 1 if any(figure.is_missed for found in figures.values() for figure in found) else 0


if __name__ == "__main__":
    sys.exit(main())
