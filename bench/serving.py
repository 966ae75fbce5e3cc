"""A server to be measured, in this process: ours on a data folder, or a yardstick beside it."""

from contextlib import AsyncExitStack
from pathlib import Path

from aiohttp import web

from api.app import make_app
from eventstore.ledger import Ledger
from eventstore.sqlite import SqliteLog
from projections.service import ViewService

TOKEN = "bench-token"


async def serve(stack: AsyncExitStack, app: web.Application) -> int:
    """Its port on 127.0.0.1; it ends with the stack."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port: int = runner.addresses[0][1]
    return port


async def open_ours(stack: AsyncExitStack, folder: Path) -> tuple[web.Application, SqliteLog]:
    """Our application, its admin's token `TOKEN`, and its log; both end with the stack."""
    log = await SqliteLog.open(folder)
    stack.push_async_callback(log.close)
    views = await ViewService.open(folder)
    stack.push_async_callback(views.close)
    hosts = frozenset({"127.0.0.1"})
    app = make_app(log=log, ledger=Ledger(log), views=views, data=folder, token=TOKEN, allowed_hosts=hosts)
    return app, log
