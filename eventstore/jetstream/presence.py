"""Which workers of all machines live: each says so now and then, and what it said is gone when it has been silent."""

import asyncio
from contextlib import suppress

from nats.errors import Error as NatsError
from nats.js.api import StorageType, StreamConfig
from nats.js.errors import APIError, BadRequestError, NotFoundError

from eventstore.jetstream.cluster import RETRY_SECONDS, Cluster, heard
from eventstore.jetstream.messages import subject_of
from runfold.errors import Unavailable

ALIVE_SECONDS = 30  # A leader that dies leaves a gap of up to 9 s in which nobody can say that he lives.
TRIES = 10
NAMES_MAX = 50  # Each is a question to the servers of the log.


class JetStreamPresence:
    """A stream of one message a worker, which expires (NATS ADR-43, per-message TTL)."""

    def __init__(self, cluster: Cluster, *, alive_seconds: int = ALIVE_SECONDS) -> None:
        self._cluster = cluster
        self._name = f"{cluster.name}-workers"
        self._alive_seconds = alive_seconds
        self._is_made = False

    async def beat(self, name: str) -> None:
        """Say that a name lives, for `ALIVE_SECONDS` from now. Raises Unavailable."""
        try:
            await heard(self._make())
            headers = {"Nats-TTL": str(self._alive_seconds)}
            subject = subject_of(self._name, name)
            for _ in range(TRIES - 1):
                # A stream that was just made has no leader for a moment.
                with suppress(NatsError, TimeoutError):
                    await heard(self._cluster.jetstream.publish(subject, name.encode(), headers=headers))
                    return
                await asyncio.sleep(RETRY_SECONDS)
            await heard(self._cluster.jetstream.publish(subject, name.encode(), headers=headers))
        except (NatsError, APIError, TimeoutError, OSError) as error:
            raise _unavailable(error) from error

    async def is_alive(self, name: str) -> bool:
        """Whether it has said so in time, as the stream's leader knows. Raises Unavailable."""
        try:
            await heard(self._make())
            subject = subject_of(self._name, name)
            await heard(self._cluster.jetstream.get_last_msg(self._name, subject, direct=False))
        except NotFoundError:
            return False
        except (NatsError, APIError, TimeoutError, OSError) as error:
            raise _unavailable(error) from error
        return True

    async def alive(self) -> tuple[str, ...]:
        """The names that have said so in time, `NAMES_MAX` at most. Raises Unavailable."""
        try:
            await heard(self._make())
            of_stream = await heard(self._cluster.jetstream.stream_info(self._name, subjects_filter=f"{self._name}.>"))
            subjects = sorted(of_stream.state.subjects or {})[:NAMES_MAX]
            return tuple(filter(None, [await self._name_at(subject) for subject in subjects]))
        except (NatsError, APIError, TimeoutError, OSError) as error:
            raise _unavailable(error) from error

    async def _name_at(self, subject: str) -> str | None:
        try:
            said = await heard(self._cluster.jetstream.get_last_msg(self._name, subject, direct=False))
        except NotFoundError:
            return None  # It fell silent just now.
        return (said.data or b"").decode()

    async def leave(self, name: str) -> None:
        """Say that a name is gone. Raises Unavailable."""
        try:
            await heard(self._make())
            subject = subject_of(self._name, name)
            await heard(self._cluster.jetstream.purge_stream(self._name, subject=subject))
        except (NatsError, APIError, TimeoutError, OSError) as error:
            raise _unavailable(error) from error

    async def _make(self) -> None:
        if self._is_made:
            return
        held = await self._cluster.jetstream.stream_info(self._cluster.name)
        config = StreamConfig(
            name=self._name,
            subjects=[f"{self._name}.>"],
            storage=StorageType.FILE,
            num_replicas=held.config.num_replicas,
            max_msgs_per_subject=1,
            allow_msg_ttl=True,
        )
        try:
            await self._cluster.jetstream.add_stream(config)  # pyright: ignore[reportUnknownMemberType]  # Its keywords have no types.
        except BadRequestError:
            # Another server has made it, or an operator has changed it.
            await self._cluster.jetstream.stream_info(self._name)
        self._is_made = True


def _unavailable(error: Exception) -> Unavailable:
    return Unavailable(
        f"who of the workers lives cannot be asked or said: {type(error).__name__}",
        hint="a majority of the log's servers must be up",
    )
