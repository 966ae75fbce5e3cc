"""What one transaction knows of the log it appends to: read when it begins, or remembered from the one before."""

import os
from collections.abc import Callable, Collection, Sequence

import msgspec

from eventstore.identified import known_pairs
from eventstore.preparing import Request
from eventstore.rows import Row, in_parts
from eventstore.sqlite3_module import sqlite3

SALT_BYTES = 16
HEADS_REMEMBERED_MAX = 4096


class Head(msgspec.Struct, frozen=True):
    """The last event of a run, as the transaction at work sees it."""

    position: int
    version: int
    hash: bytes


NO_HEAD = Head(0, 0, b"")


class Group:
    """The state of one transaction: what the log holds, plus what its earlier requests add."""

    def __init__(self, position: int, recorded_at_us: int, *, sealed: int = 0) -> None:
        self.since = position
        """Where the log ended before the group."""
        self.position = position
        self.recorded_at_us = recorded_at_us
        self.sealed = sealed
        """An anchor seals the log at least up to here."""
        self.unsealed: bytearray | None = None
        """What an anchor will hold of the events since then, where that is known."""
        self.rows: list[Row] = []
        self.heads: dict[str, Head] = {}
        self.known: dict[str, dict[bytes, None]] = {}
        self.added: dict[str, dict[bytes, Row]] = {}
        self._salts: list[bytes] = []

    def salts(self, count: int) -> list[bytes]:
        """At least so many salts, of those that were provided, where there are as many; who uses one takes it away."""
        if len(self._salts) < count:
            self.provide_salts(count)
        return self._salts

    def provide_salts(self, count: int) -> None:
        """Draw the salts of so many events at once: every call of the system lets another thread in between."""
        drawn = os.urandom(SALT_BYTES * count)
        self._salts = [drawn[start : start + SALT_BYTES] for start in range(0, len(drawn), SALT_BYTES)]

    def holds_any(self, request: Request) -> bool:
        """Whether the log, or an earlier request of this group, has one of the request's ids in its run."""
        for held in (self.known.get(request.stream), self.added.get(request.stream)):
            if held and not held.keys().isdisjoint(request.ids):
                return True
        return False


class Memory:
    """What one connection saw when it last committed: it holds for as long as no other connection has committed."""

    def __init__(self) -> None:
        self._data_version: int | None = None
        self._position = self._recorded_at_us = self._sealed = 0
        self._unsealed: bytearray | None = None
        self._heads: dict[str, Head] = {}

    @property
    def unsealed_positions(self) -> int:
        """How many there were since the last anchor."""
        return self._position - self._sealed

    def still_holds(self, connection: sqlite3.Connection) -> bool:
        """Whether no other connection has committed; where one has, this is what the log holds now."""
        data_version = connection.execute("PRAGMA data_version").fetchone()[0]
        if data_version == self._data_version:
            return True
        self.forget()
        self._position, self._recorded_at_us, self._sealed = connection.execute(
            "SELECT position, recorded_at_us, (SELECT ifnull(max(position), 0) FROM anchors) FROM head"
        ).fetchone()
        self._unsealed = bytearray() if self._sealed == self._position else None
        self._data_version = data_version
        return False

    def group(self, connection: sqlite3.Connection, requests: Sequence[Request], now_us: int) -> Group:
        """The state to begin a transaction with, that has the heads of all the requests' runs."""
        self.still_holds(connection)
        group = self._group(requests, now_us)
        unknown: dict[str, None] = {}
        for request in requests:
            head = self._heads.get(request.stream)
            if head is None:
                unknown[request.stream] = None
            else:
                group.heads[request.stream] = head
        look_up_heads(connection, group, unknown)
        return group

    def group_ahead(self, requests: Sequence[Request], now_us: Callable[[], int]) -> Group | None:
        """The state that the next transaction begins with if nobody else commits before it.

        None where the log has to be asked, as it has of an append that may be refused.
        """
        if self._data_version is None:
            return None
        heads: dict[str, Head] = {}
        for request in requests:
            stream = request.stream
            head = self._heads.get(stream)
            if head is None or head.position != request.expected or stream in heads:
                return None
            heads[stream] = head
        group = self._group(requests, now_us())
        group.heads = heads
        return group

    def _group(self, requests: Sequence[Request], now_us: int) -> Group:
        # A clock that steps back must not put later events before earlier ones.
        group = Group(self._position, max(now_us, self._recorded_at_us), sealed=self._sealed)
        group.unsealed = self._unsealed
        group.provide_salts(sum([len(request.ids) for request in requests]))
        return group

    def keep(self, group: Group) -> None:
        """What the group added is committed."""
        if not group.rows:
            return
        self._position, self._recorded_at_us, self._sealed = group.position, group.recorded_at_us, group.sealed
        self._unsealed = group.unsealed
        if len(self._heads) > HEADS_REMEMBERED_MAX:
            self._heads.clear()
        self._heads.update(group.heads)

    def forget(self) -> None:
        self._data_version = None
        self._heads.clear()


def look_up(connection: sqlite3.Connection, group: Group, requests: Sequence[Request]) -> None:
    """What the log holds of all requests: the last events of their runs, and which of their ids it knows."""
    look_up_heads(connection, group, {request.stream for request in requests})
    look_up_ids(connection, group, requests)


def look_up_heads(connection: sqlite3.Connection, group: Group, streams: Collection[str]) -> None:
    for size, names in in_parts([(stream,) for stream in streams]):
        query = f"SELECT run_id, position, version, hash FROM heads WHERE run_id IN ({', '.join('?' * size)})"  # noqa: S608
        for run_id, position, version, digest in connection.execute(query, names).fetchall():
            group.heads[run_id] = Head(position, version, digest)


def look_up_ids(connection: sqlite3.Connection, group: Group, requests: Sequence[Request]) -> None:
    pairs = [(request.stream, id) for request in requests if request.stream in group.heads for id in request.ids]
    for run_id, identity in known_pairs(connection, pairs):
        group.known.setdefault(run_id, {})[identity] = None
