"""Conditional appends to the stream: one request for one event, an atomic batch for several (NATS ADR-50)."""

import asyncio
import uuid

import msgspec
import nats.errors

from eventstore.jetstream.cluster import REQUEST_SECONDS, Cluster
from eventstore.jetstream.messages import encode, subject_of
from eventstore.jetstream.mirror import Planned
from runfold.errors import LogFailed

BATCHES_MAX = 40  # The server takes 50 in flight a stream, of all its clients.
WRONG_LAST = 10071  # Somebody else's event is behind `expected`.
WRONG_LAST_IN_FLIGHT = 10164  # The same, of one that is not committed yet.
TOO_MANY_BATCHES = {10176, 10199, 10200, 10210, 10211}
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
            if len(planned.messages) == 1:
                return await self._one(planned)
            async with self._room:
                return await self._batch(planned)
        except (nats.errors.Error, TimeoutError, OSError):
            return 0

    async def _one(self, planned: Planned) -> int:
        message = planned.messages[0]
        return await self._request(message.run_id, encode(message), _expecting(planned.expected))

    async def _batch(self, planned: Planned) -> int:
        batch = uuid.uuid4().hex
        headers = [{"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(n + 1)} for n in range(len(planned.messages))]
        headers[0].update(_expecting(planned.expected))
        headers[-1]["Nats-Batch-Commit"] = "1"
        *most, last = zip(planned.messages, headers, strict=True)
        for message, header in most:
            subject = subject_of(self._cluster.name, message.run_id)
            await self._cluster.client.publish(subject, encode(message), headers=header)
        return await self._request(last[0].run_id, encode(last[0]), last[1])

    async def _request(self, run_id: str, content: bytes, headers: dict[str, str]) -> int:
        subject = subject_of(self._cluster.name, run_id)
        answer = await self._cluster.client.request(subject, content, timeout=REQUEST_SECONDS, headers=headers)
        ack = _ack(answer.data)
        if ack.error is None:
            return ack.seq
        if ack.error.err_code in (WRONG_LAST, WRONG_LAST_IN_FLIGHT) or ack.error.code in BUSY:
            return 0
        if ack.error.err_code in TOO_MANY_BATCHES:
            return 0
        raise LogFailed(
            f"the replicated log refused an append: {ack.error.description} ({ack.error.err_code})",
            hint="`runfold doctor` says what its servers lack; send again what was not acknowledged",
        )


def _expecting(position: int) -> dict[str, str]:
    return {"Nats-Expected-Last-Subject-Sequence": str(position)}
