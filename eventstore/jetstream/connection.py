"""The client's connection, but what is followed comes from it at once, and many messages leave it as one piece.

The client makes an object, a dictionary of headers, two queues and a task's turn of every message: six times what the
mirror does with it. Source of the protocol: docs.nats.io, "NATS Client Protocol".
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from nats.aio.client import Client, Srv
from nats.errors import ConnectionReconnectingError, NoRespondersError, ProtocolError
from nats.protocol.parser import Parser

END = b"\r\n"
CLOSE_SECONDS = 2.0  # For what a server that stands still does not take any more.
_NOBODY = b"NATS/1.0 503"
Deliver: TypeAlias = Callable[[bytes, bytes, bytes, bytes], None]
"""Is called with subject, reply subject, headers as they came, and content of a message."""
Answered: TypeAlias = Callable[[bytes | Exception], object]
"""Is called with an answer's content, or with why there is none."""


class Connection(Client):
    def __init__(self) -> None:
        super().__init__()
        self._delivered: dict[int, Deliver] = {}
        self._ps = _Parser(self, self._delivered)
        self._answers_to = ""
        self._asked = 0
        self._awaited: dict[bytes, tuple[Answered, asyncio.TimerHandle]] = {}

    async def listen(self) -> None:
        """Be ready to `ask`."""
        self._answers_to = self.new_inbox()
        await self.deliver(f"{self._answers_to}.*", self._answer)

    async def deliver(self, subject: str, deliver: Deliver) -> int:
        """Call `deliver` in this loop with each message to a subject, also after a reconnect; a number to end it by."""
        subscription = await self.subscribe(subject)  # pyright: ignore[reportUnknownMemberType]  # Part of it is untyped.
        self._delivered[subscription._id] = deliver
        return subscription._id

    async def end_delivery(self, number: int) -> None:
        """Raises nats.errors.Error."""
        self._delivered.pop(number, None)
        subscription = self._subs.get(number)
        if subscription is not None:
            await subscription.unsubscribe()

    async def ask(self, commands: Callable[[str], bytes], *, timeout_seconds: float) -> bytes:
        """Send commands of the protocol, made for the subject that the answer goes to; the answer's content.

        Raises TimeoutError, nats.errors.NoRespondersError, and ConnectionReconnectingError where nothing was sent.
        """
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        reply = self._await(partial(_settle, answer), timeout_seconds)
        try:
            await self._send(commands(reply))
            return await answer
        finally:
            self._answered(reply.encode(), None)

    def ask_at_once(self, commands: Callable[[str], bytes], *, timeout_seconds: float, answered: Answered) -> bool:
        """As `ask`, but `answered` is called as soon as the answer is read; whether it could be sent at once."""
        if not self._is_clear:
            return False
        self._write(commands(self._await(answered, timeout_seconds)))
        return True

    async def close(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await super().close()
        except TimeoutError:
            self._abort()

    async def _attempt_reconnect(self) -> None:
        while not self.is_closed:
            # What was not yet written would be waited for, also where the server takes nothing any more.
            self._abort()
            try:
                await super()._attempt_reconnect()
            except Exception as error:  # Whatever the client did not foresee: nobody else would ever try again.
                await self._error_cb(error)
                await asyncio.sleep(self.options["reconnect_time_wait"])
            else:
                return

    async def _connect_to_server(self, s: Srv) -> None:
        # What the last try began: a server that stands still takes connections, and says nothing.
        for name in ("_reading_task", "_ping_interval_task", "_flusher_task"):
            task: asyncio.Task[None] | None = getattr(self, name)
            if task is not None:
                task.cancel()
        self._abort()
        await super()._connect_to_server(s)

    def _abort(self) -> None:
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    def _await(self, answered: Answered, timeout_seconds: float) -> str:
        """A subject for an answer, and for no other."""
        self._asked += 1
        reply = f"{self._answers_to}.{self._asked}"
        patience = asyncio.get_running_loop().call_later(
            timeout_seconds, self._answered, reply.encode(), TimeoutError()
        )
        self._awaited[reply.encode()] = answered, patience
        return reply

    def _answered(self, reply: bytes, content: bytes | Exception | None) -> None:
        answered, patience = self._awaited.pop(reply, (None, None))
        if answered is None or patience is None:
            return
        patience.cancel()
        if content is not None:
            answered(content)

    @property
    def _is_clear(self) -> bool:
        """Whether nothing else waits to be written."""
        return self.is_connected and self._transport is not None and not self._pending

    def _write(self, commands: bytes) -> None:
        """At once, and not by the task that writes for everybody."""
        assert self._transport is not None  # noqa: S101
        self._transport.write(commands)

    async def _send(self, commands: bytes) -> None:
        if not self.is_connected:
            raise ConnectionReconnectingError
        if self._is_clear:
            self._write(commands)
            return
        await self._send_command(commands)
        await self._flush_pending()

    def _answer(self, subject: bytes, _reply: bytes, headers: bytes, content: bytes) -> None:
        self._answered(subject, NoRespondersError() if headers.startswith(_NOBODY) else content)


def _settle(answer: asyncio.Future[bytes], content: bytes | Exception) -> None:
    if answer.done():
        return
    if isinstance(content, Exception):
        answer.set_exception(content)
    else:
        answer.set_result(content)


class _Parser(Parser):
    """Takes messages off what was read; whatever else the servers say is the client's."""

    def __init__(self, client: Client, delivered: dict[int, Deliver]) -> None:
        self._client, self._delivered = client, delivered
        self._rest = b""
        self._resets = 0
        super().__init__(client)  # pyright: ignore[reportUnknownMemberType]

    def reset(self) -> None:
        super().reset()
        self._rest = b""
        self._resets += 1

    async def parse(self, data: bytes = b"") -> None:
        content, self._rest = self._rest + data, b""
        at, resets = 0, self._resets
        # What was read of a connection that has ended meanwhile is no beginning of what the next one says.
        while resets == self._resets:
            end = content.find(END, at)
            if end < 0:
                break
            words = content[at:end].split()
            if not words or words[0] not in (b"MSG", b"HMSG"):
                await super().parse(content[at : end + 2])
                at = end + 2
                continue
            try:
                begins, ends, after_headers, number, reply = _placed(words, end + 2)
            except (ValueError, IndexError) as error:
                raise ProtocolError from error
            if len(content) < ends + 2:
                break
            at = ends + 2
            deliver = self._delivered.get(number)
            if deliver is not None:
                deliver(words[1], reply, content[begins:after_headers], content[after_headers:ends])
            else:
                await self._client._process_msg(
                    number, words[1], reply, content[after_headers:ends], content[begins:after_headers]
                )
        if resets == self._resets:
            self._rest = content[at:]


def _placed(words: list[bytes], begins: int) -> tuple[int, int, int, int, bytes]:
    """Where a message begins, ends, and its headers end; its subscription's number, and where an answer goes."""
    has_headers = len(words[0]) == 4
    after_headers = begins + int(words[-2]) if has_headers else begins
    return (
        begins,
        begins + int(words[-1]),
        after_headers,
        int(words[2]),
        words[3] if len(words) == 5 + has_headers else b"",
    )
