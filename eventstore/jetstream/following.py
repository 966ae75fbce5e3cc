"""A stream from one place on, for ever: message by message in order, or a word that one is missing.

The consumer is of the server that we are connected to, kept in memory, and gone when nobody listens. Who misses
something, or hears nothing, follows anew from where he has come. Source: docs.nats.io, "Ordered Consumers".
"""

import time
from collections.abc import Callable

from nats.errors import ConnectionReconnectingError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from eventstore.jetstream.cluster import Cluster
from eventstore.jetstream.messages import GAP

HEARTBEAT_SECONDS = 1.0  # The servers say so often that there is nothing new.
LOST_SECONDS = 2.5  # So long without even that, and nobody is there.
MAX_ACK_WAIT_SECONDS = 22 * 3600
_STATUS = b"NATS/1.0 100"
_STALLED = b"Nats-Consumer-Stalled"
_LAST = b"Nats-Last-Consumer"
_TOKENS = 9  # Of the reply subject: $JS.ACK.stream.consumer.times.position.number.time.pending; newer ones have more.


class Following:
    """`arrived` is called in this loop when there is something to `take`, or when it `is_lost`.

    What `is_known`, by its position and content, is passed over.
    """

    def __init__(
        self, cluster: Cluster, after: int, *, arrived: Callable[[], object], is_known: Callable[[int, bytes], bool]
    ) -> None:
        self._cluster, self._after, self._arrived, self._is_known = cluster, after, arrived, is_known
        self._gap = f"{cluster.name}.{GAP}".encode()
        self._came: list[tuple[int, bytes]] = []
        self._replies: list[str] = []
        self._number = 0
        self._subscription = 0
        self._heard_at = self.came_at = time.monotonic()
        self._is_torn = False

    async def begin(self) -> None:
        """Raises nats.errors.Error, TimeoutError, OSError."""
        connection = self._cluster.client
        if not connection.is_connected:
            raise ConnectionReconnectingError
        inbox = connection.new_inbox()
        self._subscription = await connection.deliver(inbox, self._arrive)
        await self._cluster.jetstream.add_consumer(  # pyright: ignore[reportUnknownMemberType]  # Its keywords have no types.
            self._cluster.name,
            config=ConsumerConfig(
                deliver_subject=inbox,
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=self._after + 1,
                ack_policy=AckPolicy.NONE,
                max_deliver=1,
                ack_wait=MAX_ACK_WAIT_SECONDS,
                flow_control=True,
                idle_heartbeat=HEARTBEAT_SECONDS,
                num_replicas=1,
                mem_storage=True,
            ),
        )
        self._heard_at = self.came_at = time.monotonic()

    async def end(self) -> None:
        """Raises nats.errors.Error."""
        if self._subscription:
            await self._cluster.client.end_delivery(self._subscription)

    @property
    def has_come(self) -> bool:
        return bool(self._came)

    @property
    def is_lost(self) -> bool:
        """Whether something is missing, or nobody is there any more."""
        return self._is_torn or time.monotonic() - self._heard_at > LOST_SECONDS

    async def take(self) -> list[tuple[int, bytes]]:
        """Positions and contents that came since; and lets more of them come. Raises nats.errors.Error."""
        came, self._came = self._came, []
        replies, self._replies = self._replies, []
        for reply in replies:
            await self._cluster.client.publish(reply)
        return came

    def _arrive(self, subject: bytes, reply: bytes, headers: bytes, content: bytes) -> None:
        self._heard_at = time.monotonic()
        if headers.startswith(_STATUS):
            self._be_told(reply, headers)
            return
        tokens = reply.split(b".")
        at = 5 if len(tokens) == _TOKENS else 7
        number = int(tokens[at + 1])
        if number != self._number + 1:
            self._tear()
        if self._is_torn:
            return
        self._number = number
        self.came_at = self._heard_at
        position = int(tokens[at])
        if subject != self._gap and not self._is_known(position, content):
            self._came.append((position, content))
            self._arrived()

    def _be_told(self, reply: bytes, headers: bytes) -> None:
        """That there is nothing new, or that more comes only when it is said that there is room."""
        if reply:
            self._replies.append(reply.decode())
        told = {name: value for name, _, value in (line.partition(b":") for line in headers.split(b"\r\n"))}
        if _STALLED in told:
            self._replies.append(told[_STALLED].strip().decode())
        if _LAST in told and int(told[_LAST]) != self._number:
            self._tear()
        if self._replies:
            self._arrived()

    def _tear(self) -> None:
        self._is_torn = True
        self._arrived()
