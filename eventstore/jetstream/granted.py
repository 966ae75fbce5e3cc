"""What the stream has granted to this process, in the stream's order, on its way into the mirror.

Who knows all that stands before an event knows how it is recorded. So an append goes into the mirror when it is
granted, where nothing of others stands between it and what is known. What then arrives from the servers is compared
with what was sent, and not stored a second time.
"""

from collections.abc import Iterable, Sequence

from eventstore.jetstream.planning import Planned
from eventstore.rows import Row
from runfold.errors import LogFailed
from runfold.events import REWRITES

COMPARED_MAX = 10_000  # Messages sent that have not arrived yet; what is beyond is believed.
_POSITION, _RECORDED_AT = 0, 7


class Grant:
    """An append that the stream has taken; `rows` as they are recorded, None where the mirror has to be asked."""

    __slots__ = ("first", "last", "plan", "rows")

    def __init__(self, plan: Planned, last: int) -> None:
        self.plan, self.last = plan, last
        self.first = last - len(plan.messages) + 1
        self.rows: list[Row] | None = None


class Granted:
    """`upto`: the stream is known up to here, at least as far as the mirror has come."""

    def __init__(self, position: int, recorded_at_us: int) -> None:
        self.upto = position
        self._recorded_at_us = recorded_at_us
        self._grants: dict[int, Grant] = {}
        self.rows: list[Row] = []
        """What the mirror has not been given."""
        self._sent: dict[int, bytes] = {}

    def add(self, plans: Sequence[tuple[Planned, int]]) -> list[Grant]:
        """Appends that were granted, each with the position of its last event."""
        grants = [Grant(plan, last) for plan, last in plans]
        # What has arrived before its answer is in the mirror.
        self._grants.update({grant.first: grant for grant in grants if grant.first > self.upto})
        self._join()
        return grants

    def take(self) -> list[Row]:
        """All that the mirror has not been given."""
        taken, self.rows = self.rows, []
        return taken

    def give_back(self, rows: Sequence[Row]) -> None:
        """What was taken, and not given to the mirror: it does not arrive a second time."""
        self.rows = [*rows, *self.rows]

    def is_known(self, position: int, content: bytes) -> bool:
        """Whether this is what was granted there, and nothing else than was sent."""
        if position > self.upto or self._sent.get(position, content) != content:
            return False
        self._sent.pop(position, None)
        return True

    def unknown(self, came: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """What of it is new. Raises LogFailed where an event is not the one that was sent."""
        if not came or came[0][0] > self.upto:
            return list(came)
        new = [(position, content) for position, content in came if not self.is_known(position, content)]
        if new and new[0][0] <= self.upto:
            raise LogFailed(
                f"the event at position {new[0][0]} of the replicated log is not the one that was appended there",
                hint="a replica has lost or altered events: compare the replicas with `runfold verify`",
            )
        return new

    def follow_from(self, position: int) -> None:
        """What stands up to here will not arrive any more."""
        self._sent = {place: content for place, content in self._sent.items() if place > position}

    def mirrored(self, position: int, rows: Sequence[Row], *, arrived: Iterable[int] = ()) -> None:
        """The mirror has come to a position, by these rows or because nothing is left there; some had `arrived`."""
        for place in arrived:
            self._sent.pop(place, None)
        if position <= self.upto:
            return
        self.upto = position
        if rows:
            self._recorded_at_us = max(self._recorded_at_us, rows[-1][_RECORDED_AT])
        if self._grants:
            held = {row[_POSITION]: row for row in rows}
            for first in [first for first in self._grants if first <= position]:
                grant = self._grants.pop(first)
                places = range(first, grant.last + 1)
                grant.rows = [held[place] for place in places] if all(place in held for place in places) else None
            self._join()

    def _join(self) -> None:
        """Number what follows on what is known."""
        while (grant := self._grants.get(self.upto + 1)) is not None:
            plan = grant.plan
            if not plan.rows or any(row[4] in REWRITES for row in plan.rows):
                return  # The mirror takes it when it has arrived, with what it does to others.
            del self._grants[grant.first]
            # As every mirror has it: the time never goes back along the stream.
            recorded_at_us = self._recorded_at_us = max(self._recorded_at_us, plan.rows[-1][_RECORDED_AT])
            rows = [(position, *row[1:]) for position, row in enumerate(plan.rows, start=grant.first)]
            if rows[-1][_RECORDED_AT] != recorded_at_us:
                rows = [(*row[:_RECORDED_AT], recorded_at_us, *row[_RECORDED_AT + 1 :]) for row in rows]
            if len(self._sent) > COMPARED_MAX:
                self._sent.clear()
            self._sent.update(enumerate(plan.messages, start=grant.first))
            self.rows += rows
            self.upto = grant.last
            grant.rows = rows
