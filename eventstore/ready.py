"""Pages of frames kept ready: what was made for the first who came back is what all others are given, whole or in part.

History changes by redaction, cleaning, trimming and refilling alone, and each of them appends an event that says so in
its own transaction, whichever process does it. So whoever asks first looks at what was appended since the last time,
and one such event lets all pages go.
"""

from bisect import bisect_right, insort
from collections import OrderedDict
from typing import TypeAlias

import msgspec

from eventstore.framing import Framed, Framing
from eventstore.reading import end_of
from eventstore.splicing import PAGE_ROWS, read_framed
from eventstore.sqlite3_module import sqlite3
from runfold.events import REWRITES

READY_BYTES_MAX = 128 * 1024 * 1024  # Of one process; about 160,000 common events.
PAGE_BYTES = 1024  # About what a page costs in memory beside its content.
LOOKED_AT_MAX = 10_000  # Beyond so many new events it is cheaper to let the pages go than to look for a rewriting one.
_REWRITTEN = (
    "SELECT EXISTS (SELECT 1 FROM events WHERE position > ? AND position <= ?"
    " AND type IN (SELECT value FROM json_each(?)))"
)
_REWRITES = msgspec.json.encode(sorted(REWRITES)).decode()
_What: TypeAlias = tuple[str | None, Framing]


class ReadyPages:
    """For one thread and one log, whose connection it is given each time."""

    def __init__(self, bytes_max: int = READY_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._pages: OrderedDict[tuple[_What, int], Framed] = OrderedDict()
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
        """As `read_framed`, from what is ready where it can be. Raises Trimmed, Diverged, Damaged."""
        end = end_of(connection, after=after, stream=stream)
        self._look(connection, end)
        what = (stream, framing)
        pages = self._find(what, after, rows_max)
        if not pages:
            pages = read_framed(connection, after=after, framing=framing, stream=stream, rows_max=rows_max)
            for page in pages:
                if page.is_full:
                    self._keep(what, after, page)
                    after = page.scanned_to
        return pages

    def _look(self, connection: sqlite3.Connection, end: int) -> None:
        new = end - self._seen_to
        if self._pages and new:
            is_rewritten = not 0 < new <= LOOKED_AT_MAX
            if not is_rewritten:
                row = connection.execute(_REWRITTEN, (self._seen_to, end, _REWRITES)).fetchone()
                is_rewritten = bool(row[0])
            if is_rewritten:
                self._pages.clear()
                self._starts.clear()
                self.size_bytes = 0
        self._seen_to = end

    def _find(self, what: _What, after: int, rows_max: int) -> list[Framed]:
        """The page that holds what comes after a position, and those that go on from its end."""
        starts = self._starts.get(what)
        place = 0 if starts is None else bisect_right(starts, after)
        if starts is None or place == 0:
            return []
        start = starts[place - 1]
        page = self._pages[what, start]
        if page.scanned_to <= after:
            return []
        self._pages.move_to_end((what, start))
        found = [page if start == after else _rest(page, after)]
        while sum(page.rows for page in found) < rows_max:
            following = self._pages.get((what, found[-1].scanned_to))
            if following is None:
                break
            found.append(following)
        return found

    def _keep(self, what: _What, after: int, page: Framed) -> None:
        self._pages[what, after] = page
        insort(self._starts.setdefault(what, []), after)
        self.size_bytes += _cost(page)
        while self.size_bytes > self._bytes_max:
            (forgotten, start), page = self._pages.popitem(last=False)
            self.size_bytes -= _cost(page)
            starts = self._starts[forgotten]
            starts.remove(start)
            if not starts:
                del self._starts[forgotten]


def _cost(page: Framed) -> int:
    return len(page.content) + PAGE_BYTES


def _rest(page: Framed, after: int) -> Framed:
    """What of a page comes after a position. An empty line stands at the end of frames and nowhere else."""
    content, start = page.content, 0
    while start < len(content) and int(content[start + 4 : content.index(b"-", start)]) <= after:
        start = content.index(b"\n\n", start) + 2
    return msgspec.structs.replace(page, content=content[start:])
