"""A log as a runfold made it that knew format 1."""

from contextlib import closing
from pathlib import Path

from eventstore.sqlite3_module import sqlite3
from eventstore.whole_rows import WHOLE_COLUMNS

BEFORE = (Path(__file__).parent / "golden" / "format_1.sql").read_text()
KEPT = (WHOLE_COLUMNS + " FROM events", "* FROM head", "* FROM heads", "* FROM anchors")


def bring_back(path: Path) -> None:
    """Make the log in a file one of format 1, with all that it holds; nobody has it open."""
    before = path.with_name("before.db")
    with closing(sqlite3.connect(before, isolation_level=None)) as file:
        file.executescript("PRAGMA journal_mode = WAL;" + BEFORE)
        file.execute("ATTACH DATABASE ? AS new", (str(path),))
        for what in KEPT:
            columns, _, table = what.partition(" FROM ")
            names = "" if columns == "*" else f"({columns})"
            file.execute(f"INSERT INTO main.{table} {names} SELECT {columns} FROM new.{table}")
    before.replace(path)


def rows(path: Path) -> list[list[tuple[object, ...]]]:
    with closing(sqlite3.connect(path)) as file:
        return [sorted(file.execute(f"SELECT {what}").fetchall()) for what in KEPT]
