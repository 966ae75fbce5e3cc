"""`runfold doctor`: the settings and where each came from, the platform, and what is wrong with them."""

import os
import platform
import sys
from pathlib import Path

import click

import runfold
from cli.data_folder import check_log
from cli.log_servers import Finding, log_servers
from cli.reading import json_option, print_json, settings_of
from cli.screen import colour, duration
from cli.server_lock import running_server
from cli.settings import ENVIRONMENT, Settings
from cli.watcher import WATCHER_HINT, is_watcher_there
from eventstore.file_systems import HOSTED, NETWORK, file_system_of
from eventstore.jetstream.address import without_password
from eventstore.journal import journal_of
from eventstore.leases import wall_us
from eventstore.log_file import LOG_FILE
from eventstore.proof.verified import read_verified
from eventstore.sqlite3_module import SQLITE_VERSION, is_affected, sqlite3
from projections.engine.health import troubles_of
from projections.engine.views import Views
from projections.stats import Queue, queue
from runfold.envelope import time_us
from runfold.errors import RunfoldError


@click.command()
@click.option("--monitor", "monitors", multiple=True, help="http://host:8222 of a server of a replicated log.")
@json_option
@click.pass_context
def doctor(context: click.Context, *, monitors: tuple[str, ...], as_json: bool) -> None:
    """Show settings, platform and what is wrong with them; exit 1 where something is."""
    settings = settings_of(context)
    rows = [(name, _shown(settings, name), settings.sources[name]) for name in ENVIRONMENT]
    findings = [_version(), _python(), _sqlite(), _platform(), _watcher(), _data_folder(settings.data)]
    findings += _file_system(settings.data)
    findings += [*log_servers(settings, monitors), *_log(settings.data), _server(settings.data)]
    problems = any(finding.level == "problem" for finding in findings)
    if as_json:
        listed = [{"name": name, "value": value, "source": source} for name, value, source in rows]
        print_json({"ok": not problems, "settings": listed, "findings": findings})
    else:
        width = max(map(len, ENVIRONMENT)) + 2
        for name, value, source in rows:
            click.echo(f"{name:<{width}}{value or '-'}   ({source})")
        click.echo()
        for finding in findings:
            level = colour(f"{finding.level:<9}", {"ok": "green", "problem": "red"}.get(finding.level, "yellow"))
            click.echo(f"{level}{finding.name}: {finding.text}")
    context.exit(1 if problems else 0)


def _shown(settings: Settings, name: str) -> str:
    value = str(getattr(settings, name))
    if name == "log":
        return without_password(value)
    return "(set)" if name == "token" and value else value


def _version() -> Finding:
    return Finding(name="runfold", level="ok", text=runfold.__version__)


def _python() -> Finding:
    return Finding(name="python", level="ok", text=f"{platform.python_version()} at {sys.executable}")


def _sqlite() -> Finding:
    by = f"{SQLITE_VERSION} by {sqlite3.__name__.partition('.')[0]}"
    if is_affected():
        return Finding(
            name="sqlite",
            level="note",
            text=f"{by}, which has the WAL-reset bug; our lock avoids it, `pip install pysqlite3` ends it",
        )
    return Finding(name="sqlite", level="ok", text=f"{by}, not affected by the WAL-reset bug")


def _watcher() -> Finding:
    if is_watcher_there():
        return Finding(name="watch", level="ok", text="files are told while a turn works")
    text = f"files are told at the end of each turn; `{WATCHER_HINT}` tells them while it works"
    return Finding(name="watch", level="ok", text=text)


def _platform() -> Finding:
    name = f"{platform.system()} {platform.release()} {platform.machine()}"
    if sys.platform == "linux":
        return Finding(name="platform", level="ok", text=name)
    return Finding(name="platform", level="note", text=f"{name}: process trees are ended by group and marker only")


