"""An answer that leaves as one piece of bytes, for what is asked so often that its head must cost next to nothing."""

import time
from email.utils import formatdate
from functools import lru_cache
from typing import Any

import msgspec
from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from api.answers import json_response
from api.problems import ALWAYS, UNLESS_SAID

_encode = msgspec.json.Encoder().encode


class WholeResponse(web.StreamResponse):
    """Status 200 over HTTP/1.1, on a connection that stays open; it has the headers of every answer."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self._content = content

    @property
    def keep_alive(self) -> bool:
        return True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        writer = request.writer
        await writer.write(self._content)
        await writer.drain()
        return writer

    async def write_eof(self, data: bytes = b"") -> None:
        """All of it is written."""


def whole_json(request: web.Request, value: Any, *, name: str, said: str) -> web.StreamResponse:
    """A typed value as JSON with one header more; as any other answer where the request is not an ordinary one."""
    if request.version != HttpVersion11 or not request.keep_alive or request.method == "HEAD":
        return json_response(value, headers={name: said})
    body = _encode(value)
    return WholeResponse(b"%b%d\r\n\r\n%b" % (_head(name, said, int(time.time())), len(body), body))


@lru_cache(maxsize=64)
def _head(name: str, said: str, now_seconds: int) -> bytes:
    headers = {"Content-Type": "application/json", name: said, **UNLESS_SAID, **ALWAYS}
    headers["Date"] = formatdate(now_seconds, usegmt=True)
    lines = [f"{key}: {value}\r\n" for key, value in headers.items()]
    return f"HTTP/1.1 200 OK\r\n{''.join(lines)}Content-Length: ".encode("ascii")
