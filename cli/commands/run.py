"""`runfold run -- COMMAND…` and `runfold run --workflow W`: drive a run here, as transparent as if it ran alone."""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from cli.actor import local_actor
from cli.data_folder import prepare_folder
from cli.main import Usage
from cli.reading import settings_of
from cli.screen import next_command, talk
from cli.settings import Settings
from runfold.estimates import cost_estimated
from runfold.events import CostEstimated, RunQueued
from runfold.limits import parse_pairs
from runfold.redact import secrets_of
from runfold.workflows import TURNS_MAX, Asked, CompletionRules, find_workflow, order_of

_ID_DESCRIPTOR = "RUNFOLD_ID_DESCRIPTOR"  # Where a detached driver tells its run's id.


@click.command(context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.option("--workflow", metavar="NAME", help="A workflow of runfold.toml instead of a command.")
@click.option("--param", "parameters", multiple=True, metavar="KEY=VALUE", help="A parameter of it; repeatable.")
@click.option("--prompt", help="The prompt: where `{prompt}` stands in the command, else on its standard input.")
@click.option("--max-turns", type=click.IntRange(1, TURNS_MAX), help="Run it again until this many turns are made.")
@click.option("--until", metavar="PATTERN", help="Completed once a line of the final message or output matches.")
@click.option("--stop-file", metavar="FILE", help="Completed once this file is there at a turn's end.")
@click.option("--model", help="The model, where `{model}` stands in the command.")
@click.option("--format", "format_name", help="The output's format; recognised where none is given.")
@click.option("--limit", "limits", multiple=True, metavar="KEY=VALUE", help="A limit, as `cost=2.50`; repeatable.")
@click.option("--title", help="The run's title; the command line where none is given.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label; repeatable.")
@click.option("--no-cache", is_flag=True, help="Run every step, also where an earlier run made the very same.")
@click.option("--detach", is_flag=True, help="Start it in the background and print its id.")
@click.option(
    "--quiet", is_flag=True, help="Say nothing beside the command's own output, which its reports are part of."
)
@click.option("--no-tty", is_flag=True, help="Give the command pipes, also on a terminal.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run(context: click.Context, /, *, workflow: str | None, command: tuple[str, ...], **options: Any) -> None:
    """Run a command or a workflow here and record it; the exit code is the command's."""
    if bool(command) == bool(workflow):
        said = "both a workflow and a command are given" if command else "there is no command to run"
        raise Usage(said, hint="`runfold run -- COMMAND…` or `runfold run --workflow NAME`")
    settings = settings_of(context)
    asked = _asked(options)
    if settings.url:
        context.exit(_run_away(settings, workflow, command, asked, options))
    prepare_folder(settings.data)
    if options["detach"]:
        _detach(settings, workflow, asked)
        return
    quiet: bool = options["quiet"]
    order, estimated = _order_of_command(command, asked, options), None
    if workflow:
        order, estimated = _order_of_workflow(settings.data, workflow, asked, quiet=quiet or not os.isatty(2))
    if order.driver == "reported":
        _open_by_hand(settings, order, estimated)
        return
    code = asyncio.run(_run(settings, order, estimated, quiet=quiet, tty=not options["no_tty"]))
    context.exit(code)


def _run_away(
    settings: Settings, workflow: str | None, command: tuple[str, ...], asked: Asked, options: dict[str, Any]
) -> int:
    from cli.commands.away import drive_and_report, start_there

    if workflow is not None:
        return start_there(settings, workflow, asked, detach=options["detach"])
    if options["detach"]:
        _detach(settings, None, asked)
        return 0
    order = _order_of_command(command, asked, options)
    tell = _teller()
    return drive_and_report(settings, order, quiet=options["quiet"], tty=not options["no_tty"], tell=tell)


def _asked(options: dict[str, Any]) -> Asked:
    rules = CompletionRules(pattern=options["until"], stop_file=options["stop_file"])
    return Asked(
        payload={key: _value(text) for key, text in map(_pair, options["parameters"])} or None,
        title=options["title"] or "",
        prompt=options["prompt"],
        model=options["model"],
        max_turns=options["max_turns"],
        completion=None if rules.is_empty else rules,
        limits=parse_pairs(options["limits"]),
        labels=dict(map(_pair, options["labels"])),
        cache=not options["no_cache"],
    )


def _order_of_workflow(
    data: Path, name: str, asked: Asked, *, quiet: bool = False
) -> tuple[RunQueued, CostEstimated | None]:
    """The order, and what it is expected to cost."""
    from cli.estimating import estimate_here, tell_estimate
    from cli.workflow_file import read_registry

    registry = read_registry()
    workflow = find_workflow(registry.workflows, name)
    expected = estimate_here(data, workflow.name, workflow.estimate)
    order = order_of(workflow, asked, folder=registry.folder, estimate=expected)
    if not quiet:
        tell_estimate(expected)
    return order, cost_estimated(expected)


def _order_of_command(command: tuple[str, ...], asked: Asked, options: dict[str, Any]) -> RunQueued:
    command = tuple(word.replace("{model}", asked.model) if asked.model else word for word in command)
    return RunQueued(
        driver="here",
        title=asked.title or " ".join(command),
        labels=asked.labels,
        command=command,
        cwd=str(Path.cwd()),
        prompt=asked.prompt,
        format=options["format_name"],
        model=asked.model,
        limits=asked.limits,
        max_turns=asked.max_turns or 1,
        completion=None if asked.completion is None else msgspec.to_builtins(asked.completion),
    )


async def _run(settings: Settings, order: RunQueued, estimated: CostEstimated | None, *, quiet: bool, tty: bool) -> int:
    from cli.budgets import spending_here
    from cli.wishing import take_in
    from cli.workflow_file import read_registry
    from eventstore.ledger import Ledger
    from eventstore.opening import open_log
    from runner.here import drive_here
    from runner.launch import launch_here
    from runner.turns.terminal import is_terminal

    workflow = read_registry().workflows.get(order.workflow) if order.workflow else None
    tell = _teller()
    launch = launch_here(order, workflow, shown=tell is None, tty=tty and is_terminal(1))
    data = settings.data
    log = await open_log(data, settings.log, blobs=settings.blobs)
    try:
        ledger = Ledger(log, data=data, secrets=secrets_of(os.environ))
        await take_in(ledger, data)
        async with spending_here(data) as left:
            return await drive_here(
                ledger,
                log,
                order,
                launch,
                data=data,
                actor=local_actor(),
                quiet=quiet,
                start=tell,
                left=left,
                estimated=estimated,
            )
    finally:
        await log.close()


def _teller() -> Callable[[str], None] | None:
    """How to tell the run's id to whoever has started us in the background."""
    number = os.environ.pop(_ID_DESCRIPTOR, "")
    if not number:
        return None

    def tell(run_id: str) -> None:
        os.write(int(number), run_id.encode() + b"\n")
        os.close(int(number))
        # From here on nobody reads what we say.
        os.dup2(0, 2)

    return tell


def _detach(settings: Settings, workflow: str | None, asked: Asked) -> None:
    """Give a workflow to the server where one is up; anything else to a background driver of its own."""
    from cli.server_lock import running_server

    if workflow is not None and running_server(settings.data) is not None:
        run_id = asyncio.run(_queue(settings, *_order_of_workflow(settings.data, workflow, asked)))
    else:
        run_id = _drive_in_background(settings)
    click.echo(run_id)
    talk("it runs in the background")
    next_command(f"runfold watch {run_id}")


def _open_by_hand(settings: Settings, order: RunQueued, estimated: CostEstimated | None) -> None:
    """None of its steps has a command: the run is open, and a person or a program says what happens."""
    run_id = asyncio.run(_queue(settings, order, estimated))
    click.echo(run_id)
    talk("its steps have no command: it is driven by hand, or by a program")
    first = next(step.id for step in order.steps if not step.needs)
    next_command(f"runfold approve {run_id}" if order.approval else f"runfold step start {run_id} {first}")


async def _queue(settings: Settings, order: RunQueued, estimated: CostEstimated | None) -> str:
    import uuid

    from eventstore.ledger import Ledger
    from eventstore.opening import open_log
    from runfold.commands import OpenReported, Queue
    from runfold.envelope import run_id_of
    from runfold.ordered_ids import ordered_id

    data = settings.data
    log = await open_log(data, settings.log, blobs=settings.blobs)
    try:
        identity = ordered_id()
        run_id = run_id_of(uuid.UUID(identity))
        kind = OpenReported if order.driver == "reported" else Queue
        command = kind(queued=order, estimated=estimated)
        await Ledger(log, data=data, secrets=secrets_of(os.environ)).execute(
            run_id, command, command_id=identity, actor=local_actor(), tenant="default"
        )
        return run_id
    finally:
        await log.close()


def _drive_in_background(settings: Settings) -> str:
    """The same command line again, without `--detach`, in a session of its own that outlives this terminal."""
    import subprocess

    read, write = os.pipe()
    words = [word for word in sys.argv[1:] if word != "--detach"] if "--" not in sys.argv else _before_command(sys.argv)
    process = subprocess.Popen(
        [sys.executable, "-m", "runfold", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        pass_fds=(write,),
        env={**os.environ, _ID_DESCRIPTOR: str(write), "RUNFOLD_DATA": str(settings.data), "RUNFOLD_LOG": settings.log},
    )
    os.close(write)
    with os.fdopen(read) as told:
        run_id = told.readline().strip()
    if run_id:
        return run_id
    said = process.communicate()[1].decode(errors="replace").strip()
    raise Usage(said.removeprefix("error: ") or "the driver did not start", hint="without --detach it says more")


def _before_command(argv: list[str]) -> list[str]:
    """`--detach` of our own options only: the command may have one too."""
    at = argv.index("--")
    return [*(word for word in argv[1:at] if word != "--detach"), *argv[at:]]


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise Usage(f"`{text}` has no value", hint="write it as `key=value`")
    return key, value


def _value(text: str) -> Any:
    """`2.50` and `true` are what they look like; anything else is text."""
    try:
        found = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
    return found if isinstance(found, int | float | bool) else text
