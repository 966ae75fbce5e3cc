"""Conditional appends to the stream: those of many callers in one atomic batch, each run with its own condition.

A lone event is a plain request. Source of the format: NATS ADR-50, "JetStream Batch Publishing".
"""

import asyncio
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeAlias

import msgspec
import nats.errors
from nats.js.errors import NotFoundError

from eventstore.jetstream.cluster import REQUEST_SECONDS, Cluster
from eventstore.jetstream.messages import subject_of
from eventstore.jetstream.planning import Planned
from runfold.errors import LogFailed

BATCH_EVENTS_MAX = 1000  # The server's own limit.
BATCHES_MAX = 40  # The server takes 50 in flight a stream, of all its clients.
TRIES_MAX = 5
PASSING_SECONDS = 0.002
WRONG_LAST = 10071  # Somebody else's event is behind `expected`.
PASSING = frozenset({10164, 10176})
"""Another append to the run, maybe one's own last, is not yet with all replicas; too many batches at once."""
BUSY = (408, 503)
"""JetStream's own codes: no leader now, or too much at once."""


class _Error(msgspec.Struct, frozen=True):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Ack(msgspec.Struct, frozen=True):
    seq: int = 0
    error: _Error | None = None


_ack = msgspec.json.Decoder(_Ack).decode
_Conditional: TypeAlias = tuple[str, bytes, int | None]
"""Subject, content, and at which position the run has to end, where the message says so."""


class Publisher:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._room = asyncio.Semaphore(BATCHES_MAX)

    async def publish(self, plans: Sequence[Planned]) -> list[int]:
        """Append each plan after its `expected`, all of it or nothing; the position of each one's last event.

        0: not appended there, or nobody knows. Raises LogFailed for what no retry mends.
        """
        batches = list(_batches(plans))
        if len(batches) == 1:
            return await self._publish(batches[0])
        answers = await asyncio.gather(*(self._publish(batch) for batch in batches))
        return [last for batch in answers for last in batch]

    def publish_at_once(self, plan: Planned, answered: Callable[[int], object]) -> bool:
        """As `publish`, but `answered` is called as soon as the answer is read; whether it could be sent at once.

        What no retry mends is 0 too: who asks again is told.
        """

        def told(content: bytes | Exception) -> None:
            ack = _Ack() if isinstance(content, Exception) else _ack(content)
            answered(ack.seq if ack.error is None else 0)

        messages = list(_conditional(self._cluster.name, plan))
        batch = uuid.uuid4().hex if len(messages) > 1 else ""
        commands = partial(_commands, messages, batch)
        return self._cluster.client.ask_at_once(commands, timeout_seconds=REQUEST_SECONDS, answered=told)

    async def as_left(self, plans: Sequence[Planned]) -> list[Planned]:
        """The plans, those marked of whose runs somebody has purged all messages: the condition is then another."""
        return [msgspec.structs.replace(plan, is_purged=await self._is_purged(plan)) for plan in plans]

    async def _is_purged(self, plan: Planned) -> bool:
        if not plan.expected:
            return False
        name = self._cluster.name
        try:
            await self._cluster.jetstream.get_msg(name, subject=subject_of(name, plan.stream), direct=False)
        except NotFoundError:
            return True
        except (nats.errors.Error, TimeoutError, OSError):
            pass
        return False

    async def publish_together(self, plans: Sequence[Planned]) -> bool:
        """Append all plans or none of them; whether they were appended, as far as anybody knows."""
        ack = await self._ask(plans)
        return ack is not None and (ack.error is None or bool(_refused(ack.error)))

    async def _publish(self, plans: Sequence[Planned]) -> list[int]:
        """One batch: granted together or not at all, so after a refusal each plan is tried for itself."""
        ack = await self._ask(plans)
        if ack is None:
            return [0] * len(plans)
        if ack.error is None:
            return list(_last_positions(plans, ack.seq))
        if len(plans) == 1 or ack.error.code in BUSY:
            return [_refused(ack.error)] * len(plans)
        alone = await asyncio.gather(*(self._publish([plan]) for plan in plans))
        return [last for (last,) in alone]

    async def _ask(self, plans: Sequence[Planned]) -> "_Ack | None":
        """The servers' answer to one batch, asked again while another append is passing; None: nobody knows it."""
        try:
            ack = await self._send(plans)
            for _ in range(TRIES_MAX - 1):
                if ack.error is None or ack.error.err_code not in PASSING:
                    break
                await asyncio.sleep(PASSING_SECONDS)
                ack = await self._send(plans)
        except (nats.errors.Error, TimeoutError, OSError):
            return None
        return ack

    async def _send(self, plans: Sequence[Planned]) -> "_Ack":
        messages = [each for plan in plans for each in _conditional(self._cluster.name, plan)]
        if len(messages) == 1:
            return await self._request(messages, "")
        async with self._room:
            return await self._request(messages, uuid.uuid4().hex)

    async def _request(self, messages: "list[_Conditional]", batch: str) -> "_Ack":
        commands = partial(_commands, messages, batch)
        return _ack(await self._cluster.client.ask(commands, timeout_seconds=REQUEST_SECONDS))


def _batches(plans: Sequence[Planned]) -> Iterator[list[Planned]]:
    """The plans in order, as many together as the server takes at once."""
    batch: list[Planned] = []
    count = 0
    for plan in plans:
        count += len(plan.messages)
        if batch and count > BATCH_EVENTS_MAX:
            yield batch
            batch, count = [], len(plan.messages)
        batch.append(plan)
    if batch:
        yield batch


def _last_positions(plans: Sequence[Planned], last: int) -> Iterator[int]:
    """A batch stands in the stream without a gap, and in its order (ADR-50)."""
    position = last - sum(len(plan.messages) for plan in plans)
    for plan in plans:
        position += len(plan.messages)
        yield position


def _conditional(name: str, plan: Planned) -> "Iterator[_Conditional]":
    """The messages of an append: the first one says where the run has to end."""
    subject = subject_of(name, plan.stream)
    expected: int | None = 0 if plan.is_purged else plan.expected
    for content in plan.messages:
        yield subject, content, expected
        expected = None


def _commands(messages: "Sequence[_Conditional]", batch: str, reply: str) -> bytes:
    numbered = enumerate(messages, start=1)
    return b"".join([part for n, each in numbered for part in _command(batch, n, each, len(messages), reply)])


def _command(batch: str, number: int, message: "_Conditional", count: int, reply: str) -> tuple[bytes, bytes, bytes]:
    """A message, maybe of a batch, as the client would send it; the last one asks for the answer."""
    subject, content, expected = message
    headers = "NATS/1.0\r\n"
    if batch:
        headers += f"Nats-Batch-Id: {batch}\r\nNats-Batch-Sequence: {number}\r\n"
    if expected is not None:
        headers += f"Nats-Expected-Last-Subject-Sequence: {expected}\r\n"
    if number < count:
        reply = ""
    elif batch:
        headers += "Nats-Batch-Commit: 1\r\n"
    size = len(headers) + 2
    return f"HPUB {subject} {reply} {size} {size + len(content)}\r\n{headers}\r\n".encode(), content, b"\r\n"


def _refused(error: _Error) -> int:
    if error.err_code == WRONG_LAST or error.err_code in PASSING or error.code in BUSY:
        return 0
    raise LogFailed(
        f"the replicated log refused an append: {error.description} ({error.err_code})",
        hint="`runfold doctor` says what its servers lack; send again what was not acknowledged",
    )
