"""What every reading command shares: the settings, the views at the log's head, and a run found by what was typed."""

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import click
import msgspec

from cli.screen import talk
from cli.settings import Settings, load_settings
from eventstore.reading import bounds, data_version, open_reader, read_page
from projections.runs import RunFilter, find_run_ids, get_run, list_runs, newest_run_id
from projections.views import Views
from runfold.envelope import Recorded
from runfold.errors import BadRequest, NotFound
from runfold.snapshot import Snapshot
from runfold.state import RESTING

POLL_SECONDS = 0.05  # A person sees no delay, and an idle watcher costs next to nothing.
ENDS = frozenset({"run_completed", "run_failed", "run_cancelled", "run_stopped"})


def settings_of(context: click.Context, **flags: object) -> Settings:
    return load_settings({**(context.find_root().obj or {}), **flags})


@contextmanager
def open_views(settings: Settings) -> Generator[Views, None, None]:
    """The views, caught up with the log."""
    if not (settings.data / "log.db").exists():
        raise NotFound(
            f"there are no runs in `{settings.data}` yet",
            hint="`runfold run -- COMMAND` records one; `runfold doctor` says where runs are kept",
        )
    views = Views.open(settings.data)
    try:
        if views.refresh().stale:
            talk("note: the views are behind the log; what follows may be older than the last event")
        yield views
    finally:
        views.close()


def find_run(views: Views, text: str) -> Snapshot:
    """The run that was meant: an id, a unique beginning of one (also without `r_`), or `@last`."""
    run_id = newest_run_id(views.connection, None) if text == "@last" else _complete(views, text)
    snapshot = get_run(views.connection, run_id, tenant=None) if run_id else None
    if snapshot is None:
        raise NotFound(f"there is no run `{text}`", hint=_did_you_mean(views, text))
    return snapshot


def _complete(views: Views, text: str) -> str | None:
    if not text:
        return None
    for prefix in (text, f"r_{text}"):
        found = find_run_ids(views.connection, prefix, tenant=None, limit=4)
        if prefix in found:
            return prefix
        if len(found) > 1:
            raise BadRequest(
                f"`{text}` is the beginning of more than one run",
                hint=f"type more of it: {', '.join(found[:3])}{', …' if len(found) > 3 else ''}",
            )
        if found:
            return found[0]
    return None


def _did_you_mean(views: Views, text: str) -> str:
    import difflib

    recent = [item.id for item in list_runs(views.connection, RunFilter(tenant=None, limit=200)).items]
    if not recent:
        return "`runfold run -- COMMAND` records the first one"
    beginnings = {run_id[: max(len(text), 5)]: run_id for run_id in recent}
    wanted = text if text.startswith("r_") else f"r_{text}"
    near = difflib.get_close_matches(wanted, beginnings, n=1, cutoff=0.7)
    return f"did you mean `{beginnings[near[0]]}`?" if near else "`runfold ps` lists the runs, `@last` is the newest"


def print_json(value: object) -> None:
    click.echo(msgspec.json.encode(value))


def follow(settings: Settings, views: Views, run_id: str, *, after: int) -> Iterator[Recorded]:
    """The run's events from a position on; ends when all are delivered and the run rests."""
    connection = open_reader(settings.data)
    try:
        check = True
        seen: object = None
        while True:
            changed = data_version(connection)
            if changed == seen:
                time.sleep(POLL_SECONDS)
                continue
            seen = changed
            head = bounds(connection).last
            while after < head:
                page = read_page(connection, after=after, stream=run_id, upto=head)
                check = check or any(recorded.type in ENDS for recorded in page.events)
                yield from page.events
                after = page.scanned_to
            if check and _rests(views, run_id, at_most=after):
                return
            check = False
    finally:
        connection.close()


def _rests(views: Views, run_id: str, *, at_most: int) -> bool:
    views.refresh()
    snapshot = get_run(views.connection, run_id, tenant=None)
    return snapshot is None or (snapshot.status in RESTING and snapshot.position <= at_most)


class RunId(click.ParamType[str]):
    """A run as typed; completes the ids of recent runs."""

    name = "run"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        with open_views(settings_of(ctx)) as views:
            items = list_runs(views.connection, RunFilter(tenant=None, limit=50)).items
        return [CompletionItem(item.id, help=item.title) for item in items if item.id.startswith(incomplete)]


run_argument = click.argument("run_text", metavar="RUN", type=RunId())
json_option = click.option("--json", "as_json", is_flag=True, help="Print what the API would print.")
