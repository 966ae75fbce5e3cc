"""A log in another process, spoken to over a socket, as if it were here."""

import asyncio
import atexit
import contextlib
import functools
import itertools
import pickle
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from eventstore.contract import Appended, Bounds, EventLog, Page
from eventstore.sqlite import SqliteLog
from runfold.envelope import NewEvent, Recorded

ROOT = Path(__file__).parents[2]
_size = struct.Struct(">I")


async def _receive(reader: asyncio.StreamReader) -> Any:
    size = _size.unpack(await reader.readexactly(_size.size))[0]
    return pickle.loads(await reader.readexactly(size))


def _framed(message: Any) -> bytes:
    content = pickle.dumps(message)
    return _size.pack(len(content)) + content


class RemoteLog(EventLog):
    """Every call goes to the other process; pages are asked for one by one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Queue[Any]] = {}
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def open(cls, data: Path, address: Path) -> "RemoteLog":
        reader, writer = await asyncio.open_unix_connection(address)
        writer.write(_framed(data))
        return cls(reader, writer)

    async def append(self, stream: str, events: Sequence[NewEvent], *, expected: int) -> Appended:
        answer: Appended = await self._call("append", stream, events, expected=expected)
        return answer

    async def bounds(self) -> Bounds:
        answer: Bounds = await self._call("bounds")
        return answer

    async def last(self, stream: str) -> Recorded | None:
        answer: Recorded | None = await self._call("last", stream)
        return answer

    async def position_of(self, stream: str, version: int) -> int | None:
        answer: int | None = await self._call("position_of", stream, version)
        return answer

    async def find(self, stream: str, *, ids: Sequence[str] = (), commands: Sequence[str] = ()) -> tuple[Recorded, ...]:
        answer: tuple[Recorded, ...] = await self._call("find", stream, ids=ids, commands=commands)
        return answer

    async def read(
        self, *, after: int = 0, stream: str | None = None, upto: int | None = None
    ) -> AsyncGenerator[Page, None]:
        async for page in self._pages("read", after=after, stream=stream, upto=upto):
            yield page

    async def tail(self, *, after: int, stream: str | None = None) -> AsyncGenerator[Page, None]:
        async for page in self._pages("tail", after=after, stream=stream):
            yield page

    async def redact(
        self, stream: str, *, texts: Sequence[str] = (), positions: Sequence[int] = (), reason: str = "", actor: str
    ) -> bool:
        answer: bool = await self._call("redact", stream, texts=texts, positions=positions, reason=reason, actor=actor)
        return answer

    async def archive(self, streams: Sequence[str], path: Path) -> None:
        await self._call("archive", streams, path)

    async def trim(self, streams: Sequence[str], *, actor: str) -> tuple[str, ...]:
        answer: tuple[str, ...] = await self._call("trim", streams, actor=actor)
        return answer

    async def close(self) -> None:
        if self._writer.can_write_eof() and not self._writer.is_closing():
            self._writer.write_eof()
        await self._listening
        self._writer.close()

    async def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        number, answers = self._ask(method, args, kwargs)
        try:
            return _raised(await answers.get())
        finally:
            del self._answers[number]

    async def _pages(self, method: str, **kwargs: Any) -> AsyncGenerator[Page, None]:
        number, answers = self._ask(method, (), kwargs)
        try:
            while (page := _raised(await answers.get())) is not None:
                yield page
                self._writer.write(_framed((number, "more", (), {})))
        finally:
            del self._answers[number]
            self._writer.write(_framed((number, "stop", (), {})))

    def _ask(self, method: str, args: Any, kwargs: Any) -> tuple[int, asyncio.Queue[Any]]:
        number = next(self._numbers)
        self._answers[number] = asyncio.Queue()
        self._writer.write(_framed((number, method, args, kwargs)))
        return number, self._answers[number]

    async def _listen(self) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                number, answer = await _receive(self._reader)
                if number in self._answers:
                    self._answers[number].put_nowait(answer)
        for answers in self._answers.values():
            answers.put_nowait(ConnectionResetError("the other process is gone"))


def _raised(answer: Any) -> Any:
    if isinstance(answer, BaseException):
        raise answer
    return answer


async def serve(log: EventLog, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer what is asked until the input ends."""
    tasks: dict[int, asyncio.Task[None]] = {}
    wanted: dict[int, asyncio.Event] = {}

    def answer(number: int, content: Any) -> None:
        writer.write(_framed((number, content)))

    async def work(number: int, method: str, args: Any, kwargs: Any) -> None:
        try:
            if method in ("read", "tail"):
                async with contextlib.aclosing(getattr(log, method)(*args, **kwargs)) as pages:
                    async for page in pages:
                        answer(number, page)
                        await wanted[number].wait()
                        wanted[number].clear()
                answer(number, None)
            else:
                answer(number, await getattr(log, method)(*args, **kwargs))
        except Exception as error:
            answer(number, error)

    with contextlib.suppress(asyncio.IncompleteReadError):
        while True:
            number, method, args, kwargs = await _receive(reader)
            if method == "more":
                wanted[number].set()
            elif method == "stop":
                tasks[number].cancel()
            else:
                wanted[number] = asyncio.Event()
                tasks[number] = asyncio.create_task(work(number, method, args, kwargs))
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


@functools.cache
def address() -> Path:
    """Where this process's neighbour listens; it is started by the first who asks, and ends with this process."""
    folder = tempfile.mkdtemp(prefix="runfold-contract-")
    path = Path(folder) / "socket"
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.contract.process", str(path)], stdin=pipe, stdout=pipe, cwd=ROOT
    )

    def end() -> None:
        process.communicate()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return path


async def main() -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        log = await SqliteLog.open(await _receive(reader))
        await serve(log, reader, writer)
        await log.close()
        writer.close()

    server = await asyncio.start_unix_server(connected, sys.argv[1])
    print("ready", flush=True)
    # The one who started this process holds the other end, and lets go of it at the latest when it dies.
    await asyncio.to_thread(sys.stdin.buffer.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
