"""The log on JetStream: an append is decided against the mirror, granted by the stream, and answered from the mirror.

Who has an answer therefore reads what he wrote; who asks for the head asks the leader; who follows reads the mirror.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import aiosqlite

from eventstore.contract import Bounds, Page
from eventstore.jetstream.address import Address
from eventstore.jetstream.cluster import CONNECT_SECONDS, REPLICAS, Cluster, connect
from eventstore.jetstream.granting import GrantedLog
from eventstore.jetstream.mirror import Mirror
from eventstore.jetstream.presence import JetStreamPresence
from eventstore.jetstream.seeding import seed_mirror
from eventstore.log_file import open_reader
from eventstore.mirrored import Mirrored
from eventstore.sqlite import connected, hop
from eventstore.sqlite3_module import sqlite3
from runfold.envelope import Recorded

if TYPE_CHECKING:
    from eventstore.jetstream.rewriting import Rewriter
    from eventstore.keeping.cleaning import Candidate, Cleaned
    from eventstore.keeping.redacting import Redacted


class JetStreamLog(GrantedLog):
    """As the log on SQLite, but a commit is the stream's, and a task of its own brings the stream into the mirror."""

    began_at = 0
    """Up to where a new mirror was brought from another machine's snapshot."""

    def __init__(
        self,
        cluster: Cluster,
        data: Path,
        mirror: Mirror,
        head: tuple[int, int],
        writes: aiosqlite.Connection,
        reads: aiosqlite.Connection,
    ) -> None:
        super().__init__(cluster, mirror, head, writes, reads)
        self.presence = JetStreamPresence(cluster)
        self._mirrored_in = data

    @classmethod
    async def connect(
        cls,
        address: Address,
        data: Path,
        *,
        blobs: str = "",
        replicas: int = REPLICAS,
        patience_seconds: float = CONNECT_SECONDS,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> "JetStreamLog":
        """The log at an address, mirrored in a folder; `blobs`: the store it shares. Raises Unavailable, BadRequest."""
        cluster = await connect(address, replicas=replicas, patience_seconds=patience_seconds)
        mirrored = Mirrored(address=address.shown, log_id=cluster.log_id, blobs=blobs)
        made: list[Mirror] = []

        def open_mirror() -> sqlite3.Connection:
            made.append(Mirror(data, now_us, mirrored))
            return made[0].connection

        try:
            began_at = await seed_mirror(cluster, data, blobs) if blobs else 0
            writes = await connected(open_mirror)
            try:
                head = await hop(writes, lambda: made[0].head)
                reads = await connected(lambda: open_reader(data))
            except BaseException:
                await hop(writes, made[0].abandon)
                await writes.close()
                raise
        except BaseException:
            await cluster.client.close()
            raise
        log = cls(cluster, data, made[0], head, writes, reads)
        log._now_us = now_us
        log.began_at = began_at
        return log

    async def bounds(self) -> Bounds:
        await self._freshen()
        return await super().bounds()

    async def last(self, stream: str) -> Recorded | None:
        await self._freshen()
        return await super().last(stream)

    async def position_of(self, stream: str, version: int) -> int | None:
        await self._freshen()
        return await super().position_of(stream, version)

    async def find(self, stream: str, *, ids: Sequence[str] = (), commands: Sequence[str] = ()) -> tuple[Recorded, ...]:
        await self._freshen()
        return await super().find(stream, ids=ids, commands=commands)

    async def read(
        self, *, after: int = 0, stream: str | None = None, upto: int | None = None
    ) -> AsyncGenerator[Page, None]:
        await self._freshen()
        async with aclosing(super().read(after=after, stream=stream, upto=upto)) as pages:
            async for page in pages:
                yield page

    async def redact(
        self, stream: str, *, texts: Sequence[str] = (), positions: Sequence[int] = (), reason: str = "", actor: str
    ) -> bool:
        return (await self.take_out(stream, texts=texts, positions=positions, reason=reason, actor=actor)).is_gone

    async def take_out(
        self,
        stream: str,
        *,
        texts: Sequence[str] = (),
        positions: Sequence[int] = (),
        by_form: bool = False,
        reason: str = "",
        actor: str,
    ) -> "Redacted":
        """As `redact`, with what was found; `by_form`: also whatever has the form of a secret."""
        return await self._rewriter().redact(
            stream, texts=texts, positions=positions, by_form=by_form, reason=reason, actor=actor
        )

    async def archive(self, streams: Sequence[str], path: Path) -> None:
        from eventstore.keeping.archive import write_archive

        await self._freshen()
        await asyncio.to_thread(write_archive, self._mirrored_in, path, streams, now_us=time.time_ns() // 1000)

    async def trim(self, streams: Sequence[str], *, actor: str) -> tuple[str, ...]:
        return await self._rewriter().trim(streams, actor=actor)

    async def clean(self, chosen: "Sequence[Candidate]", *, whole: bool, actor: str) -> "Cleaned":
        """As `eventstore.keeping.cleaning.clean`."""
        return await self._rewriter().clean(chosen, whole=whole, actor=actor)

    def _rewriter(self) -> "Rewriter":
        from eventstore.jetstream.rewriting import Rewriter

        return Rewriter(
            self._mirrored_in,
            self._rewritten,
            self._publisher,
            append=lambda stream, events, expected: self.append(stream, events, expected=expected),
            plan=lambda requests: self._thread.do(lambda: self._mirror.plan(requests)),
            catch_up=self._catch_up,
        )