def _data_folder(data: Path) -> Finding:
    nearest = next((folder for folder in (data, *data.parents) if folder.exists()), data)
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        return Finding(name="data", level="problem", text=f"`{nearest}` cannot be written; reading still works")
    size = (data / "log.db").stat().st_size if (data / "log.db").exists() else None
    held = "no log yet" if size is None else f"log of {size / 1_048_576:.1f} MiB"
    return Finding(name="data", level="ok", text=f"`{data}` can be written, {held}")


def _file_system(data: Path) -> list[Finding]:
    kind = file_system_of(data)
    if kind not in NETWORK | HOSTED:
        return []
    text = (
        f"`{data}` lies on a network file system ({kind}), whose locks cannot be relied on: two processes can damage"
        " the log; move it to a local disk while nothing runs, and name the new place with --data"
    )
    return [Finding(name="disk", level="problem", text=text)]


def _log(data: Path) -> list[Finding]:
    """Whether the log is one that we read, and whether every view follows it."""
    try:
        check_log(data)
        if not (data / LOG_FILE).exists():
            return []
        views = Views.open(data)
        try:
            freshness, checkpoints = views.refresh(), views.checkpoints()
            waiting = queue(views.connection, tenant=None)
        finally:
            views.close()
    except RunfoldError as error:
        return [Finding(name="log", level="problem", text=f"{error.message}; {error.hint}")]
    except (OSError, sqlite3.Error) as error:
        return [Finding(name="log", level="problem", text=f"it cannot be read: {error}")]
    troubles = troubles_of(checkpoints)
    if troubles:
        return [Finding(name="views", level="problem", text=f"{item.sentence}; {item.remedy}") for item in troubles]
    state = "behind the log" if freshness.stale else "as new as the log"
    text = f"{state}, at position {freshness.position}"
    views_state = Finding(name="views", level="note" if freshness.stale else "ok", text=text)
    return [views_state, _journal(data), _queue(data, waiting), _proof(data)]


def _journal(data: Path) -> Finding:
    journal = journal_of(data)
    if journal.held_by:
        return Finding(name="journal", level="problem", text=f"{journal.sentence}; {journal.remedy}")
    return Finding(name="journal", level="ok", text=f"{journal.size_bytes / 1_048_576:.1f} MiB, held by nobody")


def _proof(data: Path) -> Finding:
    """What the last whole proof came to, whoever asked for it."""
    verified = read_verified(data)
    if verified is None:
        return Finding(
            name="proof", level="ok", text="not proved yet; `runfold verify` does, and `runfold up` by itself"
        )
    where = f"up to position {verified.head}, at {verified.finished_at[:19]}Z"
    if verified.ok:
        return Finding(name="proof", level="ok", text=f"sound {where}")
    first = verified.faults[0].message if verified.faults else "what it was is not kept"
    found = "1 fault" if verified.faults_found == 1 else f"{verified.faults_found:,} faults"
    text = f"{found} {where}; the first: {first}; `runfold verify` proves it again"
    return Finding(name="proof", level="problem", text=text)


def _queue(data: Path, waiting: Queue) -> Finding:
    """How many runs wait for a worker, and how long the first of them has."""
    if waiting.oldest_at is None:
        return Finding(name="queue", level="ok", text="no run waits for a worker")
    waited = duration((wall_us() - time_us(waiting.oldest_at)) / 1_000)
    number = "1 run waits" if waiting.depth == 1 else f"{waiting.depth} runs wait"
    text = f"{number} for a worker, {waiting.oldest_run_id} for {waited}"
    if running_server(data) is None:
        return Finding(name="queue", level="note", text=f"{text}; `runfold up` starts one")
    return Finding(name="queue", level="ok", text=text)


def _server(data: Path) -> Finding:
    server = running_server(data)
    if server is None:
        return Finding(name="server", level="ok", text="not up; `runfold up` starts it")
    return Finding(
        name="server", level="ok", text=f"up at {server.url or 'an address not known yet'}, process {server.pid}"
    )
