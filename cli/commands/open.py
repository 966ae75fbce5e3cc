"""`runfold open`: the dashboard, at a run's page where one is named, in a browser that is logged in by the way."""

import os
import sys
import webbrowser

import click

from cli.reading import RunId, open_remote_of, settings_of
from cli.runs import find_run
from cli.screen import talk
from cli.server_lock import running_server
from cli.settings import Settings
from runfold.errors import NotAllowed


@click.command("open")
@click.argument("run_text", metavar="[RUN]", type=RunId(), required=False)
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@click.pass_context
def open_(context: click.Context, *, run_text: str | None, no_browser: bool) -> None:
    """Open the dashboard, or a run's page, in a browser; print the address where there is none."""
    settings = settings_of(context)
    with open_remote_of(_of_server(settings)) as server:
        page = "/" if run_text is None else f"/runs/{find_run(server, run_text).id}"
        address = f"{server.url}{server.login_path()}&next={page}"
    if not no_browser and open_browser(address):
        talk(f"opened {server.url}{page}")
        return
    click.echo(address)
    talk("the address logs a browser in, once")


def open_browser(address: str) -> bool:
    """Whether a browser with windows was found: one in this terminal would take it away from the person."""
    if sys.platform != "darwin" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        return webbrowser.open(address)
    except webbrowser.Error:
        return False


def _of_server(settings: Settings) -> Settings:
    """With the address of the server that has the data folder, where no other is named. Raises NotAllowed."""
    if settings.url:
        return settings
    server = running_server(settings.data)
    if server is None or not server.url:
        raise NotAllowed(f"no server serves `{settings.data}`", hint="`runfold up` starts one")
    return settings.at(server.url)
