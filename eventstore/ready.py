"""What was read is kept: as it was read for the first, as ready pages of frames for all who ask for it again.

Memory that was never touched before costs more than anything else that is done for an event, and most histories are
read once; what their frames are made of is a third of them.

History changes by redaction, cleaning, trimming and refilling alone, and each of them appends an event that says so in
its own transaction, whichever process does it. So whoever asks first looks at what was appended since the last time,
and one such event lets all pages go.
"""

from bisect import bisect_right, insort
from collections import OrderedDict
from contextlib import suppress
from typing import NamedTuple, TypeAlias

import msgspec

from eventstore.columns import Texts
from eventstore.framing import Framed, Framing
from eventstore.moment import one_moment
from eventstore.reading import end_of
from eventstore.splicing import PAGE_ROWS, framed_again, read_found
from eventstore.sqlite3_module import sqlite3
from runfold.errors import RunfoldError
from runfold.events import REWRITES

READY_BYTES_MAX = 128 * 1024 * 1024  # Of one process; about 160,000 common events.
PAGE_BYTES = 1024  # About what a page costs in memory beside its content.
LOOKED_AT_MAX = 10_000  # Beyond so many new events it is cheaper to let the pages go than to look for a rewriting one.
_REWRITTEN = (
    "SELECT EXISTS (SELECT 1 FROM events WHERE position > ? AND position <= ?"
    " AND type IN (SELECT value FROM json_each(?)))"
)
_REWRITES = msgspec.json.encode(sorted(REWRITES)).decode()
_What: TypeAlias = tuple[str | None, Framing | None]
"""Of what, and as what: pages, or, with no framing, the columns that they are made of."""


class _Once(NamedTuple):
    """What was read once: the columns, and how far it reaches."""

    texts: Texts
    scanned_to: int


class ReadyPages:
    """For one thread and one log, whose connection it is given each time."""

    def __init__(self, bytes_max: int = READY_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._held: OrderedDict[tuple[_What, int], Framed | _Once] = OrderedDict()
        self._starts: dict[_What, list[int]] = {}
        self._seen_to = 0
        self.size_bytes = 0

    def read(
        self,
        connection: sqlite3.Connection,
        *,
        after: int,
        framing: Framing,
        stream: str | None,
        rows_max: int = PAGE_ROWS,
    ) -> list[Framed]:
        """The pages of `read_found`, from what is ready where it can be. Raises Trimmed, Diverged, Damaged."""
        end = end_of(connection, after=after, stream=stream)
        self._look(connection, end)
        what, read = (stream, framing), (stream, None)
        pages = self._find(what, after, rows_max)
        if pages:
            return pages
        start, once = self._holding(read, after)
        if isinstance(once, _Once):
            pages = framed_again(once.texts, framing, upto=once.scanned_to)
            # Not beside them: what is not asked for yet would have to make room for both.
            self._forget(read, start)
            self._keep_pages(what, start, pages)
            first, *others = [page for page in pages if page.scanned_to > after]
            return [_rest(first, after), *others]
        found, pages = read_found(connection, after=after, end=end, framing=framing, stream=stream, rows_max=rows_max)
        if found.is_full and found.columns is not None and pages[-1].scanned_to == found.upto:
            self._keep(read, after, _Once(found.columns.texts, found.upto))
        else:
            self._keep_pages(what, after, pages)
        return pages

    def read_on(
        self,
        connection: sqlite3.Connection,
        *,
        after: int,
        framing: Framing,
        stream: str | None,
        rows_max: int,
        reads: int,
    ) -> list[Framed]:
        """As `read`, so many times, each from where the one before has ended; `rows_max` is of each.

        What keeps a later one from being made is told to who comes as far.
        """
        with one_moment(connection):
            pages = self.read(connection, after=after, framing=framing, stream=stream, rows_max=rows_max)
            with suppress(RunfoldError, sqlite3.Error):
                while pages[-1].is_full and reads > 1:
                    after, reads = pages[-1].scanned_to, reads - 1
                    pages += self.read(connection, after=after, framing=framing, stream=stream, rows_max=rows_max)
            return pages

    def _look(self, connection: sqlite3.Connection, end: int) -> None:
        new = end - self._seen_to
        if self._held and new:
            is_rewritten = not 0 < new <= LOOKED_AT_MAX
            if not is_rewritten:
                row = connection.execute(_REWRITTEN, (self._seen_to, end, _REWRITES)).fetchone()
                is_rewritten = bool(row[0])
            if is_rewritten:
                self._held.clear()
                self._starts.clear()
                self.size_bytes = 0
        self._seen_to = end

    def _holding(self, what: _What, after: int) -> tuple[int, Framed | _Once | None]:
        """What holds the events after a position, and where that begins."""
        starts = self._starts.get(what)
        place = 0 if starts is None else bisect_right(starts, after)
        if starts is None or place == 0:
            return after, None
        start = starts[place - 1]
        held = self._held[what, start]
        if held.scanned_to <= after:
            return after, None
        self._held.move_to_end((what, start))
        return start, held

    def _find(self, what: _What, after: int, rows_max: int) -> list[Framed]:
        """The page that holds what comes after a position, and those that go on from its end."""
        start, page = self._holding(what, after)
        if not isinstance(page, Framed):
            return []
        found = [page if start == after else _rest(page, after)]
        while sum(page.rows for page in found) < rows_max:
            following = self._held.get((what, found[-1].scanned_to))
            if not isinstance(following, Framed):
                break
            found.append(following)
        return found

    def _keep_pages(self, what: _What, after: int, pages: list[Framed]) -> None:
        for page in pages:
            if page.is_full:
                self._keep(what, after, page)
                after = page.scanned_to

    def _keep(self, what: _What, after: int, held: Framed | _Once) -> None:
        if (what, after) in self._held:
            return
        self._held[what, after] = held
        insort(self._starts.setdefault(what, []), after)
        self.size_bytes += _cost(held)
        while self.size_bytes > self._bytes_max:
            self._forget(*next(iter(self._held)))

    def _forget(self, what: _What, start: int) -> None:
        self.size_bytes -= _cost(self._held.pop((what, start)))
        starts = self._starts[what]
        starts.remove(start)
        if not starts:
            del self._starts[what]


def _cost(held: Framed | _Once) -> int:
    return PAGE_BYTES + (len(held.content) if isinstance(held, Framed) else held.texts.size_bytes)


def _rest(page: Framed, after: int) -> Framed:
    """What of a page comes after a position. An empty line stands at the end of frames and nowhere else."""
    content, start = page.content, 0
    while start < len(content) and int(content[start + 4 : content.index(b"-", start)]) <= after:
        start = content.index(b"\n\n", start) + 2
    return msgspec.structs.replace(page, content=content[start:]) if start else page
