"""A mirror beside the stream that it mirrors, event by event: what the one has and the other has not is named."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from nats.errors import Error as NatsError

from eventstore.jetstream.address import Address
from eventstore.jetstream.cluster import Cluster, connect, stream_state
from eventstore.jetstream.messages import Message, decode
from eventstore.jetstream.scanning import messages_after
from eventstore.keeping.second_copy import EVENTS_BETWEEN
from eventstore.proof.faults import Fault
from eventstore.proof.verifying import EVENT_COLUMNS
from eventstore.sqlite3_module import sqlite3
from runfold.errors import LogFailed, Unavailable

PAGE_MESSAGES = 1_000
CONNECT_SECONDS = 10.0
_COMPARED = {n: name for n, name in enumerate(EVENT_COLUMNS.split(", ")) if name not in ("position", "recorded_at_us")}
"""The time is not: a mirror never lets it go back, whatever the clocks of the machines say."""
_MAY_GO = frozenset({"salt", "data", "digest"})
Page = list[tuple[int, Message]]


async def compare_stream(
    connection: sqlite3.Connection, address: Address, *, on_progress: Callable[[int, int], object] | None = None
) -> tuple[int, Fault | None]:
    """How many messages were compared, and the first event in which a mirror and its stream differ.

    What was appended since the mirror was last brought forward is not looked at. Raises Unavailable, BadRequest.
    """
    head, trimmed_to, log_id = connection.execute("SELECT position, trimmed_to, log_id FROM head").fetchone()
    cluster = await connect(address, patience_seconds=CONNECT_SECONDS)
    compared = after = 0
    try:
        if cluster.log_id != log_id:
            return 0, Fault(kind="stream", message=f"the stream is the log {cluster.log_id}, not {log_id}")
        last = (await stream_state(cluster)).state.last_seq
        if last < head:
            return 0, Fault(
                kind="stream", message=f"the stream ends at {last}, the mirror at {head}", position=last + 1
            )
        async with aclosing(_pages(cluster, head)) as pages:
            async for page in pages:
                upto = page[-1][0]
                found = _difference(connection, page, after, min(upto, head), trimmed_to)
                if found is not None:
                    return compared, found
                compared, after = compared + len(page), upto
                if on_progress is not None:
                    on_progress(min(upto, head), head)
        return compared, _difference(connection, [], after, head, trimmed_to)
    except (NatsError, TimeoutError, OSError) as error:
        raise Unavailable(
            f"the stream did not tell all it holds: {type(error).__name__}", hint="a majority of its servers must be up"
        ) from error
    except LogFailed as error:
        return compared, Fault(kind="stream", message=error.message)
    finally:
        await cluster.client.close()


async def _pages(cluster: Cluster, head: int) -> AsyncGenerator[Page, None]:
    """All that the stream holds up to a position, in order."""
    page: Page = []
    async with aclosing(messages_after(cluster, cluster.name, 0)) as messages:
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


def _difference(connection: sqlite3.Connection, page: Page, after: int, upto: int, trimmed_to: int) -> Fault | None:
    ours = {row[0]: row for row in connection.execute(EVENTS_BETWEEN, (after, upto))}
    for position, message in page:
        row = ours.pop(position, None)
        if row is None:
            if position <= trimmed_to or _is_end(connection, position, message.run_id):
                continue
            return _fault(position, message.run_id, message.version, "the mirror does not have it")
        changed = _changed(row, message)
        if changed:
            return _fault(position, row[1], row[2], f"its {changed} is another in the mirror")
    # What was redacted is deleted in the stream, and what it left is kept beside it.
    lost = min((position for position, row in ours.items() if row[17] is None), default=None)
    if lost is None:
        return None
    return _fault(lost, ours[lost][1], ours[lost][2], "the stream does not have it")


def _is_end(connection: sqlite3.Connection, position: int, run_id: str) -> bool:
    """Whether a trimmed run ended here: its last event stays in the stream alone."""
    query = "SELECT 1 FROM heads WHERE run_id = ? AND position = ?"
    return connection.execute(query, (run_id, position)).fetchone() is not None


def _changed(row: tuple[Any, ...], message: Message) -> str:
    for number, name in _COMPARED.items():
        if row[number] != getattr(message, name) and not (row[17] is not None and name in _MAY_GO):
            return name
    return ""


def _fault(position: int, run_id: str, version: int, what: str) -> Fault:
    message = f"event {position}, version {version} of `{run_id}`, in the stream: {what}"
    return Fault(kind="stream", message=message, run_id=run_id, position=position)
