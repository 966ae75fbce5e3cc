"""What each server itself holds of a log, read at that server.

Nobody can ask a server for its copy by name. But a consumer that is kept in one place delivers from the copy in that
place, and says where it is; so consumers are made until there is one at each server.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import suppress

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from eventstore.jetstream.cluster import Cluster, stream_state

PLACING_SECONDS = 20.0  # The servers place by chance, so there are more tries than servers.
FORGOTTEN_SECONDS = 60.0  # A consumer that nobody reads goes by itself.
PAGE_MESSAGES = 500
SILENT_SECONDS = 5.0


async def current_servers(cluster: Cluster) -> set[str]:
    """Those that are up and have all of the log, as its leader sees them. Raises nats.errors.Error."""
    kept = (await stream_state(cluster)).cluster
    if kept is None or not kept.leader:
        return set()
    return {kept.leader, *(it.name for it in kept.replicas or () if it.name and it.current and not it.offline)}


async def readers(cluster: Cluster) -> dict[str, str]:
    """A consumer at each server that is up and has all of the log, by the server's name. Raises nats.errors.Error."""
    found: dict[str, str] = {}
    ends = time.monotonic() + PLACING_SECONDS
    while True:
        missing = await current_servers(cluster) - found.keys()
        if not missing or time.monotonic() > ends:
            return found
        try:
            made = await cluster.jetstream.add_consumer(  # pyright: ignore[reportUnknownMemberType]  # Its keywords have no types.
                cluster.name,
                ConsumerConfig(
                    deliver_policy=DeliverPolicy.ALL,
                    ack_policy=AckPolicy.NONE,
                    num_replicas=1,
                    mem_storage=True,
                    inactive_threshold=FORGOTTEN_SECONDS,
                ),
            )
        except (NatsError, TimeoutError):
            continue  # It was to be at a server that has just died.
        server = "" if made.cluster is None else made.cluster.leader or ""
        if server in missing:
            found[server] = made.name
        else:
            with suppress(NatsError, TimeoutError):
                await cluster.jetstream.delete_consumer(cluster.name, made.name)


async def messages_at(cluster: Cluster, consumer: str) -> AsyncGenerator[Msg, None]:
    """What the copy at a consumer's place holds now, in order. Raises nats.errors.Error, TimeoutError."""
    subscription = await cluster.jetstream.pull_subscribe_bind(consumer=consumer, stream=cluster.name)
    pending = (await subscription.consumer_info()).num_pending or 0
    while pending:
        for message in await subscription.fetch(min(pending, PAGE_MESSAGES), timeout=SILENT_SECONDS):
            yield message
            pending = message.metadata.num_pending
