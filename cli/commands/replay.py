"""`runfold replay`: a run played on the terminal as it happened, with nothing but the log to go by."""

import time
from collections.abc import Iterator
from pathlib import Path

import click

from cli.archives import open_runs_or_archive
from cli.commands.status import status_lines
from cli.lines import event_line
from cli.main import Usage
from cli.reading import RunId, settings_of
from cli.runs import Runs, find_run
from cli.screen import is_terminal
from projections.past import At, parse_at
from runfold.envelope import Recorded
from runfold.errors import NotFound
from runfold.evolve import fold
from runfold.snapshot import Snapshot, snapshot
from runfold.state import new_run

PAGE_EVENTS = 200
PAUSE_SECONDS_MAX = 1.0  # A night in which nothing happened is no part of the play.
FRAME_SECONDS = 0.05
WRAP_OFF, WRAP_ON = "\x1b[?7l\x1b[?25l", "\x1b[?7h\x1b[?25h"


@click.command()
@click.argument("run_text", metavar="[RUN]", type=RunId(), required=False)
@click.option("--at", "at_text", help="Play up to this position, or this time.")
@click.option("--speed", type=click.FloatRange(min=0.001), default=10.0, show_default=True, help="Times faster.")
@click.option("--limits", "policy", type=click.Path(path_type=Path), help="Test these limits on past runs instead.")
@click.option("--since", help="With --limits: only runs opened since then: 7d, 12h, or a time.")
@click.option("--json", "as_json", is_flag=True, help="With --limits: print the result as JSON.")
@click.pass_context
def replay(
    context: click.Context,
    *,
    run_text: str | None,
    at_text: str | None,
    speed: float,
    policy: Path | None,
    since: str | None,
    as_json: bool,
) -> None:
    """Play a run on the terminal as it happened; or say what other limits would have done to past runs."""
    if (run_text is None) == (policy is None):
        raise Usage("give a run, or `--limits FILE`", hint="`runfold replay RUN` or `runfold replay --limits FILE`")
    if policy is not None:
        from cli.commands.backtest import show_backtest

        show_backtest(settings_of(context), policy, since=since, as_json=as_json)
        return
    at = At() if at_text is None else parse_at(at_text)
    with open_runs_or_archive(context, run_text or "") as (runs, wanted):
        run = find_run(runs, wanted)
        if not is_terminal():
            for recorded in _events(runs, run, at):
                click.echo(event_line(recorded))
            return
        click.echo(WRAP_OFF, nl=False)
        try:
            _play(run, _events(runs, run, at), speed)
        finally:
            click.echo(WRAP_ON, nl=False)


def _events(runs: Runs, run: Snapshot, at: At) -> Iterator[Recorded]:
    after, seen = 0, False
    while True:
        page = runs.events(run, after=after, types=(), limit=PAGE_EVENTS)
        for recorded in page.items:
            if not at.holds(recorded):
                break
            seen = True
            yield recorded
        else:
            if page.next_cursor is not None:
                after = page.items[-1].position
                continue
        if not seen:
            raise NotFound(f"run `{run.id}` was not there yet", hint="choose a later moment", run_id=run.id)
        return


def _play(shown: Snapshot, events: Iterator[Recorded], speed: float) -> None:
    """Draw the status screen whenever enough time has gone by, and at the end whatever the time."""
    run, height, drawn, before_us, last = new_run(shown.id), 0, 0.0, None, None
    for recorded in events:
        if before_us is not None:
            pause = min(max(recorded.at_us - before_us, 0) / 1e6 / speed, PAUSE_SECONDS_MAX)
            if last is not None and pause >= FRAME_SECONDS:
                height = _draw(snapshot(run, position=last.position), last, height)
                time.sleep(pause)
        before_us = recorded.at_us
        run, last = fold(run, (recorded,)), recorded
        if time.monotonic() - drawn >= FRAME_SECONDS:
            height, drawn = _draw(snapshot(run, position=recorded.position), recorded, height), time.monotonic()
    if last is not None:
        _draw(snapshot(run, position=last.position), last, height)


def _draw(run: Snapshot, recorded: Recorded, height: int) -> int:
    """Draw over what is there; the number of lines that now are."""
    lines = [*status_lines(run, took_ms=run.duration_ms), "", event_line(recorded)]
    click.echo((f"\x1b[{height}F\x1b[J" if height else "") + "\n".join(lines))
    return len(lines)
