"""What takes the place of events that were rewritten, in a stream beside the log's, and the erasing of what they were.

A message of a stream cannot be changed, only erased. What is left of its event is put here first, under its position;
then an event of the log says so; then every mirror that comes to that event takes what is left, and sees to it that
the message is erased. A mirror that begins later finds a hole in the log, and here what stands in it.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec
from nats.js.api import StorageType, StreamConfig
from nats.js.errors import APIError, BadRequestError, NotFoundError

from eventstore.jetstream.cluster import REQUEST_SECONDS, Cluster
from eventstore.jetstream.messages import Message, encode, subject_of
from eventstore.jetstream.scanning import messages_after
from runfold.errors import LogFailed, TooLarge

GONE = ("not found", "no message found", "deleted message")
"""How the servers say that there is nothing to erase any more; the codes are of failed deletes in general."""
AT_ONCE_MAX = 64
FILES_BYTES_MAX = 768 * 1024  # The servers take a message of a megabyte.


class Files(msgspec.Struct, frozen=True, kw_only=True):
    """What every machine does with its own files: paint over (offset, length) of those of a run, remove blobs.

    `is_emptied`: the run's files go, but for its `state.json`.
    """

    run_id: str
    paints: dict[str, list[tuple[int, int]]] = {}
    removals: tuple[str, ...] = ()
    is_emptied: bool = False


_encode_files = msgspec.msgpack.Encoder().encode
_decode_files = msgspec.msgpack.Decoder(Files).decode


class Rewritten:
    """Methods raise nats.errors.Error and TimeoutError where the servers do not answer."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.name = f"{cluster.name}-rewritten"
        self._read_to = 0
        self._is_made = False

    async def put(self, left: Sequence[tuple[int, Message]]) -> None:
        """Put what is left of events, by their positions; what was left of them before is erased."""
        await self._make()
        room = asyncio.Semaphore(AT_ONCE_MAX)

        async def put_one(position: int, message: Message) -> None:
            async with room:
                await self._put(str(position), encode(message))

        await asyncio.gather(*(put_one(position, message) for position, message in left))

    async def put_files(self, event_id: str, files: Files) -> None:
        """Raises TooLarge."""
        content = _encode_files(files)
        if len(content) > FILES_BYTES_MAX:
            raise TooLarge(
                f"the text stands in too many places of the files of `{files.run_id}`",
                hint="redact a longer text, or trim the run",
            )
        await self._make()
        await self._put(f"files.{event_id}", content)

    async def files(self, event_id: str) -> Files | None:
        try:
            found = await self._cluster.jetstream.get_last_msg(self.name, f"{self.name}.files.{event_id}", direct=False)
        except NotFoundError:
            return None
        return _decode_files(found.data or b"")

    async def fresh(self) -> AsyncGenerator[tuple[int, bytes], None]:
        """What was put since this was last asked: position and message; the later one of a position counts."""
        try:
            async with aclosing(messages_after(self._cluster, self.name, self._read_to)) as messages:
                async for message in messages:
                    place = message.subject.removeprefix(f"{self.name}.")
                    if place.isdigit():
                        yield int(place), message.data
                    self._read_to = message.metadata.sequence.stream
        except NotFoundError:
            return  # Nothing was ever rewritten in this log.

    async def erase(self, positions: Sequence[int]) -> None:
        """Overwrite the messages of the log at these positions on all servers; what is gone stays gone."""
        room = asyncio.Semaphore(AT_ONCE_MAX)

        async def erase_one(position: int) -> None:
            async with room:
                await self._erase(self._cluster.name, position)

        await asyncio.gather(*(erase_one(position) for position in positions))

    async def shorten(self, run_id: str) -> None:
        """Take all messages of a run but its last, which keeps its id from being given again."""
        await self._cluster.jetstream.purge_stream(
            self._cluster.name, subject=subject_of(self._cluster.name, run_id), keep=1
        )

    async def _put(self, place: str, content: bytes) -> None:
        jetstream, subject = self._cluster.jetstream, f"{self.name}.{place}"
        try:
            before = await jetstream.get_last_msg(self.name, subject, direct=False)
        except NotFoundError:
            before = None
        await jetstream.publish(subject, content, timeout=REQUEST_SECONDS)
        if before is not None and before.seq:
            await self._erase(self.name, before.seq)

    async def _erase(self, stream: str, position: int) -> None:
        # The client's own method cannot say that it is to be overwritten, which is what the server does if not told.
        answer = await self._cluster.client.request(
            f"$JS.API.STREAM.MSG.DELETE.{stream}",
            json.dumps({"seq": position, "no_erase": False}).encode(),
            timeout=REQUEST_SECONDS,
        )
        error = json.loads(answer.data).get("error")
        if error and not any(words in error.get("description", "") for words in GONE):
            if error.get("code") in (408, 503):
                raise TimeoutError(error.get("description"))
            raise LogFailed(
                f"the servers do not erase position {position}: {error.get('description')}",
                hint="the stream must allow deletes: `nats stream edit`",
            )

    async def _make(self) -> None:
        if self._is_made:
            return
        held = await self._cluster.jetstream.stream_info(self._cluster.name)
        config = StreamConfig(
            name=self.name,
            subjects=[f"{self.name}.>"],
            storage=StorageType.FILE,
            num_replicas=held.config.num_replicas,
        )
        try:
            await self._cluster.jetstream.add_stream(config)  # pyright: ignore[reportUnknownMemberType]  # Its keywords have no types.
        except (BadRequestError, APIError):
            # Another machine has made it.
            await self._cluster.jetstream.stream_info(self.name)
        self._is_made = True
