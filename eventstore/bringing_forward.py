"""A log of the format before this one becomes one of this format: in place, in one transaction, with all it holds.

In format 1 a run's events were found by an index of runs and versions, see `blocks.py`. The table of events is made
anew, as the schema has it; whoever still has the file open goes on with that.
"""

from eventstore.damage import UNOPENED_HINT, damage_of, is_damage, is_lacking
from eventstore.sqlite3_module import sqlite3
from eventstore.whole_rows import WHOLE_COLUMNS

OLD_VERSION = 1
_MADE_ANEW = "SELECT type, sql FROM sqlite_schema WHERE tbl_name IN ('events', 'run_blocks') AND sql IS NOT NULL"
_IN_THE_WAY = "SELECT type, name FROM sqlite_schema WHERE tbl_name = 'events' AND type <> 'table' AND sql IS NOT NULL"


def is_old(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("PRAGMA user_version").fetchone()[0] == OLD_VERSION)


def bring_forward(connection: sqlite3.Connection, schema: str) -> None:
    """Bring a log of OLD_VERSION forward to `schema`, under the lock of its folder.

    A gigabyte takes a quarter of a minute, and twice as much room again until the journal is emptied; what the file
    grows by, later events fill. Raises sqlite3.Error, or Damaged where the old file is: nothing was changed.
    """
    wanted = sqlite3.connect(":memory:")
    try:
        wanted.executescript(schema)
        version = wanted.execute("PRAGMA user_version").fetchone()[0]
        made = wanted.execute(_MADE_ANEW).fetchall()
    finally:
        wanted.close()
    # The old table is overwritten, so that of what is cleaned or trimmed later no second copy stands in a free page.
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("BEGIN IMMEDIATE")
    try:
        for kind, name in connection.execute(_IN_THE_WAY).fetchall():
            connection.execute('DROP {} "{}"'.format(kind, name.replace('"', '""')))
        connection.execute("ALTER TABLE events RENAME TO events_before")
        _make(connection, made, "table")
        connection.execute(
            f"INSERT INTO events ({WHOLE_COLUMNS}) SELECT {WHOLE_COLUMNS} FROM events_before ORDER BY position"  # noqa: S608
        )
        connection.execute("INSERT INTO run_blocks SELECT DISTINCT run_id, block FROM events")
        # First emptied: what is dropped with its rows SQLite keeps a copy of, and not always on the disk.
        connection.execute("DELETE FROM events_before")
        connection.execute("DROP TABLE events_before")
        # Only now, for one that is made of many rows at once takes less than one that grows with them.
        _make(connection, made, "index")
        _make(connection, made, "trigger")
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("COMMIT")
    except BaseException as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if isinstance(error, sqlite3.DatabaseError) and (
            isinstance(error, sqlite3.IntegrityError) or is_damage(error) or is_lacking(error)
        ):
            raise damage_of(error, hint=UNOPENED_HINT) from error
        raise
    # All of the log has been through the journal.
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _make(connection: sqlite3.Connection, made: list[tuple[str, str]], kind: str) -> None:
    for sql in [sql for found, sql in made if found == kind]:
        connection.execute(sql)
