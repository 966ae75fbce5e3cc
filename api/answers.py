"""Typed values into responses: JSON, entity tags, and lists whose events are spliced in without decoding."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from runfold.envelope import Recorded, envelope_json

_encode = msgspec.json.Encoder().encode


def json_response(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=_encode(value), status=status, content_type="application/json", headers=headers)


def tagged_response(request: web.Request, value: Any, *, version: int, headers: Mapping[str, str]) -> web.Response:
    """The value with its version as ETag, or 304 where the caller has that version already."""
    tag = f'"{version}"'
    wanted = {part.strip().removeprefix("W/") for part in request.headers.get("If-None-Match", "").split(",")}
    if tag in wanted or "*" in wanted:
        return web.Response(status=304, headers={**headers, "ETag": tag})
    return json_response(value, headers={**headers, "ETag": tag})


def events_response(
    events: Iterable[Recorded],
    *,
    total: int | None,
    next_cursor: str | None,
    as_json: Callable[[Recorded], bytes] = envelope_json,
) -> web.Response:
    items = b",".join(as_json(event) for event in events)
    body = b'{"items":[' + items + b'],"total":' + _encode(total) + b',"next_cursor":' + _encode(next_cursor) + b"}"
    return web.Response(body=body, content_type="application/json")
