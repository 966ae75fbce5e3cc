"""Every route stands beside its handler, says who may call it, and is described; none is forgotten in between."""

import importlib
import pkgutil
from types import ModuleType
from typing import Any

import pytest

import api
from api.app import ROUTES
from api.openapi import openapi
from api.routes import Route

MODULES = [importlib.import_module(f"api.{found.name}") for found in pkgutil.iter_modules(api.__path__)]
DECLARING = [module for module in MODULES if module.__name__ != "api.app" and hasattr(module, "ROUTES")]
DESCRIPTION: dict[str, Any] = openapi(ROUTES)


def test_the_application_answers_what_its_modules_declare_and_nothing_else() -> None:
    declared: list[Route] = [route for module in DECLARING for route in module.ROUTES]

    assert sorted(map(_name, declared)) == sorted(map(_name, ROUTES))


@pytest.mark.parametrize("module", DECLARING, ids=lambda module: module.__name__)
def test_a_route_is_declared_beside_its_handler(module: ModuleType) -> None:
    elsewhere = [_name(route) for route in module.ROUTES if route.handler.__module__ != module.__name__]

    assert elsewhere == []


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_a_route_is_described_with_who_may_call_it(route: Route) -> None:
    if not route.described:
        # Only what a browser loads before anybody has logged in stands outside the description.
        assert (route.method, route.needs) == ("GET", "open")
        return
    operation = DESCRIPTION["paths"][route.path][route.method.lower()]

    assert operation["operationId"] == route.operation
    assert operation["summary"] == route.summary
    assert operation.get("x-runfold-role") == (None if route.needs == "open" else route.needs)
    assert ("security" in operation) is (route.needs == "open")
    assert str(route.status) in operation["responses"]


def _name(route: Route) -> str:
    return f"{route.method} {route.path}"
