"""`runfold demo`: a server, a small run that errs and mends itself, and its story on the terminal."""

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import click

from cli.commands.status import show_status
from cli.data_folder import prepare_folder
from cli.folder import FolderRuns, open_folder
from cli.lines import event_line
from cli.reading import settings_of
from cli.runs import find_run
from cli.screen import is_terminal, next_command, talk
from cli.server_lock import running_server
from cli.settings import Settings
from projections.run_list import RunFilter
from runfold.errors import Unavailable

STOP_SECONDS = 10.0
LABEL = "demo"
PYTHON = (sys.executable, "-P")  # Nothing is imported from the current folder by accident.


@click.command()
@click.option("--fast", is_flag=True, help="Do not dwell on anything.")
@click.option("--exit", "leave", is_flag=True, help="Stop the server when the run is over.")
@click.pass_context
def demo(context: click.Context, *, fast: bool, leave: bool) -> None:
    """Drive a small run and show it live."""
    settings = settings_of(context)
    prepare_folder(settings.data)
    with _server(settings) as server:
        code = _drive(settings, fast=fast)
        if server is not None and is_terminal() and not leave:
            talk("the first line is a link that logs a browser in, once; the server stays up until Ctrl-C")
            try:
                server.wait()
            except KeyboardInterrupt:
                talk("")
    context.exit(code)


@contextmanager
def _server(settings: Settings) -> Generator["subprocess.Popen[str] | None", None, None]:
    """A server on the data folder: the one that is there, or one of our own, ended with us."""
    there = running_server(settings.data)
    if there is not None:
        talk(f"the server at {there.url} shows the run")
        yield None
        return
    command = _runfold(settings, "up", "--host", settings.host, "--port", str(_port(settings)))
    # A session of its own: Ctrl-C reaches us alone, and we end it in order.
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=_environment(),
        start_new_session=True,
    ) as server:
        try:
            link = server.stdout.readline().strip() if server.stdout else ""
            if not link:
                raise Unavailable("the server did not start", hint="`runfold up` says why")
            click.echo(link)
            yield server
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()


def _drive(settings: Settings, *, fast: bool) -> int:
    """Run the program, tell its events as they are recorded, and show where it ended."""
    mark = secrets.token_hex(4)
    program = [*PYTHON, "-m", "cli.commands.demo_program", *(["--fast"] if fast else [])]
    command = _runfold(
        settings, "run", "--quiet", "--no-tty", "--title", "demo: build, err, mend", "--label", f"{LABEL}={mark}", "--"
    )
    with subprocess.Popen(
        [*command, *program], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=_environment()
    ) as driver:
        with open_folder(settings) as runs:
            run_id = _wait_for_run(runs, mark, driver)
            for recorded in runs.follow(run_id, after=0):
                if recorded.type != "subprocess_output":
                    click.echo(event_line(recorded))
            snapshot = find_run(runs, run_id)
        driver.wait()
    click.echo()
    show_status(snapshot, took_ms=snapshot.duration_ms)
    next_command(f"runfold events {run_id}")
    return 0 if snapshot.status == "completed" else 1


def _wait_for_run(runs: FolderRuns, mark: str, driver: "subprocess.Popen[bytes]") -> str:
    while True:
        over = driver.poll() is not None
        runs.views.refresh()
        found = runs.list_runs(RunFilter(tenant=None, label=f"{LABEL}={mark}", limit=1)).items
        if found:
            return found[0].id
        if over:
            raise Unavailable("the demo's run did not start", hint="`runfold doctor` says what is wrong here")
        try:
            driver.wait(0.02)
        except subprocess.TimeoutExpired:
            continue


def _runfold(settings: Settings, *arguments: str) -> list[str]:
    return [*PYTHON, "-m", "runfold", "--data", str(settings.data), *arguments]


def _environment() -> dict[str, str]:
    """Ours, and where our packages are, whatever the folder that a child starts in."""
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    # What the demo shows is on this machine, whatever server is used otherwise.
    ours = {name: value for name, value in os.environ.items() if name != "RUNFOLD_URL"}
    return {**ours, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def _port(settings: Settings) -> int:
    """The port of the settings while it is free, else any."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError:
            return 0
    return settings.port
