"""Where the runs end that this process appends to, by what the stream has granted it: the mirror comes after that.

Nothing is decided on it alone. A run that somebody else has written to is refused by the stream, and forgotten here.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from eventstore.appending import add
from eventstore.grouping import Group, Head, look_up_heads, look_up_ids
from eventstore.jetstream.planning import Planned, planned
from eventstore.preparing import Request
from eventstore.rows import Row
from eventstore.sqlite3_module import sqlite3
from runfold.envelope import SYSTEM_STREAM
from runfold.errors import RunfoldError

RUNS_MAX = 4_096
IDS_OF_RUN_MAX = 4_096
IDS_MAX = 100_000  # Of all runs, 150 bytes each.


class _End:
    """The last event of a run, and its ids: all of them, or those that the mirror may not have yet."""

    __slots__ = ("head", "ids", "is_whole")

    def __init__(self, head: Head, *, is_whole: bool) -> None:
        self.head, self.is_whole = head, is_whole
        self.ids: dict[bytes, int] = {}


class Ends:
    """`mirrored` says how far the mirror has come; what it has may be forgotten here."""

    def __init__(self, mirrored: Callable[[], int]) -> None:
        self._mirrored = mirrored
        self._ends: dict[str, _End] = {}
        self._ids = 0

    def doubtful(self, requests: Sequence[Request]) -> list[Request]:
        """Those of which the mirror has to be asked first."""
        ends = self._ends
        return [each for each in requests if each.stream not in ends or not ends[each.stream].is_whole]

    def look_up(self, connection: sqlite3.Connection, requests: Sequence[Request]) -> Group:
        """What the mirror knows of them; to be `learned`."""
        group = Group(0, 0)
        look_up_heads(connection, group, {request.stream for request in requests})
        look_up_ids(connection, group, requests)
        return group

    def learn(self, requests: Sequence[Request], found: Group) -> None:
        for stream in {request.stream for request in requests} - self._ends.keys():
            head = found.heads.get(stream)
            if head is None and stream == SYSTEM_STREAM:
                continue  # It begins with the log; the mirror tells whether its beginning was taken by hand.
            self._ends[stream] = _End(head or Head(0, 0, b""), is_whole=head is None)

    def plan(self, requests: Sequence[Request], known: Group, recorded_at_us: int) -> list[Planned | None]:
        """What each append writes; None where the mirror has to decide, or where another one goes before."""
        group = Group(0, recorded_at_us)
        group.provide_salts(sum([len(request.ids) for request in requests]))
        plans: list[Planned | None] = []
        seen: set[str] = set()
        for request in requests:
            stream = request.stream
            end = self._ends.get(stream)
            is_new = end is not None and stream not in seen and end.head.position == request.expected
            if end is None or not is_new or _is_known(request.ids, end.ids, known.known.get(stream)):
                plans.append(None)
                continue
            seen.add(stream)
            before = len(group.rows)
            try:
                add(group, request, end.head)
            except RunfoldError:
                plans.append(None)
                continue
            plans.append(planned(request, group.rows[before:]))
        return plans

    def granted(self, plan: Planned, last: int) -> None:
        """The stream has taken an append, its last event at that position."""
        end = self._ends.pop(plan.stream, None) or _End(Head(0, 0, b""), is_whole=plan.expected == 0)
        # To the end of the line: who is not appended to is forgotten first.
        self._ends[plan.stream] = end
        row = plan.rows[-1]
        end.head = Head(last, row[2], row[14])
        end.ids.update(dict.fromkeys([row[3] for row in plan.rows], last))
        self._ids += len(plan.rows)
        if len(end.ids) > IDS_OF_RUN_MAX:
            self._shorten(end)
        while len(self._ends) > RUNS_MAX or self._ids > IDS_MAX:
            oldest = next(iter(self._ends))
            if self._ends[oldest].head.position > self._mirrored():
                break
            self.forget(oldest)

    def forget(self, stream: str) -> None:
        end = self._ends.pop(stream, None)
        if end is not None:
            self._ids -= len(end.ids)

    def forget_passed(self, rows: Sequence[Row], but: Collection[str]) -> None:
        """Forget runs that others have written to; `but` those of which the stream's answer is still awaited."""
        for row in rows:
            end = self._ends.get(row[1])
            if end is not None and row[0] > end.head.position and row[1] not in but:
                self.forget(row[1])

    def _shorten(self, end: _End) -> None:
        mirrored = self._mirrored()
        kept = {id: position for id, position in end.ids.items() if position > mirrored}
        self._ids -= len(end.ids) - len(kept)
        end.ids, end.is_whole = kept, False


def _is_known(ids: Sequence[bytes], *known: dict[bytes, Any] | None) -> bool:
    return any(each and not each.keys().isdisjoint(ids) for each in known)
