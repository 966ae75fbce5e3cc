"""The log on SQLite: appends of many callers share one durable commit, and readers wake when it is done."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar, cast

import aiosqlite

from eventstore import reading
from eventstore.contract import PAGE_EVENTS, TAIL_BYTES, Appended, Bounds, Done, EventLog, Page, not_rewritten
from eventstore.damage import is_passing, telling_damage
from eventstore.framing import Framed, Framing
from eventstore.gathering import Gathering, Waiting
from eventstore.looking import AHEAD_READS, POLL_SECONDS, READ_PAGES, READ_ROWS_MAX, Looks, Seen
from eventstore.preparing import Request, prepare
from eventstore.proof.checking import Checks, checks_of, get_ready, open_checked
from eventstore.ready import ReadyPages
from eventstore.splicing import FIRST_ROWS, FRAMES_BYTES, PAGE_ROWS
from eventstore.sqlite3_module import sqlite3
from eventstore.writing import Writer
from runfold.envelope import NewEvent, Recorded
from runfold.errors import LogFailed, RunfoldError, Unavailable

AGAIN_HINT = "try again; where it stays so, `runfold doctor` says what is wrong here"

_T = TypeVar("_T")
_P = ParamSpec("_P")
_Outcome: TypeAlias = Appended | RunfoldError


class SqliteLog(EventLog):
    """One writer task with its own connection and thread; readers on read-only connections, in pages."""

    _folder: Path | None = None
    """Where the log can be rewritten; None where others hold it too."""

    def __init__(
        self,
        writer: Writer,
        writes: aiosqlite.Connection,
        reads: aiosqlite.Connection,
        checks: Checks | None = None,
    ) -> None:
        self._checks = checks
        self._writer = writer
        self._writes = writes
        self._reads = reads
        self._gathering = Gathering()
        self._woken = asyncio.Event()
        self._woken_of: dict[str, asyncio.Event] = {}
        self._pages = Looks[Page]()
        self._framed = Looks[Framed]()
        self._ready = ReadyPages()
        self._tails = 0
        self._poll_task: asyncio.Task[None] | None = None
        self._failure = ""
        self._is_full = False
        self._now_us: Callable[[], int] = lambda: time.time_ns() // 1000
        self._write_task = asyncio.create_task(self._write(), name="log writer")

    @classmethod
    async def open(cls, data: Path, *, now_us: Callable[[], int] = lambda: time.time_ns() // 1000) -> "SqliteLog":
        """The log of a data folder, made where absent. Raises BadRequest for a foreign or newer file."""
        made: list[Writer] = []

        def connect() -> sqlite3.Connection:
            made.append(Writer(data, now_us))
            return made[0].connection

        writes = await connected(connect)
        try:
            reads = await connected(lambda: open_checked(data))
            await hop(reads, get_ready)
        except BaseException:
            await hop(writes, made[0].abandon)
            await writes.close()
            raise
        log = cls(made[0], writes, reads, checks_of(data))
        log._folder, log._now_us = data, now_us
        return log

    async def append(self, stream: str, events: Sequence[NewEvent], *, expected: int) -> Appended:
        future: asyncio.Future[_Outcome] = asyncio.get_running_loop().create_future()
        done = partial(_answer, future)
        if not self.offer(stream, events, expected=expected, done=done):
            await self.submit(stream, events, expected=expected, done=done)
        # A caller that is cancelled here gives up its answer only: the writer task goes on.
        outcome = await future
        if isinstance(outcome, RunfoldError):
            raise outcome
        return outcome

    async def submit(self, stream: str, events: Sequence[NewEvent], *, expected: int, done: Done) -> None:
        while not self.offer(stream, events, expected=expected, done=done):
            await self._wait_for_room()

    def offer(self, stream: str, events: Sequence[NewEvent], *, expected: int, done: Done) -> bool:
        request = prepare(stream, events, expected)
        if self._gathering.is_closed:
            raise Unavailable("the log is closed", hint="try again when the service is back")
        return self._accept(request, done)

    def _accept(self, request: Request, done: Done) -> bool:
        return self._gathering.add(request, done)

    async def _wait_for_room(self) -> None:
        await self._gathering.wait_for_room()

    async def bounds(self) -> Bounds:
        return await self._read(reading.bounds)

    @property
    def damaged(self) -> int:
        return 0 if self._checks is None else len(self._checks.damaged)

    async def last(self, stream: str) -> Recorded | None:
        return await self._read(reading.last, stream)

    async def position_of(self, stream: str, version: int) -> int | None:
        return await self._read(reading.position_of, stream, version)

    async def find(self, stream: str, *, ids: Sequence[str] = (), commands: Sequence[str] = ()) -> tuple[Recorded, ...]:
        return await self._read(reading.find, stream, ids=ids, commands=commands)

    async def read(
        self, *, after: int = 0, stream: str | None = None, upto: int | None = None
    ) -> AsyncGenerator[Page, None]:
        if upto is None:
            # Most of what is asked for is one page; where to end is only asked for where it is more.
            page = await self._read(reading.read_page, after=after, stream=stream)
            if page.scanned_to > after:
                yield page
            if len(page.events) < PAGE_EVENTS:
                return
            after, upto = page.scanned_to, max(page.scanned_to, (await self.bounds()).last)
        while True:
            page = await self._read(reading.read_page, after=after, stream=stream, upto=upto)
            if page.events:
                yield page
            if page.scanned_to <= after or page.scanned_to >= upto:
                if not page.events and page.scanned_to > after:
                    yield page
                return
            after = page.scanned_to

    async def tail(self, *, after: int, stream: str | None = None) -> AsyncGenerator[Page, None]:
        async with aclosing(self._follow(after, stream, lambda after: self.page(after=after, stream=stream))) as pages:
            async for page in pages:
                yield page

    async def page(self, *, after: int, stream: str | None = None) -> Page:
        async def look(after: int) -> tuple[Page]:
            return (await self._read(reading.read_page, after=after, stream=stream, size_bytes=TAIL_BYTES),)

        return await self._pages.page(after, stream, look)

    async def frames(self, *, after: int, framing: Framing, stream: str | None = None) -> AsyncGenerator[Framed, None]:
        def look(after: int) -> Coroutine[Any, Any, Framed]:
            return self.framed(after=after, stream=stream, framing=framing)

        async with aclosing(self._follow(after, stream, look)) as pages:
            async for page in pages:
                yield page

    async def framed(self, *, after: int, framing: Framing, stream: str | None = None, begins: bool = False) -> Framed:
        async def look(after: int, rows_max: int = PAGE_ROWS, reads: int = 1) -> list[Framed]:
            read = self._ready.read_on
            return await self._read(read, after=after, stream=stream, framing=framing, rows_max=rows_max, reads=reads)

        first = partial(look, rows_max=FIRST_ROWS) if begins else look
        page = await self._framed.page(after, (stream, framing), first)
        # What is looked for ahead of a first page would only keep it from being written.
        if page.is_full and not begins:
            rows = READ_PAGES * FRAMES_BYTES * page.rows // max(1, len(page.content)) or PAGE_ROWS
            look_on = partial(look, rows_max=min(READ_ROWS_MAX, rows), reads=AHEAD_READS)
            if self._framed.ahead(page, (stream, framing), look_on):
                # So that it is begun before this page is written, and not after all that follow it.
                await asyncio.sleep(0)
        return page

    async def _follow(
        self, after: int, stream: str | None, look: Callable[[int], Coroutine[Any, Any, Seen]]
    ) -> AsyncGenerator[Seen, None]:
        """What `look` finds after a place, again and again; waits at the head.

        Who follows one stream is woken at once for that stream alone: to see that others went on, the poll is enough.
        """
        self._tails += 1
        if self._poll_task is None or self._poll_task.done():
            self._poll_task = asyncio.create_task(self._poll(), name="log poll")
        try:
            while True:
                # Taken before the page is read: a commit between the two is then not slept through.
                woken = self._woken if stream is None else self._woken_of.setdefault(stream, asyncio.Event())
                page = await look(after)
                if page.scanned_to > after:
                    after = page.scanned_to
                    yield page
                if not page.is_full:
                    await woken.wait()
        finally:
            self._tails -= 1

    async def redact(
        self, stream: str, *, texts: Sequence[str] = (), positions: Sequence[int] = (), reason: str = "", actor: str
    ) -> bool:
        if self._folder is None:
            raise not_rewritten()
        from eventstore.keeping.redacting import redact

        done = await asyncio.to_thread(
            redact, self._folder, stream, texts=texts, positions=positions, reason=reason, actor=actor
        )
        self._wake()
        return done.is_gone

    async def archive(self, streams: Sequence[str], path: Path) -> None:
        if self._folder is None:
            raise not_rewritten()
        from eventstore.keeping.archive import write_archive

        await asyncio.to_thread(write_archive, self._folder, path, streams, now_us=time.time_ns() // 1000)

    async def trim(self, streams: Sequence[str], *, actor: str) -> tuple[str, ...]:
        if self._folder is None:
            raise not_rewritten()
        from eventstore.keeping.cleaning import trim

        gone = await asyncio.to_thread(trim, self._folder, streams, actor=actor)
        self._wake()
        return gone

    async def close(self) -> None:
        """Finish what was taken, then let go of the files. Appends after it are Unavailable."""
        if self._closing:
            await asyncio.wait([self._write_task])
            return
        self._gathering.close()
        self._wake()
        await self._write_task
        if self._poll_task is not None:
            await self._poll_task
        await self._stop()
        await self._reads.close()
        await hop(self._writes, self._writer.abandon if self._failure else self._writer.close)
        await self._writes.close()

    async def _stop(self) -> None:
        """End what else goes on beside the connections, before they are closed."""

    async def _read(
        self, function: Callable[Concatenate[sqlite3.Connection, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        if self._closing:
            raise Unavailable("the log is closed", hint="try again when the service is back")
        try:
            with telling_damage():
                return await hop(self._reads, lambda: function(self._reads._conn, *args, **kwargs))
        except sqlite3.DatabaseError as error:
            if not is_passing(error):
                raise
            raise Unavailable(f"the log cannot be read now: {error}", hint=AGAIN_HINT) from error

    @property
    def _closing(self) -> bool:
        return self._gathering.is_closed

    async def _write(self) -> None:
        while True:
            await self._gathering.gather()
            group = self._gathering.take()
            if not group:
                return
            await self._serve(group)
            self._gathering.expect(len(group))

    async def _serve(self, group: Sequence[Waiting]) -> None:
        outcomes = await self._commit([request for request, _ in group])
        self._trust(outcomes)
        for (_, done), outcome in zip(group, outcomes, strict=True):
            done(outcome)
        self._wake(request.stream for request, _ in group)

    def _trust(self, outcomes: Sequence[_Outcome]) -> None:
        if self._checks is None:
            return
        fresh = [it for it in outcomes if isinstance(it, Appended) and not it.duplicate]
        if fresh:
            # What one transaction adds stands together.
            self._checks.trust(fresh[0].first, fresh[-1].last)

    async def _commit(self, requests: Sequence[Request]) -> Sequence[_Outcome]:
        if self._is_full:
            await self._reopen()
        if not self._failure:
            try:
                ahead = self._writer.judge_ahead(requests)
                return await hop(self._writes, lambda: self._writer.append(requests, ahead))
            except Unavailable as error:
                return [Unavailable(error.message, hint=error.hint) for _ in requests]
            except Exception as error:
                # Whether it is on the disk is unknown now, so no further promise is made on this connection.
                self._failure = f"{type(error).__name__}: {error}"
                self._is_full = (
                    self._folder is not None and getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL
                )
        hint = "free or repair the disk, then start runfold again; send again what was not acknowledged"
        if self._is_full:
            hint = "free some of the disk: the log goes on by itself; send again what was not acknowledged"
        return [LogFailed(f"the log stopped writing: {self._failure}", hint=hint) for _ in requests]

    async def _reopen(self) -> None:
        """On a new connection, which reads again what is on the disk: the old one makes no promise any more.

        Only after a disk that was full, which says so before anything is lost; not after one that failed to sync.
        """

        def reopen() -> Writer:
            assert self._folder is not None  # noqa: S101
            self._writer.abandon()
            return Writer(self._folder, self._now_us)

        try:
            self._writer = await hop(self._writes, reopen)
        except (Unavailable, sqlite3.Error, OSError):
            return  # It is as full as it was.
        self._failure, self._is_full = "", False

    def _wake(self, streams: Iterable[str] | None = None) -> None:
        """Wake who reads all, and who reads one of these streams; None: any of them may have moved."""
        self._pages.forget()
        self._framed.forget()
        woken, self._woken = self._woken, asyncio.Event()
        woken.set()
        if not self._woken_of:
            return
        for stream in list(self._woken_of) if streams is None else streams:
            if stream in self._woken_of:
                self._woken_of.pop(stream).set()

    async def _poll(self) -> None:
        """Wake the readers for what other processes commit, for as long as somebody reads."""
        seen: int | None = None
        while self._tails and not self._closing:
            try:
                version = await self._read(reading.data_version)
            except (sqlite3.Error, Unavailable):
                version = None  # The readers meet the error themselves.
            if version is None or version != seen:
                seen = version
                self._wake()
            await asyncio.sleep(POLL_SECONDS)


def _answer(future: asyncio.Future[_Outcome], outcome: _Outcome) -> None:
    if not future.done():
        future.set_result(outcome)


async def connected(connector: Callable[[], sqlite3.Connection]) -> aiosqlite.Connection:
    connection = aiosqlite.Connection(connector, iter_chunk_size=64)
    try:
        return await connection
    except BaseException:
        # Its thread has one more answer to give, and must not outlive the event loop it gives it to.
        await asyncio.to_thread(connection._thread.join)
        raise


async def hop(connection: aiosqlite.Connection, function: Callable[[], _T]) -> _T:
    """Run a function in the connection's thread."""
    execute = cast("Callable[[Callable[[], _T]], asyncio.Future[_T]]", connection._execute)  # pyright: ignore[reportUnknownMemberType]
    return await execute(function)
