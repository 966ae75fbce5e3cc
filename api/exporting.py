"""A list as a page of JSON, or all that matches as a file: JSON lines, CSV or Parquet, by `format` or `Accept`.

A file is read page by page while it is sent, so neither the database nor the memory is held by a slow reader.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import msgspec
from aiohttp import web

from api.answers import view_response
from api.asking import LIMIT_MAX, query_views
from api.service import SERVICE
from eventstore.sqlite3_module import sqlite3
from projections.exporting import FORMATS, MEDIA_TYPES, ROWS_MAX, Format, export_of


class Asked(Protocol):
    """What every list that can be taken away is asked with."""

    @property
    def min_position(self) -> int: ...

    @property
    def limit(self) -> int: ...

    @property
    def format(self) -> Format | None: ...


class Listed(Protocol):
    @property
    def items(self) -> list[Any]: ...

    @property
    def next_cursor(self) -> str | None: ...


W = TypeVar("W", bound=msgspec.Struct)


async def list_response(
    request: web.Request,
    find: Callable[[sqlite3.Connection, W], Listed],
    wanted: W,
    asked: Asked,
    *,
    kind: type[msgspec.Struct],
    name: str,
    at_cursor: Callable[[W, str], W] | None = None,
) -> web.StreamResponse:
    """`kind` is of the rows, `name` of the file; `at_cursor`: the question from a cursor on, where it is no field."""
    form = wanted_format(request, asked)
    if form is None:
        found, freshness = await query_views(request.app[SERVICE], asked.min_position, find, wanted)
        return view_response(found, freshness)
    export = export_of(kind, form)
    left = asked.limit if "limit" in request.query else ROWS_MAX
    wanted = msgspec.structs.replace(wanted, limit=min(left, LIMIT_MAX))
    found, freshness = await query_views(request.app[SERVICE], asked.min_position, find, wanted)
    response = web.StreamResponse(
        headers={
            "Content-Type": MEDIA_TYPES[form],
            "Content-Disposition": f'attachment; filename="{name}.{form}"',
            "Runfold-Position": str(freshness.position),
            **({"Runfold-Stale": "true"} if freshness.stale else {}),
        }
    )
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    while True:
        await response.write(await asyncio.to_thread(export.add, found.items[:left]))
        left -= len(found.items)
        if found.next_cursor is None or left <= 0:
            break
        if at_cursor is None:
            wanted = msgspec.structs.replace(wanted, cursor=found.next_cursor)
        else:
            wanted = at_cursor(wanted, found.next_cursor)
        found, _ = await query_views(request.app[SERVICE], 0, find, wanted)
    await response.write(await asyncio.to_thread(export.end))
    await response.write_eof()
    return response


def wanted_format(request: web.Request, asked: Asked) -> Format | None:
    """What `format` says, else the first one that `Accept` names; None is JSON, a page at a time."""
    if asked.format is not None:
        return asked.format
    for part in request.headers.get("Accept", "").split(","):
        media_type = part.partition(";")[0].strip().lower()
        for name in FORMATS:
            if media_type == MEDIA_TYPES[name]:
                return name
    return None
