"""What a server does before it listens keeps nobody waiting for long."""

import asyncio
import threading
from pathlib import Path

from aiohttp.test_utils import TestServer

from api.app import make_app
from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from projections.service import ViewService


async def test_a_server_listens_while_its_views_are_busy(tmp_path: Path) -> None:
    log, views, is_over = await SqliteLog.open(tmp_path), await ViewService.open(tmp_path), threading.Event()
    folding = asyncio.create_task(views.query(lambda _: is_over.wait()))
    app = make_app(
        log=log, ledger=Ledger(log), views=views, data=tmp_path, token="t", allowed_hosts=frozenset({"127.0.0.1"})
    )
    server = TestServer(app)
    try:
        async with asyncio.timeout(30):
            await server.start_server()
        is_busy = not folding.done()
    finally:
        is_over.set()
        await folding
        await server.close()
        await views.close()
        await log.close()

    assert is_busy
