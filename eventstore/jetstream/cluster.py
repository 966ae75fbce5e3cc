"""The connection to the servers, what they must be for the log's promises to hold, and the stream that is the log."""

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec
from nats.errors import Error as NatsError
from nats.errors import NoServersError
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig, StreamInfo
from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError

from eventstore.jetstream.address import Address
from eventstore.jetstream.connection import Connection
from runfold.errors import BadRequest, Unavailable

SERVER_MIN = (2, 14)  # Before 2.12 two writers of a cluster could both win one append (nats-server issue 4320).
REPLICAS = 3
CONNECT_SECONDS = 30.0
REQUEST_SECONDS = 3.0
RECONNECT_SECONDS = 0.2
RETRY_SECONDS = 0.2
PING_SECONDS = 2  # A server that stands still keeps its connections; so one that misses three is left.
PINGS_MISSED_MAX = 2
STREAM_NAME_IN_USE = 10058
LOG_ID = "runfold_log_id"

_T = TypeVar("_T")


class Cluster(msgspec.Struct, frozen=True):
    """An open connection and the log on it."""

    client: Connection
    jetstream: JetStreamContext
    name: str
    log_id: str


class StreamBounds(msgspec.Struct, frozen=True):
    """How many messages a stream has, and the positions of the first and the last."""

    messages: int = 0
    first_seq: int = 0
    last_seq: int = 0


class _Led(msgspec.Struct, frozen=True):
    leader: str = ""


class _Told(msgspec.Struct, frozen=True):
    """What every reader asks of a stream's description; the client makes objects of all of it, at twice the cost."""

    state: StreamBounds = StreamBounds()
    cluster: _Led | None = None
    error: dict[str, Any] | None = None


_told = msgspec.json.Decoder(_Told).decode


class Follower(msgspec.Struct, frozen=True):
    """A copy of the log beside the leader's; `lag` in appends, where it is not `is_current`."""

    name: str
    is_up: bool
    is_current: bool
    lag: int


class Copies(msgspec.Struct, frozen=True):
    """Who keeps the log: how many copies are asked for, and where they are; `leader` is empty while there is none."""

    name: str
    count: int
    leader: str
    followers: tuple[Follower, ...]


async def connect(
    address: Address,
    *,
    replicas: int = REPLICAS,
    patience_seconds: float = CONNECT_SECONDS,
    new_log_id: Callable[[], str] = lambda: str(uuid.uuid4()),
) -> Cluster:
    """Connect and make the stream where it is absent. Raises Unavailable, BadRequest."""
    client = Connection()
    try:
        async with asyncio.timeout(patience_seconds):
            await client.connect(
                # In another order each time, but then in turn: who leaves a server does not come back to it next.
                servers=random.sample(address.servers, len(address.servers)),
                dont_randomize=True,
                name="runfold",
                max_reconnect_attempts=-1,
                reconnect_time_wait=RECONNECT_SECONDS,  # type: ignore[arg-type]  # Declared int, used as seconds.
                ping_interval=PING_SECONDS,
                max_outstanding_pings=PINGS_MISSED_MAX,
                error_cb=_quiet,
            )
            _check_version(client)
            await client.listen()
            jetstream = JetStreamContext(client, timeout=REQUEST_SECONDS)
            return Cluster(
                client, jetstream, address.name, await _log_id(jetstream, address.name, replicas, new_log_id)
            )
    except (TimeoutError, OSError, NoServersError, NatsError) as error:
        await client.close()
        servers = ", ".join(server.rpartition("@")[2].removeprefix("nats://") for server in address.servers)
        raise Unavailable(
            f"no log at {servers}: {type(error).__name__} {error}".rstrip(),
            hint="start its servers (a majority must be up), or correct the address of the log",
        ) from error
    except BaseException:
        await client.close()
        raise


async def heard(work: Coroutine[Any, Any, _T]) -> _T:
    """Wait for the servers' answer in a task of its own, so that who waits can be cancelled.

    A cancellation that meets the answer on its way is swallowed inside the client, by `asyncio.wait_for` of Python
    3.11 (python/cpython issue 86296), and what should have ended would go on for ever.
    """
    return await asyncio.shield(asyncio.ensure_future(work))


