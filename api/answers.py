"""Typed values into responses: JSON, entity tags, and lists whose events are spliced in without decoding."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from projections.engine.projector import Freshness
from runfold.envelope import Recorded, envelope_json

_encode = msgspec.json.Encoder().encode


def json_response(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=_encode(value), status=status, content_type="application/json", headers=headers)


def view_response(value: Any, freshness: Freshness, *, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer from the views says how far they have read, and in its body too where that is not far enough.

    `Runfold-Stale: folding` is soon over: the views are being folded.
    """
    headers = {**(headers or {}), "Runfold-Position": str(freshness.position)}
    if freshness.stale:
        headers["Runfold-Stale"] = "folding" if freshness.behind else "true"
        value = {**msgspec.json.decode(_encode(value)), "stale": True, "views_position": freshness.position}
    return json_response(value, headers=headers)


def ready_response(content: bytes, freshness: Freshness) -> web.Response:
    """An answer that is JSON already, and not stale."""
    headers = {"Runfold-Position": str(freshness.position)}
    return web.Response(body=content, content_type="application/json", headers=headers)


def is_held_by_caller(request: web.Request, tag: str) -> bool:
    """Whether the caller has that entity tag already, so that 304 says everything."""
    held = {part.strip().removeprefix("W/") for part in request.headers.get("If-None-Match", "").split(",")}
    return tag in held or "*" in held


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
