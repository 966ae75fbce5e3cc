"""`runfold up`: the API and the dashboard over one data folder, in one process, until it is told to stop."""

import asyncio
import os
import secrets
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import click
import structlog
from aiohttp import web

from api.app import make_app, make_login_code
from cli.folder import prepare_folder
from cli.logging import configure_logging
from cli.proving import prove_now_and_then
from cli.reading import settings_of
from cli.run import local_actor
from cli.screen import talk
from cli.server_lock import Server, server_lock, write_lock
from cli.settings import Settings
from cli.workflow_file import watched_registry
from eventstore.contract import EventLog, Presence
from eventstore.ledger import Ledger
from eventstore.opening import open_log
from projections.runs import active_runs
from projections.service import ViewService
from projections.spending import Spending
from runfold.errors import RunfoldError, Unavailable
from runfold.redact import secrets_of
from runner.claims import Claims
from runner.elsewhere import LOOK_SECONDS as ELSEWHERE_SECONDS
from runner.elsewhere import lose_silent
from runner.intake import take_in_spool
from runner.reactor import LOOK_SECONDS, Reactor
from runner.recover import recover
from runner.reported import Reporters
from runner.worker import SLOTS, Worker

SHUTDOWN_SECONDS = 2.0  # Streams never end by themselves; their clients come back to the next server.
SWEEP_SECONDS = 1.0
TOKEN_FILE = "token"  # noqa: S105 The name of a file.


@click.command()
@click.option("--port", type=int, help="The port to listen on; 0 takes any free one.")
@click.option("--host", help="The address to listen on.")
@click.option("--workers", type=click.IntRange(0, 64), default=SLOTS, help=f"Runs driven at once; {SLOTS} by default.")
@click.pass_context
def up(context: click.Context, *, port: int | None, host: str | None, workers: int) -> None:
    """Serve the API and the dashboard from the data folder, and drive its queued runs."""
    settings = settings_of(context, port=port, host=host)
    configure_logging(settings.log_level)
    prepare_folder(settings.data)
    with server_lock(settings.data) as lock:
        asyncio.run(_serve(settings, lock, workers))


async def _serve(settings: Settings, lock: int, workers: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    logger = structlog.get_logger()
    async with AsyncExitStack() as stack:
        log = await open_log(settings.data, settings.log)
        stack.push_async_callback(log.close)
        ledger = Ledger(log, data=settings.data, secrets=secrets_of(os.environ))
        views = await ViewService.open(settings.data)
        stack.push_async_callback(views.close)
        reporters = Reporters(ledger, presence=log.presence)
        await _end_overdue(log, ledger, views, reporters, settings.data)
        registry = watched_registry()
        spending = Spending(views, lambda: registry().budgets)
        reactor = Reactor(ledger, left=spending.left)
        app = make_app(
            log=log,
            ledger=ledger,
            views=views,
            data=settings.data,
            token=local_token(settings.data),
            allowed_hosts=_allowed_hosts(settings.host),
            renew=reporters.renew,
            registry=registry,
            left=spending.left,
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        url = await _listen(runner, settings)
        write_lock(lock, Server(pid=os.getpid(), url=url))
        click.echo(f"{url}/login?code={make_login_code(app)}")
        talk(f"serving {settings.data} at {url}; the link above logs a browser in, once. Ctrl-C stops")
        claims = await Claims.open(settings.data, presence=log.presence)
        stack.callback(claims.close)
        worker = Worker(
            ledger, log, views, claims, data=settings.data, registry=registry, slots=workers, left=spending.left
        )
        async with asyncio.TaskGroup() as tasks:
            beside = [
                tasks.create_task(_sweep(log, ledger, views, reporters, settings.data)),
                tasks.create_task(_keep_limits(reactor, views)),
                tasks.create_task(prove_now_and_then(settings.data, settings.verify_every_seconds)),
            ]
            if log.presence is not None:
                beside.append(tasks.create_task(_lose_silent(ledger, log.presence, views)))
            await worker.work(stop)
            logger.info("stopping")
            for task in beside:
                task.cancel()


async def _sweep(log: EventLog, ledger: Ledger, views: ViewService, reporters: Reporters, data: Path) -> None:
    """Keep the deadlines of this folder's runs, whoever drives them, until cancelled."""
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        try:
            await _end_overdue(log, ledger, views, reporters, data)
        except RunfoldError as error:
            # A log that is contended or full now may not be in a second; what is overdue stays so.
            structlog.get_logger().warning("overdue runs could not be ended", error=error.message)


async def _lose_silent(ledger: Ledger, presence: Presence, views: ViewService) -> None:
    """Take the runs of machines that are gone, until cancelled."""
    while True:
        try:
            active, _ = await views.query(active_runs)
            for run_id in await lose_silent(ledger, presence, active):
                structlog.get_logger().warning("run taken from a machine that is gone", run_id=run_id)
        except RunfoldError as error:
            structlog.get_logger().warning("workers elsewhere could not be looked at", error=error.message)
        await asyncio.sleep(ELSEWHERE_SECONDS)


async def _keep_limits(reactor: Reactor, views: ViewService) -> None:
    """Keep what many runs share, and what time does to them, until cancelled."""
    while True:
        try:
            active, _ = await views.query(active_runs)
            await reactor.look(active)
        except RunfoldError as error:
            structlog.get_logger().warning("limits could not be looked at", error=error.message)
        await asyncio.sleep(LOOK_SECONDS)


async def _end_overdue(log: EventLog, ledger: Ledger, views: ViewService, reporters: Reporters, data: Path) -> None:
    for run_id in await take_in_spool(ledger, data, actor=local_actor()):
        structlog.get_logger().info("took in what was left in the spool", run_id=run_id)
    lost = await recover(ledger, log, data=data)
    active, _ = await views.query(active_runs)
    for run_id in [*lost, *await reporters.end_overdue(active)]:
        structlog.get_logger().warning("run ended: its driver is gone", run_id=run_id)


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


def _allowed_hosts(host: str) -> frozenset[str]:
    return frozenset({"127.0.0.1", "localhost", "[::1]", f"[{host}]" if ":" in host else host})


def local_token(data: Path) -> str:
    """The admin's token of this data folder, made at its first start; only the owner can read the file."""
    path = data / TOKEN_FILE
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text(encoding="ascii").strip()
    token = secrets.token_urlsafe(32)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(token + "\n")
        file.flush()
        os.fsync(file.fileno())
    return token
