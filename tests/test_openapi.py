"""The description of the API is valid, and says what the table says."""

from pathlib import Path
from typing import cast

from openapi_spec_validator import OpenAPIV31SpecValidator

from api.app import ROUTES
from api.openapi import openapi
from tests.served import serving


async def test_the_served_description_is_valid_openapi(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        document = await (await served.ask("GET", "/api/openapi.json")).json()

    OpenAPIV31SpecValidator(document).validate()


def test_every_route_is_described_once() -> None:
    document = openapi(ROUTES)

    described: set[tuple[str, str]] = {
        (method.upper(), path) for path, methods in document["paths"].items() for method in methods
    }
    assert described == {(route.method, route.path) for route in ROUTES if route.described}


def test_operations_have_different_names() -> None:
    names = [route.operation for route in ROUTES]

    assert len(names) == len(set(names))


def test_every_reference_leads_somewhere() -> None:
    document = openapi(ROUTES)

    for reference in _references(document):
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


def _references(value: object) -> list[str]:
    if isinstance(value, dict):
        known = cast("dict[str, object]", value)
        own = [reference] if isinstance(reference := known.get("$ref"), str) else []
        return own + [found for child in known.values() for found in _references(child)]
    if isinstance(value, list):
        return [found for child in cast("list[object]", value) for found in _references(child)]
    return []
