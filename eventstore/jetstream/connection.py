"""The client's connection, but what is followed comes from it at once, and many messages leave it as one piece.

The client makes an object, a dictionary of headers, two queues and a task's turn of every message: six times what the
mirror does with it. Source of the protocol: docs.nats.io, "NATS Client Protocol".
"""

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from nats.aio.client import Client, Srv
from nats.errors import ConnectionReconnectingError, NoRespondersError, ProtocolError
from nats.protocol.parser import Parser

END = b"\r\n"
_NOBODY = b"NATS/1.0 503"
Deliver: TypeAlias = Callable[[bytes, bytes, bytes, bytes], None]
"""Is called with subject, reply subject, headers as they came, and content of a message."""


class Connection(Client):
    def __init__(self) -> None:
        super().__init__()
        self._delivered: dict[int, Deliver] = {}
        self._ps = _Parser(self, self._delivered)
        self._answers_to = ""
        self._asked = 0
        self._awaited: dict[bytes, asyncio.Future[bytes]] = {}

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
        self._asked += 1
        reply = f"{self._answers_to}.{self._asked}"
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()
        self._awaited[reply.encode()] = answer
        patience = loop.call_later(timeout_seconds, _give_up, answer)
        try:
            await self._send(commands(reply))
            return await answer
        finally:
            patience.cancel()
            self._awaited.pop(reply.encode(), None)

    async def _connect_to_server(self, s: Srv) -> None:
        # What the last try opened: a server that stands still takes connections, and says nothing.
        if self._transport:  # pyright: ignore[reportGeneralTypeIssues]  # Whether it was ever opened.
            self._transport.close()  # type: ignore[no-untyped-call]
        await super()._connect_to_server(s)

    async def _send(self, commands: bytes) -> None:
        if not self.is_connected:
            raise ConnectionReconnectingError
        if self._transport is not None and not self._pending:
            # At once, and not by the task that writes for everybody.
            self._transport.write(commands)
            return
        await self._send_command(commands)
        await self._flush_pending()

    def _answer(self, subject: bytes, _reply: bytes, headers: bytes, content: bytes) -> None:
        answer = self._awaited.get(subject)
        if answer is None or answer.done():
            return
        if headers.startswith(_NOBODY):
            answer.set_exception(NoRespondersError())
        else:
            answer.set_result(content)


def _give_up(answer: asyncio.Future[bytes]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())


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
