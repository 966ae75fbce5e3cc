"""A real server on a real log for the tests of HTTP: two tenants, three roles."""

import hashlib
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from api.app import make_app
from api.sessions import Scope
from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from projections.service import ViewService
from tests.logs import logs

ADMIN = "admin-token"
VIEWER = "viewer-token"
OPERATOR = "operator-token"
OTHER = "other-token"


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


TOKENS = {
    digest(VIEWER): Scope(tenant="default", role="viewer", actor="user:viewer"),
    digest(OPERATOR): Scope(tenant="default", role="operator", actor="user:operator"),
    digest(OTHER): Scope(tenant="other", role="operator", actor="user:other"),
}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@dataclass
class Served:
    app: web.Application
    client: TestClient[Any, Any]
    log: SqliteLog
    ledger: Ledger

    @property
    def cookie(self) -> str:
        """The name of the cookie of a browser's session."""
        return f"runfold_session_{self.client.port}"

    async def ask(self, method: str, path: str, *, token: str = ADMIN, headers: Any = None, **kwargs: Any) -> Any:
        return await self.client.request(
            method, path, headers={**bearer(token), **(headers or {})}, allow_redirects=False, **kwargs
        )

    async def open_run(self, *, token: str = ADMIN, key: str | None = None, **body: Any) -> str:
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        response = await self.ask("POST", "/api/runs/external", token=token, headers=headers, json=body)
        assert response.status == 201, await response.text()
        return str(response.headers["Location"].rpartition("/")[2])

    async def report(self, run_id: str, *events: dict[str, Any], **kwargs: Any) -> Any:
        return await self.ask("POST", f"/api/runs/{run_id}/events", json={"events": events}, **kwargs)

    async def events(self, run_id: str) -> list[dict[str, Any]]:
        """The run's first events, as the API gives them."""
        answer = await self.ask("GET", f"/api/runs/{run_id}/events?limit=200")
        return list((await answer.json())["items"])

    async def control(self, run_id: str, action: str, **body: Any) -> Any:
        return await self.ask("POST", f"/api/runs/{run_id}/control", json={"action": action, **body})


class Server(TestServer):
    """As `runfold up` serves: a request goes on when its client has gone. aiohttp's own server for tests cancels it."""

    async def _make_runner(self, **kwargs: Any) -> web.BaseRunner:
        return await super()._make_runner(**{**kwargs, "handler_cancellation": False})


@asynccontextmanager
async def serving(data: Path, *, now_us: Callable[[], int] | None = None, **options: Any) -> AsyncGenerator[Served]:
    """`now_us` is the clock of the log."""
    log = await (logs.open(data) if now_us is None else logs.open(data, now_us=now_us))
    views = await ViewService.open(data)
    ledger = Ledger(log)
    app = make_app(
        log=log,
        ledger=ledger,
        views=views,
        data=data,
        token=ADMIN,
        allowed_hosts=frozenset({"127.0.0.1", "localhost"}),
        scopes=TOKENS,
        **options,
    )
    try:
        async with TestClient(Server(app)) as client:
            yield Served(app, client, log, ledger)
    finally:
        await views.close()
        await log.close()


def note(number: int) -> dict[str, Any]:
    return {"type": "message", "data": {"text": f"message {number}"}}
