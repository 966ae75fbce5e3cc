"""Conditional appends to the stream: one request for one event, an atomic batch for several (NATS ADR-50)."""

import asyncio
import uuid

import msgspec
import nats.errors

from eventstore.jetstream.cluster import REQUEST_SECONDS, Cluster
from eventstore.jetstream.messages import Message, encode, subject_of
from eventstore.jetstream.mirror import Planned
from runfold.errors import LogFailed

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


class Publisher:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._room = asyncio.Semaphore(BATCHES_MAX)

    async def publish(self, planned: Planned) -> int:
        """Append after `planned.expected`, all or nothing; the position of the last event.

        0: not appended there, or nobody knows. Raises LogFailed for what no retry mends.
        """
        try:
            for _ in range(TRIES_MAX):
                ack = await self._send(planned)
                if ack.error is None:
                    return ack.seq
                if ack.error.err_code not in PASSING:
                    return _refused(ack.error)
                await asyncio.sleep(PASSING_SECONDS)
        except (nats.errors.Error, TimeoutError, OSError):
            pass
        return 0

    async def _send(self, planned: Planned) -> "_Ack":
        *most, last = planned.messages
        if not most:
            return await self._request(last, _expecting(planned.expected))
        batch = uuid.uuid4().hex
        headers = [{"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(n)} for n in range(1, len(most) + 2)]
        headers[0].update(_expecting(planned.expected))
        async with self._room:
            for message, header in zip(most, headers, strict=False):
                subject = subject_of(self._cluster.name, message.run_id)
                await self._cluster.client.publish(subject, encode(message), headers=header)
            return await self._request(last, {**headers[-1], "Nats-Batch-Commit": "1"})

    async def _request(self, message: Message, headers: dict[str, str]) -> "_Ack":
        subject = subject_of(self._cluster.name, message.run_id)
        answer = await self._cluster.client.request(subject, encode(message), timeout=REQUEST_SECONDS, headers=headers)
        return _ack(answer.data)


def _refused(error: _Error) -> int:
    if error.err_code == WRONG_LAST or error.code in BUSY:
        return 0
    raise LogFailed(
        f"the replicated log refused an append: {error.description} ({error.err_code})",
        hint="`runfold doctor` says what its servers lack; send again what was not acknowledged",
    )


def _expecting(position: int) -> dict[str, str]:
    return {"Nats-Expected-Last-Subject-Sequence": str(position)}
