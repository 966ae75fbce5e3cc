"""This machine's copy of the replicated log: a log file like any other, filled in stream order and checked on arrival.

Whatever reads a log file reads the mirror: views, streams, verify, SQL, export. It is disposable, for the stream is the
log. Several processes of a machine may fill one mirror, for each takes only what comes after its head.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import msgspec

from eventstore.appending import ANCHOR_EVENTS, judge, store
from eventstore.chain import data_digest, link
from eventstore.contract import Appended
from eventstore.failpoints import reach
from eventstore.grouping import Group, Head, look_up, look_up_heads
from eventstore.intents import settle
from eventstore.jetstream.holes import (
    REPLACED,
    announce_files,
    fill,
    redact_told,
    remember,
    taken_back,
    trim_told,
)
from eventstore.jetstream.messages import Message
from eventstore.jetstream.planning import Planned, planned
from eventstore.jetstream.rewritten import Files
from eventstore.log_file import BUSY_TIMEOUT_MS
from eventstore.mirrored import Mirrored, mirrored_log, note_mirrored
from eventstore.preparing import Request
from eventstore.rows import Row, uuid_text
from eventstore.sqlite3_module import sqlite3
from eventstore.whole_rows import INSERT_WHOLE
from eventstore.writing import Writer
from runfold.envelope import SYSTEM_STREAM
from runfold.errors import BadRequest, LogFailed, RunfoldError, Unavailable
from runfold.events import REWRITES

CHECKPOINT_PAGES = 8_000  # 32 MB: a checkpoint syncs two files, and those who wait for an answer wait for it.


class Arrived(msgspec.Struct, frozen=True):
    """A message of the stream at its place."""

    position: int
    message: Message


class Mirror(Writer):
    """The write side of the copy; one connection, and one thread at a time."""

    writes_mirrors = True

    def __init__(self, data: Path, now_us: Callable[[], int], mirrored: Mirrored) -> None:
        """Open or make the copy of a log. Raises BadRequest where the folder holds another one."""
        super().__init__(data, now_us)
        try:
            # What a power cut takes from a copy comes again from the stream.
            self.connection.execute("PRAGMA synchronous = NORMAL")
            self._is_patient = False
            self.be_patient()
            self.connection.execute("PRAGMA secure_delete = ON")
            self.connection.execute(REPLACED)
            with self.locked():
                self._adopt(data, mirrored)
        except BaseException:
            self.abandon()
            raise
        self._recorded_at_us = 0

    def _adopt(self, data: Path, mirrored: Mirrored) -> None:
        held, position = self.connection.execute("SELECT log_id, position FROM head").fetchone()
        if held != mirrored.log_id:
            if position:
                raise BadRequest(
                    f"`{data}` holds the log {held}, not a copy of {mirrored.address} ({mirrored.log_id})",
                    hint="give this server a folder of its own with --data",
                )
            note_mirrored(data, mirrored)
            self.connection.execute("UPDATE head SET log_id = ? WHERE one = 1", (mirrored.log_id,))
        elif mirrored_log(data) != mirrored:
            note_mirrored(data, mirrored)

    @property
    def head(self) -> tuple[int, int]:
        """The position of the last event, and when the log took it."""
        position, recorded_at_us = self.connection.execute("SELECT position, recorded_at_us FROM head").fetchone()
        return position, recorded_at_us

    def plan(self, requests: Sequence[Request]) -> list[Planned | Appended | RunfoldError | None]:
        """What each append would write, its first answer, or its refusal; None: to be asked again after the others.

        A refusal counts as far as the mirror has come; a plan is only carried out if nothing was appended since.
        """
        self._recorded_at_us = max(self._recorded_at_us, self._now_us())
        group = Group(self.head[0], self._recorded_at_us)
        look_up(self.connection, group, requests)
        plans: list[Planned | Appended | RunfoldError | None] = []
        streams: set[str] = set()
        for request in requests:
            before = len(group.rows)
            outcome = None if request.stream in streams else judge(self.connection, group, request)
            if isinstance(outcome, Appended) and not outcome.duplicate:
                if request.stream == SYSTEM_STREAM and not request.expected and self._trimmed_to():
                    plans.append(_without_beginning())
                    continue
                streams.add(request.stream)
                plans.append(planned(request, group.rows[before:]))
            else:
                plans.append(outcome)
        return plans

    def take(self, own: Sequence[Row], arrived: Sequence[Arrived]) -> tuple[int, list[Row]]:
        """Add what the stream holds after the mirror's head: what was granted to this process, then what arrived.

        The new head, and the rows that were added. Raises LogFailed where a chain is broken.
        """
        with self.locked():
            self.connection.execute("BEGIN IMMEDIATE")
            return self._take(own, arrived)

    def take_at_once(self, own: Sequence[Row], arrived: Sequence[Arrived]) -> tuple[int, list[Row]] | None:
        """As `take`, but waits for nobody and syncs nothing; None where it would have to.

        Raises LogFailed as it does.
        """
        if self._memory.unsealed_positions + len(own) + len(arrived) >= ANCHOR_EVENTS:
            return None
        with self._turns.held_if_free() as is_held:
            if not is_held:
                return None
            self._be_patient(is_patient=False)
            try:
                self.connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return None  # Whoever waits for it is told what is wrong.
            return self._take(own, arrived)

    def be_patient(self) -> None:
        """Wait for others from now on, and sync what is due: until the next `take_at_once`."""
        self._be_patient(is_patient=True)

    def _be_patient(self, *, is_patient: bool) -> None:
        if is_patient != self._is_patient:
            self._is_patient = is_patient
            self.connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS if is_patient else 0}")
            self.connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES if is_patient else 0}")

    def _take(self, own: Sequence[Row], arrived: Sequence[Arrived]) -> tuple[int, list[Row]]:
        """Add it, and end the transaction that has begun."""
        try:
            group = self._memory.group(self.connection, (), 0)
            position = group.position
            anchor, is_rewritten = self._add(group, own, [each for each in arrived if each.position > position])
            reach("mirror.before_commit")
            self.connection.execute("COMMIT")
            reach("mirror.committed")
            self._memory.keep(group)
        except BaseException:
            self._memory.forget()
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise
        self._publish(anchor)
        if is_rewritten:
            self._memory.forget()
            settle(self._data, self.connection)
            self._checkpoint()
        return group.position, group.rows

    def _add(self, group: Group, own: Sequence[Row], arrived: Sequence[Arrived]) -> tuple[str | None, bool]:
        """Store what is new; the line of a new anchor, and whether earlier events became others by it."""
        for row in own:
            # Another process of this machine may have brought it here.
            if row[0] > group.since:
                group.rows.append(row)
                group.heads[row[1]] = Head(row[0], row[2], row[14])
        if group.rows:
            group.position, group.recorded_at_us = group.rows[-1][0], group.rows[-1][7]
        fresh = self._filled(group.position, [each for each in arrived if each.position > group.position])
        look_up_heads(self.connection, group, {each.message.run_id for each in fresh} - group.heads.keys())
        for each in fresh:
            _add(group, each, self._trimmed_to)
        redacted = [each for each in fresh if each.message.digest is not None]
        if redacted:
            group.unsealed = None
            _put_redacted(self.connection, group, redacted)
        anchor = store(self.connection, group) if group.position > group.since else None
        return anchor, self._rewrite(fresh)

    def _trimmed_to(self) -> int:
        return int(self.connection.execute("SELECT trimmed_to FROM head").fetchone()[0])

    def remember(self, left: Sequence[tuple[int, bytes]]) -> None:
        """What stands in the stream's holes, by position."""
        remember(self.connection, left)

    def taken_back(self, told: Sequence[Arrived]) -> tuple[list[int], list[str]]:
        """What has to be erased and shortened in the stream before these events are taken."""
        return taken_back(self.connection, [each.message for each in told])

    def announce_files(self, told: Arrived, files: Files | None) -> None:
        """Make ready what becomes of this machine's files when the event is taken."""
        with self.locked():
            announce_files(self._data, told.message, uuid_text(told.message.id), files)

    def unfilled_before(self, first: int, *, since: int) -> int:
        """The last position before the stream's first at which nothing stands any more, not below `since`; else 0."""
        return fill(self.connection, since - 1, first)[1]

    def _filled(self, position: int, arrived: Sequence[Arrived]) -> list[Arrived]:
        """What came, with what stands in the holes between; a hole in which nothing stands was trimmed."""
        filled: list[Arrived] = []
        for each in arrived:
            if each.position > position + 1:
                left, unfilled = fill(self.connection, position, each.position)
                filled += [Arrived(place, message) for place, message in left]
                if unfilled:
                    self._trim(unfilled)
            filled.append(each)
            position = each.position
        return filled

    def _rewrite(self, fresh: Sequence[Arrived]) -> bool:
        """Whether these events change what earlier ones are."""
        telling = [each for each in fresh if each.message.type in REWRITES]
        for each in telling:
            if each.message.run_id == SYSTEM_STREAM:
                trim_told(self.connection, each.message, each.position)
            else:
                redact_told(self.connection, each.message)
        return bool(telling)

    def pass_over(self, position: int) -> None:
        """Nothing is left in the stream up to this position."""
        with self.locked():
            self._memory.forget()
            self.connection.execute("UPDATE head SET position = max(position, ?) WHERE one = 1", (position,))

    def trim(self, first: int) -> None:
        """The stream now starts at `first`."""
        with self.locked():
            self._memory.forget()
            self.connection.execute(
                "UPDATE head SET trimmed_to = max(trimmed_to, ?1), position = max(position, ?1) WHERE one = 1",
                (first - 1,),
            )

    def _trim(self, position: int) -> None:
        self.connection.execute("UPDATE head SET trimmed_to = max(trimmed_to, ?) WHERE one = 1", (position,))


