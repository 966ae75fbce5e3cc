"""A stream of the servers from one place to its end, message by message."""

import asyncio
from collections.abc import AsyncGenerator

from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, DeliverPolicy

from eventstore.jetstream.cluster import Cluster

WAITING_MAX = 4_000
SILENT_SECONDS = 20.0


async def messages_after(cluster: Cluster, stream: str, position: int) -> AsyncGenerator[Msg, None]:
    """What a stream holds after a position now, in order. Raises nats.errors.Error, TimeoutError."""
    state = (await cluster.jetstream.stream_info(stream)).state
    if not state.messages or state.last_seq <= position:
        return
    arrivals: asyncio.Queue[Msg] = asyncio.Queue(WAITING_MAX)
    subscription = await cluster.jetstream.subscribe(
        f"{stream}.>",
        stream=stream,
        cb=arrivals.put,
        ordered_consumer=True,
        config=ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=position + 1),
    )
    try:
        while True:
            async with asyncio.timeout(SILENT_SECONDS):
                message = await arrivals.get()
            yield message
            # Nothing more is on its way: deleted messages at the end are not waited for.
            if not message.metadata.num_pending:
                return
    finally:
        await subscription.unsubscribe()
