"""Event streams as clients read them: by `aiohttp`, or by the bytes of the connection."""

import asyncio
from typing import Any

from tests.served import ADMIN, Served
from tests.working import PATIENCE_SECONDS


async def until(response: Any, ending: bytes) -> bytes:
    content = b""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not content.endswith(ending):
            piece = await response.content.read(65_536)
            assert piece, content
            content += piece
    return content


async def until_holds(response: Any, wanted: bytes) -> bytes:
    content = b""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while wanted not in content or not content.endswith(b"\n\n"):
            content += await response.content.read(65_536)
    return content


async def raw(
    served: Served, path: str, last_id: str, read_bytes: int, *, silent_seconds: float = PATIENCE_SECONDS
) -> bytes:
    """Ask over a bare socket, take about so many bytes of the body, or what comes until it is silent; cut the line."""
    reader, writer = await asyncio.open_connection(served.client.host, served.client.port)
    try:
        cursor = f"Last-Event-ID: {last_id}\r\n" if last_id else ""
        request = f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {ADMIN}\r\n{cursor}\r\n"
        writer.write(request.encode())
        await reader.readuntil(b"\r\n\r\n")
        content = b""
        while len(content) < read_bytes and (piece := await _piece(reader, read_bytes - len(content), silent_seconds)):
            content += piece
        return content
    finally:
        writer.transport.abort()


async def _piece(reader: asyncio.StreamReader, size: int, seconds: float) -> bytes:
    try:
        async with asyncio.timeout(seconds):
            return await reader.read(size)
    except TimeoutError:
        return b""


def whole_frames(content: bytes) -> list[tuple[str, bytes]]:
    frames = content.split(b"\n\n")[:-1]
    found: list[tuple[str, bytes]] = []
    for frame in frames:
        lines = dict(line.split(b": ", 1) for line in frame.split(b"\n") if b": " in line)
        if b"id" in lines:
            found.append((lines[b"id"].decode(), lines[b"data"]))
    return found


async def all_ids(served: Served, run_id: str) -> list[str]:
    return [event.cursor async for page in served.log.read(stream=run_id) for event in page.events]