async def stream_bounds(cluster: Cluster) -> StreamBounds:
    """Where the stream begins and ends, as its leader knows it now. Raises nats.errors.Error, TimeoutError."""
    answer = await cluster.client.ask(
        lambda reply: f"PUB $JS.API.STREAM.INFO.{cluster.name} {reply} 0\r\n\r\n".encode(),
        timeout_seconds=REQUEST_SECONDS,
    )
    told = _told(answer)
    if told.error is not None:
        APIError.from_error(told.error)
    if told.cluster is not None and not told.cluster.leader:
        # A server that has lost the others soon knows no leader, and still tells where its own copy ends.
        raise ServiceUnavailableError(code=503, description=f"the stream `{cluster.name}` has no leader here")
    return told.state


async def stream_state(cluster: Cluster) -> StreamInfo:
    """The stream as its leader knows it now. Raises nats.errors.Error."""
    return await cluster.jetstream.stream_info(cluster.name)


async def copies(address: Address, *, patience_seconds: float = CONNECT_SECONDS) -> Copies:
    """Who keeps the log at an address, now. Raises Unavailable, BadRequest."""
    cluster = await connect(address, patience_seconds=patience_seconds)
    try:
        held = await stream_state(cluster)
    except (NatsError, TimeoutError) as error:
        raise Unavailable(f"the log `{cluster.name}` has no leader now: {type(error).__name__}") from error
    finally:
        await cluster.client.close()
    kept = held.cluster
    followers = tuple(
        Follower(replica.name or "", not replica.offline, bool(replica.current), replica.lag or 0)
        for replica in ((kept.replicas if kept is not None else None) or [])
    )
    leader = (kept.leader if kept is not None else None) or ""
    return Copies(cluster.name, held.config.num_replicas or 1, leader, followers)


def _check_version(client: Connection) -> None:
    version = client.connected_server_version
    if (version.major, version.minor) < SERVER_MIN:
        wanted = ".".join(map(str, SERVER_MIN))
        raise BadRequest(
            f"nats-server {version.major}.{version.minor}.{version.patch} is too old, at least {wanted} is needed",
            hint="upgrade the servers: older ones let two writers win one append",
        )


async def _log_id(jetstream: JetStreamContext, name: str, replicas: int, new_log_id: Callable[[], str]) -> str:
    """The id of the log; whoever makes the stream gives it one."""
    config = StreamConfig(
        name=name,
        subjects=[f"{name}.>"],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        num_replicas=replicas,
        discard=DiscardPolicy.NEW,
        allow_atomic=True,
        metadata={LOG_ID: new_log_id()},
    )
    ends = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            held = await jetstream.stream_info(name)
            return _checked(held, name)
        except NotFoundError:
            try:
                await jetstream.add_stream(config)  # pyright: ignore[reportUnknownMemberType]  # Its keywords have no types.
            except NatsError as error:
                # Also where an answer was lost: whether the stream was made is asked next.
                if getattr(error, "err_code", 0) != STREAM_NAME_IN_USE and time.monotonic() > ends:
                    raise
        except (NatsError, APIError):
            # A cluster that has just started elects its leaders first.
            if time.monotonic() > ends:
                raise
        await asyncio.sleep(RETRY_SECONDS)


def _checked(held: StreamInfo, name: str) -> str:
    config = held.config
    log_id = (config.metadata or {}).get(LOG_ID)
    if log_id is None or list(config.subjects or ()) != [f"{name}.>"]:
        raise BadRequest(
            f"the stream `{name}` is not a log of runfold", hint="name another one: nats://host:4222/another-name"
        )
    for wrong, wanted in (
        (config.storage != StorageType.FILE, "file storage"),
        (not config.allow_atomic, "allow_atomic: true"),
        (config.discard != DiscardPolicy.NEW, "discard: new"),
        (config.retention not in (None, RetentionPolicy.LIMITS), "retention: limits"),
        (bool(config.max_age), "no max_age, which would cut the head off a long run"),
        (config.max_msgs_per_subject not in (-1, 0), "no max_msgs_per_subject"),
    ):
        if wrong:
            raise BadRequest(f"the stream `{name}` was changed: it needs {wanted}", hint=f"nats stream edit {name}")
    return log_id


async def _quiet(_error: Exception) -> None:
    """The client tries again by itself; whoever waits for it is told by his own error."""
