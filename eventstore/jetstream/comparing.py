"""A mirror beside each server's copy of its stream, event by event: what the one has and the other has not is named."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import msgspec
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from eventstore.jetstream.address import Address
from eventstore.jetstream.cluster import connect, stream_state
from eventstore.jetstream.messages import Message, decode
from eventstore.jetstream.replicas import current_servers, messages_at, readers
from eventstore.keeping.second_copy import EVENTS_BETWEEN
from eventstore.proof.faults import Fault
from eventstore.sqlite3_module import sqlite3
from eventstore.whole_rows import WholeRow, whole_rows
from runfold.errors import LogFailed, Unavailable

PAGE_MESSAGES = 1_000
SILENT = "the server falls silent there or soon after, as one does that cannot read its own file"
CONNECT_SECONDS = 10.0
_COMPARED = tuple(name for name in WholeRow._fields if name not in ("position", "recorded_at_us"))
"""The time is not: a mirror never lets it go back, whatever the clocks of the machines say."""
_MAY_GO = frozenset({"salt", "data", "digest"})
Page = list[tuple[int, Message]]


class Difference(msgspec.Struct, frozen=True):
    """The first event in which two differ, and in what."""

    position: int
    what: str
    run_id: str
    version: int


async def compare_stream(
    connection: sqlite3.Connection, address: Address, *, on_progress: Callable[[int, int], object] | None = None
) -> tuple[dict[str, int], list[Fault]]:
    """How many messages of each server were compared, and in what the mirror differs first from which of them.

    What was appended since the mirror was last brought forward is not looked at. A server that is down or behind is not
    among them: `runfold doctor` names it. Raises Unavailable, BadRequest.
    """
    head, trimmed_to, log_id = connection.execute("SELECT position, trimmed_to, log_id FROM head").fetchone()
    cluster = await connect(address, patience_seconds=CONNECT_SECONDS)
    counts: dict[str, int] = {}
    found: dict[Difference, list[str]] = {}
    try:
        if cluster.log_id != log_id:
            return {}, [Fault(kind="stream", message=f"the stream is the log {cluster.log_id}, not {log_id}")]
        last = (await stream_state(cluster)).state.last_seq
        if last < head:
            ends = f"the stream ends at {last}, the mirror at {head}"
            return {}, [Fault(kind="stream", message=ends, position=last + 1)]
        for server, consumer in sorted((await readers(cluster)).items()):
            compared = _Compared(connection, head, trimmed_to, on_progress)
            difference = await compared.difference(messages_at(cluster, consumer))
            if compared.is_silent and server not in await current_servers(cluster):
                continue
            counts[server] = compared.count
            if difference is not None:
                found.setdefault(difference, []).append(server)
    except (NatsError, TimeoutError, OSError) as error:
        raise Unavailable(
            f"the stream did not tell all it holds: {type(error).__name__}", hint="a majority of its servers must be up"
        ) from error
    except LogFailed as error:
        return counts, [Fault(kind="stream", message=error.message)]
    finally:
        await cluster.client.close()
    # What all servers say alike is said once.
    return counts, [_fault(it, "" if len(who) == len(counts) else ", ".join(who)) for it, who in found.items()]


class _Compared:
    """One server's copy beside the mirror."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        head: int,
        trimmed_to: int,
        on_progress: Callable[[int, int], object] | None,
    ) -> None:
        self._connection, self._head, self._trimmed_to = connection, head, trimmed_to
        self._on_progress = on_progress
        self._after = self.count = 0
        self.is_silent = False

    async def difference(self, messages: AsyncGenerator[Msg, None]) -> Difference | None:
        """The first; `is_silent` where the server tells no more though it has more. Raises LogFailed."""
        try:
            async with aclosing(_pages(messages, self._head)) as pages:
                async for page in pages:
                    upto = page[-1][0]
                    found = _difference(self._connection, page, self._after, upto, self._trimmed_to)
                    if found is not None:
                        return found
                    self.count, self._after = self.count + len(page), upto
                    if self._on_progress is not None:
                        self._on_progress(upto, self._head)
        except TimeoutError:
            # A server that cannot read its own file says nothing at all.
            query = "SELECT position, run_id, version FROM events WHERE position > ? ORDER BY position LIMIT 1"
            row = self._connection.execute(query, (self._after,)).fetchone()
            position, run_id, version = row or (self._head, "", 0)
            self.is_silent = True
            return Difference(position, SILENT, run_id, version)
        return _difference(self._connection, [], self._after, self._head, self._trimmed_to)


async def _pages(messages: AsyncGenerator[Msg, None], head: int) -> AsyncGenerator[Page, None]:
    """Messages up to a position, in order."""
    page: Page = []
    async with aclosing(messages):
        async for message in messages:
            position = message.metadata.sequence.stream
            if position > head:
                break
            page.append((position, decode(message.data, position)))
            if len(page) >= PAGE_MESSAGES:
                yield page
                page = []
    if page:
        yield page


def _difference(
    connection: sqlite3.Connection, page: Page, after: int, upto: int, trimmed_to: int
) -> Difference | None:
    ours = {row.position: row for row in whole_rows(connection.execute(EVENTS_BETWEEN, (after, upto)))}
    for position, message in page:
        row = ours.pop(position, None)
        if row is None:
            if position <= trimmed_to or _is_end(connection, position, message.run_id):
                continue
            return Difference(position, "the mirror does not have it", message.run_id, message.version)
        changed = _changed(row, message)
        if changed:
            return Difference(position, f"its {changed} is another in the mirror", row.run_id, row.version)
    # What was redacted is deleted in the stream, and what it left is kept beside it.
    lost = min((position for position, row in ours.items() if row.digest is None), default=None)
    if lost is None:
        return None
    return Difference(lost, "the stream does not have it", ours[lost].run_id, ours[lost].version)


def _is_end(connection: sqlite3.Connection, position: int, run_id: str) -> bool:
    """Whether a trimmed run ended here: its last event stays in the stream alone."""
    query = "SELECT 1 FROM heads WHERE run_id = ? AND position = ?"
    return connection.execute(query, (run_id, position)).fetchone() is not None


def _changed(row: WholeRow, message: Message) -> str:
    for name in _COMPARED:
        if getattr(row, name) != getattr(message, name) and not (row.digest is not None and name in _MAY_GO):
            return name
    return ""


def _fault(difference: Difference, servers: str) -> Fault:
    where = f"in the stream at {servers}" if servers else "in the stream"
    event = f"event {difference.position}, version {difference.version} of `{difference.run_id}`"
    return Fault(
        kind="stream",
        message=f"{event}, {where}: {difference.what}",
        run_id=difference.run_id,
        position=difference.position,
    )
