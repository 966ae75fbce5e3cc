"""Reading the log for folds: facts, which are made of the columns that a fold may look at, and checked as pages are."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import starmap

from eventstore.contract import PAGE_EVENTS
from eventstore.damage import telling_damage, told_as_damage
from eventstore.moment import at_one_moment
from eventstore.reading import check_page, checking_of, end_of, name_undecoded, rows_after
from eventstore.sqlite3_module import sqlite3
from runfold.envelope import Fact

FACTS_TOGETHER = 64  # So few that the processor still has them at hand when they are folded: a fifth of the time.

_COLUMNS = ", ".join(Fact.__struct_fields__)
_COLUMNS_WITHOUT_CAUSES = _COLUMNS.replace("cause, command", "NULL AS cause, NULL AS command")


@told_as_damage
@at_one_moment
def read_facts(
    connection: sqlite3.Connection,
    *,
    after: int = 0,
    stream: str | None = None,
    upto: int | None = None,
    limit: int = PAGE_EVENTS,
    kept: bool = False,
) -> tuple[list[Fact], int]:
    """As `read_page`, for folds: the next facts, and how far was looked. Raises Trimmed, Diverged, Damaged."""
    end = end_of(connection, after=after, stream=stream, upto=upto, kept=kept)
    try:
        rows = rows_after(connection, after=after, stream=stream, end=end, limit=limit, columns=_COLUMNS).fetchall()
    except sqlite3.DatabaseError as error:
        name_undecoded(connection, error, after=after, stream=stream, end=end, limit=limit)
        raise
    facts = list(starmap(Fact, rows))
    scanned_to = facts[-1].position if len(facts) == limit else end
    if checking_of(connection) is not None:
        positions = [fact.position for fact in facts]
        last_version = facts[-1].version if facts else None
        check_page(connection, positions, last_version, after=after, stream=stream, upto=scanned_to)
    return facts, scanned_to


def some_facts(
    connection: sqlite3.Connection,
    *,
    after: int,
    upto: int,
    limit: int,
    without: Sequence[str] = (),
    with_causes: bool = True,
) -> Iterator[list[Fact]]:
    """The next facts of all runs that are kept, a few at a time: no other reading waits until this one is closed.

    Where they are checked they come as one page, and whole; else `without` some types, and without cause and command
    where nobody asks for them. Raises Diverged, Damaged.
    """
    if checking_of(connection) is not None:
        yield read_facts(connection, after=after, upto=upto, limit=limit, kept=True)[0]
        return
    end = end_of(connection, after=after, stream=None, upto=upto, kept=True)
    columns = _COLUMNS if with_causes else _COLUMNS_WITHOUT_CAUSES
    query = (
        f"SELECT {columns} FROM events WHERE position > ? AND position <= ?"  # noqa: S608
        f" AND type NOT IN ({', '.join('?' * len(without))}) ORDER BY position LIMIT ?"
    )
    with telling_damage(), closing(connection.execute(query, (after, end, *without, limit))) as rows:
        while some := rows.fetchmany(FACTS_TOGETHER):
            yield list(starmap(Fact, some))
