"""`runfold up`: the API and the dashboard over one data folder, in one process, until it is told to stop."""

import asyncio
import ipaddress
import os
from contextlib import AsyncExitStack

import click
from aiohttp import web

from api.app import make_app, make_login_code
from cli.commands.open import open_browser
from cli.data_folder import prepare_folder
from cli.first_token import first_token
from cli.logging import configure_logging
from cli.node import open_node, until_told_to_stop, work
from cli.reading import settings_of
from cli.screen import is_terminal, talk
from cli.server_lock import Server, server_lock, write_lock
from cli.settings import Settings
from cli.workflow_file import watched_registry
from runfold.errors import Unavailable
from runner.by_hand import ByHand
from runner.prices import check_order
from runner.worker import SLOTS

SHUTDOWN_SECONDS = 2.0  # Streams never end by themselves; their clients come back to the next server.


@click.command()
@click.option("--port", type=int, help="The port to listen on; 0 takes any free one.")
@click.option("--host", help="The address to listen on.")
@click.option("--workers", type=click.IntRange(0, 64), default=SLOTS, help=f"Runs driven at once; {SLOTS} by default.")
@click.option("--no-browser", is_flag=True, help="Only print the link that logs a browser in.")
@click.pass_context
def up(context: click.Context, *, port: int | None, host: str | None, workers: int, no_browser: bool) -> None:
    """Serve the API and the dashboard from the data folder, and drive its queued runs."""
    settings = settings_of(context, port=port, host=host)
    configure_logging(settings.log_level)
    prepare_folder(settings.data)
    with server_lock(settings.data) as lock:
        asyncio.run(_serve(settings, lock, workers, no_browser=no_browser))


async def _serve(settings: Settings, lock: int, workers: int, *, no_browser: bool) -> None:
    stop = until_told_to_stop()
    async with open_node(settings) as node, AsyncExitStack() as stack:
        app = make_app(
            log=node.log,
            ledger=node.ledger,
            views=node.views,
            data=settings.data,
            token=await first_token(node.log, settings.data),
            allowed_hosts=_allowed_hosts(settings),
            renew=node.reporters.renew,
            registry=watched_registry(),
            left=node.spending.left,
            check_order=check_order,
            by_hand=ByHand(
                node.log,
                data=settings.data,
                registry=watched_registry(),
                repeats=_is_loopback(settings.host) and workers > 0,
            ),
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        url = await _listen(runner, settings)
        write_lock(lock, Server(pid=os.getpid(), url=url))
        link = f"{url}/login?code={make_login_code(app)}"
        click.echo(link)
        # Who reads our output with a program opens what he wants himself.
        if not no_browser and is_terminal():
            open_browser(link)
        talk(f"serving {settings.data} at {url}; the link above logs a browser in, once. Ctrl-C stops")
        await work(node, slots=workers, stop=stop)


async def _listen(runner: web.AppRunner, settings: Settings) -> str:
    """Listen, and say at which address; the port is the real one."""
    try:
        await web.TCPSite(runner, settings.host, settings.port).start()
    except OSError as error:
        raise Unavailable(
            f"cannot listen on {settings.host}:{settings.port}: {_why(error)}",
            hint="`runfold up --port 0` takes any free port",
        ) from error
    port: int = runner.addresses[0][1]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{port}"


def _why(error: OSError) -> str:
    """The system's own words; asyncio's repeat the address."""
    return os.strerror(error.errno).lower() if error.errno and error.errno > 0 else error.strerror or str(error)


def _allowed_hosts(settings: Settings) -> frozenset[str]:
    own = f"[{settings.host}]" if ":" in settings.host else settings.host
    public = {name.strip() for name in settings.public_hosts.split(",") if name.strip()}
    return frozenset({"127.0.0.1", "localhost", "[::1]", own, *public})


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
