"""`runfold status RUN`: where a run stands, on one screen."""

import os
from collections.abc import Sequence
from typing import Any

import click

from cli.archives import open_runs_or_archive
from cli.reading import json_option, print_json, run_argument
from cli.runs import find_run
from cli.screen import about, colour, cost, duration, elapsed_ms, is_terminal, plain, status_colour
from runfold.limits import words
from runfold.report import Report
from runfold.snapshot import Snapshot, Spent, Stats, without_trace
from runfold.state import RESTING, Tests

BAR_CHARACTERS = 32
DEVELOPER = "RUNFOLD_DEV"
TRACE_LINES = 60
SPENT_SHOWN = 4


@click.command()
@run_argument
@click.option("--at", metavar="POSITION|TIME", help="The run as it was: 1234, v7, or 2026-01-31T12:00:00Z.")
@json_option
@click.pass_context
def status(context: click.Context, *, run_text: str, at: str | None, as_json: bool) -> None:
    """Show where a run stands, or where it stood."""
    with open_runs_or_archive(context, run_text) as (runs, wanted):
        snapshot = find_run(runs, wanted)
        if at is not None:
            snapshot = runs.get_run_at(snapshot.id, at)
    is_developer = bool(os.environ.get(DEVELOPER))
    if as_json:
        print_json(snapshot if is_developer else without_trace(snapshot))
        return
    # What is past does not go on: its clock stands at its last event.
    show_status(snapshot, took_ms=elapsed_ms(snapshot) if at is None else snapshot.duration_ms)
    if is_developer and snapshot.error is not None and snapshot.error.stack_trace:
        for line in snapshot.error.stack_trace.splitlines()[-TRACE_LINES:]:
            click.echo(f"    {plain(line, 200)}")


def show_status(run: Snapshot, *, took_ms: float | None) -> None:
    """Print the status screen of a snapshot."""
    for line in status_lines(run, took_ms=took_ms):
        click.echo(line)


def status_lines(run: Snapshot, *, took_ms: float | None) -> list[str]:
    """The status screen of a snapshot, line by line."""
    report = run.report
    state = str(run.status if run.status in RESTING else report.status)
    name = plain(run.title or run.workflow or "", 80)
    painted = colour(state, status_colour(str(run.status)), bold=True)
    head = f"Run {run.id}   {name}   {painted} ({run.reason_code or str(run.status).upper()})"
    return [head, *(f"{label:<13}{text}" for label, text in _lines(run, report, duration(took_ms)) if text)]


def _lines(run: Snapshot, report: Report, took: str) -> list[tuple[str, str]]:
    """What there is to say, line by line; empty ones are left out."""
    details, metrics, stats = report.details, report.metrics, run.stats
    ended = run.status in RESTING
    lines: list[tuple[str, str]] = []
    if ended:
        lines.append(("Duration", took))
    else:
        left = details.get("estimated_remaining_ms")
        remaining = f"   about {about(left)} left" if left else ""
        current = _current(details, metrics)
        said = f"{current}Elapsed {took}" if current else took
        lines.append((report.unit_name.capitalize() if current else "Elapsed", f"{said}{remaining}"))
    lines += _units(run, metrics, ended=ended)
    lines.append(("Now", "" if ended else _now(run, details)))
    lines.append(("Message", plain(run.message)))
    lines.append(("Error", plain(f"{run.error.code} {run.error.message}") if run.error else ""))
    lines.append(("Turns", _counts(stats, cost_too=not metrics.get("total_units"))))
    lines.append(("Limits", _limits(run)))
    lines.append(("Models", _spent(run.spending.by_model)))
    lines.append(("Dearest", _spent(run.spending.by_step)))
    lines.append(("Tests", _tests(stats.tests)))
    if details.get("export_location"):
        valid = details.get("validation_passed")
        verdict = "" if valid is None else f"   validation {'passed' if valid else 'failed'}"
        files = ", ".join(str(item) for item in details.get("files") or ())
        lines.append(("Export", plain(f"{details['export_location']}   {files}") + verdict))
    lines.append(("Resume", plain(details.get("resume_command") or "")))
    return lines


def _limits(run: Snapshot) -> str:
    """`cost $0.90 of $1.00   time 12s of 60s`: what is used of what is allowed."""
    return "   ".join(
        f"{name.replace('_', ' ')} {words(name, it.spent, it.threshold)}" for name, it in run.limits.items()
    )


def _spent(spent: Sequence[Spent]) -> str:
    """The first few of several; one alone says nothing that the sums do not."""
    if len(spent) < 2:
        return ""
    shown = [f"{plain(it.name or 'not named', 40)} {_of_limit(it)}" for it in spent[:SPENT_SHOWN]]
    return "   ".join(shown) + (f"   and {len(spent) - SPENT_SHOWN} more" if len(spent) > SPENT_SHOWN else "")


def _of_limit(spent: Spent) -> str:
    return cost(spent.cost_usd) + (f" of ${spent.limit_usd:.2f}" if spent.limit_usd is not None else "")


def _current(details: dict[str, Any], metrics: dict[str, Any]) -> str:
    if not metrics.get("total_units") or details.get("current_unit_index") is None:
        return ""
    attempt = details.get("current_attempt") or 1
    return f"{details['current_unit_index']} of {metrics['total_units']} (attempt {attempt})      "


def _units(run: Snapshot, metrics: dict[str, Any], *, ended: bool) -> list[tuple[str, str]]:
    total = metrics.get("total_units")
    if not total:
        return []
    done, failed = metrics.get("units_completed") or 0, metrics.get("units_failed") or 0
    share = min((done + failed) / total, 1.0)
    success = f" ({_percent(done / total)})" if ended else ""
    return [
        ("Progress", f"{_bar(share)}{_percent(share)}"),
        (
            "Success" if ended else "Completed",
            f"{done}/{total}{success}     Failed {failed}/{total}     "
            f"Attempts {metrics.get('total_attempts') or 0}     "
            f"Retry rate {metrics.get('retry_rate') or 0:.1%}     Cost {cost(run.stats.cost_usd)}",
        ),
    ]


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("100.0%", "100%")


def _bar(share: float) -> str:
    if not is_terminal():
        return ""
    filled = round(share * BAR_CHARACTERS)
    return f"[{'█' * filled}{'░' * (BAR_CHARACTERS - filled)}] "


def _now(run: Snapshot, details: dict[str, Any]) -> str:
    now = details.get("current_action") or details.get("current_step") or ""
    return plain(f"waiting on {run.waiting_on}" if run.waiting_on else str(now))


def _counts(stats: Stats, *, cost_too: bool) -> str:
    spent = f"     Cost {cost(stats.cost_usd)}" if cost_too else ""
    return f"{stats.turns}     Tokens {stats.tokens.total:,}     Files {stats.files}     Events {stats.events}{spent}"


def _tests(tests: Tests) -> str:
    if not (tests.runs or tests.passed or tests.failed):
        return ""
    return f"{tests.passed} passed, {tests.failed} failed, {tests.skipped} skipped"