def _without_beginning() -> Unavailable:
    """Each machine that still has its events would take another beginning for an altered log."""
    return Unavailable(
        f"the first events of `{SYSTEM_STREAM}` were purged from the replicated log",
        hint="a machine that still has them goes on with it: `runfold token create` there, then try again",
    )


def _add(group: Group, arrived: Arrived, trimmed_to: Callable[[], int]) -> None:
    position, message = arrived.position, arrived.message
    head = group.heads.get(message.run_id) or Head(0, 0, b"")
    expected = link(
        head.hash,
        tenant=message.tenant,
        run_id=message.run_id,
        version=message.version,
        identity=message.id,
        type_name=message.type,
        schema=message.schema,
        at_us=message.at_us,
        actor=message.actor,
        cause=message.cause,
        command=message.command,
        sent=message.sent,
        correlation=message.correlation,
        digest=_digest(message),
    )
    # An event whose predecessor was trimmed begins what is kept of its run; its chain is checked from there on.
    is_next = message.version == head.version + 1
    if not (message.hash == expected if is_next else message.version > head.version and head.position < trimmed_to()):
        raise LogFailed(
            f"the event at position {position} of the replicated log does not continue run `{message.run_id}` after"
            f" version {head.version}",
            hint="a replica has lost or altered events: compare the replicas with `runfold verify`",
        )
    group.recorded_at_us = max(group.recorded_at_us, message.recorded_at_us)
    group.rows.append(
        (
            *(position, message.run_id, message.version, message.id, message.type, message.schema, message.at_us),
            *(group.recorded_at_us, message.tenant, message.actor, message.cause, message.command, message.sent),
            *(message.correlation, message.hash, message.data, message.salt),
        )
    )
    group.position = position
    group.heads[message.run_id] = Head(position, message.version, message.hash)


def _digest(message: Message) -> bytes:
    if message.digest is not None:
        return message.digest
    return data_digest(message.salt or b"", message.data or b"")


def _put_redacted(connection: sqlite3.Connection, group: Group, arrived: Sequence[Arrived]) -> None:
    """The rows of events that were redacted before their log was copied; they have a digest in place of a salt."""
    rows = {each.position: each.message.digest for each in arrived}
    for row in [row for row in group.rows if row[0] in rows]:
        connection.execute(INSERT_WHOLE, (*row, rows[cast("int", row[0])]))
        group.rows.remove(row)
