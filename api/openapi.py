"""OpenAPI 3.1 of the route table, from the very types that the handlers decode and encode."""

import re
from collections.abc import Iterable
from typing import Any

import msgspec
from aiohttp import web

import runfold
from api.answers import json_response
from api.problems import Problem
from api.routes import TABLE, Route
from projections.exporting import MEDIA_TYPES

_TEMPLATE = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"\{([a-z_]+)\}")


async def get_openapi(request: web.Request) -> web.Response:
    routes: tuple[Route, ...] = request.app[TABLE]
    return json_response(openapi(routes))


def openapi(routes: Iterable[Route]) -> dict[str, Any]:
    table = tuple(route for route in routes if route.described)
    kinds: list[Any] = [Problem]
    for route in table:
        kinds += [kind for kind in (route.body, route.query, route.answer) if kind is not None]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_TEMPLATE)
    schema_of = dict(zip(map(_key, kinds), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in table:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schema_of, components)
    for route in table:
        components.pop(route.query.__name__, None)
    return {
        "openapi": "3.1.0",
        "info": {"title": "runfold", "version": runfold.__version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "runfold_session_8321",
                    "description": "The name ends with the server's port",
                },
            },
        },
        "security": [{"token": []}, {"session": []}],
    }


def _key(kind: Any) -> str:
    return repr(kind)


def _tag(route: Route) -> str:
    """The group under which a reader finds it: what its path begins with."""
    return route.path.split("/")[2] if route.path.startswith("/api/") and route.operation != "get_openapi" else "server"


def _operation(route: Route, schema_of: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(route.path)
    ]
    query = components.get(route.query.__name__, {})
    parameters += [
        {"name": name, "in": "query", "required": name in query.get("required", ()), "schema": schema}
        for name, schema in query.get("properties", {}).items()
    ]
    answer: dict[str, Any] = {"description": route.summary}
    if route.answer is not None:
        answer["content"] = {route.media_type: {"schema": schema_of[_key(route.answer)]}}
        if route.is_taken_away:
            answer["content"] |= {media_type: {"schema": {"type": "string"}} for media_type in MEDIA_TYPES.values()}
    elif route.status == 200:
        answer["content"] = {route.media_type: {"schema": {"type": "string"}}}
    operation: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
        "tags": [_tag(route)],
        "parameters": parameters,
        "responses": {
            str(route.status): answer,
            "default": {
                "description": "What went wrong, and what to do next",
                "content": {"application/problem+json": {"schema": schema_of[_key(Problem)]}},
            },
        },
    }
    if route.needs == "open":
        operation["security"] = []
    else:
        operation["x-runfold-role"] = route.needs
    if route.body is not None:
        operation["requestBody"] = {
            "required": any(field.required for field in msgspec.structs.fields(route.body)),
            "content": {"application/json": {"schema": schema_of[_key(route.body)]}},
        }
    return operation


ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/api/openapi.json",
        operation="get_openapi",
        handler=get_openapi,
        summary="This description",
        needs="viewer",
        answer=dict[str, Any],
    ),
)
