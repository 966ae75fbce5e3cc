"""`runfold retry`: try a run again, whole or from a step, reusing what is still valid; `--plan` only says what."""

import uuid
from contextlib import suppress
from pathlib import Path

import click

from cli.reading import json_option, open_runs, print_json, remote_of, run_argument, settings_of
from cli.runs import find_run
from cli.screen import cost, duration, next_command, plain, table, talk
from cli.settings import Settings
from cli.wishing import finished, open_ledger
from runfold.commands import OpenReported, Queue
from runfold.envelope import run_id_of
from runfold.errors import InvalidSetting
from runfold.estimates import Estimate
from runfold.ordered_ids import ordered_id
from runfold.plan import plan_retry
from runfold.retrying import RetryAnswer, answer_of, estimate_of_retry, retry_order, reused_steps
from runfold.snapshot import Snapshot


@click.command()
@run_argument
@click.option("--from", "from_step", metavar="STEP", help="Run it and what rests on it again, reuse the rest.")
@click.option("--plan", is_flag=True, help="Say what would be reused and what would run again; change nothing.")
@json_option
@click.pass_context
def retry(context: click.Context, *, run_text: str, from_step: str | None, plan: bool, as_json: bool) -> None:
    """Try a run again as a new run; the old one stays readable."""
    settings = settings_of(context)
    code = 0
    with open_runs(settings) as runs:
        run = find_run(runs, run_text)
        if (remote := remote_of(runs)) is not None:
            body = {"plan": plan, **({} if from_step is None else {"from_step": from_step})}
            answer = remote.retry(run.id, body)
        elif plan:
            answer = finished(_plan(settings, run.id, from_step, _whole(settings, run)))
        else:
            answer, code = finished(_retry(settings, run.id, from_step, _whole(settings, run)))
    if as_json:
        print_json(answer)
    else:
        _tell(answer)
    context.exit(code)


def _whole(settings: Settings, run: Snapshot) -> Estimate | None:
    """What a first start of the run's workflow is expected to cost."""
    from cli.estimating import estimate_here
    from cli.workflow_file import read_registry

    if run.workflow is None:
        return None
    workflow = None
    # A retry is of the old order: a slip in today's file takes only the workflow's own figure away.
    with suppress(InvalidSetting):
        workflow = read_registry().workflows.get(run.workflow)
    return estimate_here(
        settings.data, run.workflow, None if workflow is None else workflow.estimate, tenant=run.tenant
    )


async def _plan(settings: Settings, run_id: str, from_step: str | None, whole: Estimate | None) -> RetryAnswer:
    from eventstore.opening import open_log
    from projections.past import At, state_at

    log = await open_log(settings.data, settings.log, blobs=settings.blobs)
    try:
        run, _ = await state_at(log, run_id, At())
    finally:
        await log.close()
    plan = plan_retry(run, from_step)
    return answer_of(plan, estimated=estimate_of_retry(run, plan, whole))


async def _retry(
    settings: Settings, run_id: str, from_step: str | None, whole: Estimate | None
) -> tuple[RetryAnswer, int]:
    """Queued where a worker takes it, opened where it is driven by hand, and else driven here; with its exit code."""
    from cli.actor import local_actor
    from cli.budgets import spending_here
    from cli.server_lock import running_server
    from cli.workflow_file import read_registry
    from projections.origin import origin_of
    from runner.here import drive_here
    from runner.launch import launch_here
    from runner.turns.terminal import is_terminal

    async with open_ledger(settings) as (ledger, log):
        run = await ledger.state(run_id)
        plan = plan_retry(run, from_step)
        origin = await origin_of(log, run_id)
        order = retry_order(origin.order, run, plan)
        reused = reused_steps(run, plan, origin.completed)
        estimated = estimate_of_retry(run, plan, whole)
        # What was typed is typed again; a workflow is a server's where one is there, or had it before.
        is_queued = run.workflow is not None and (run.driver == "queue" or running_server(settings.data) is not None)
        if run.driver == "reported" or is_queued:
            kind = OpenReported if run.driver == "reported" else Queue
            identity = ordered_id()
            new_id = run_id_of(uuid.UUID(identity))
            await ledger.execute(
                new_id,
                kind(queued=order, reused=reused, estimated=estimated),
                command_id=identity,
                actor=local_actor(),
                tenant=run.tenant,
                cause=origin.ended_by,
            )
            return answer_of(plan, new_id, estimated=estimated), 0
        folder = Path(order.cwd) if order.cwd else None
        workflow = read_registry(folder).workflows.get(order.workflow or "")
        launch = launch_here(order, workflow, shown=True, tty=is_terminal(1))
        started: list[str] = []
        async with spending_here(settings.data, folder) as left:
            code = await drive_here(
                ledger,
                log,
                order,
                launch,
                data=settings.data,
                tenant=run.tenant,
                actor=local_actor(),
                start=started.append,
                reused=reused,
                left=left,
                estimated=estimated,
                cause=origin.ended_by,
            )
        return answer_of(plan, started[0] if started else None, estimated=estimated), code


def _tell(answer: RetryAnswer) -> None:
    if (said := answer.estimate) is not None:
        low, high = f"${said.low_usd:.2f}", f"${said.high_usd:.2f}"
        talk(f"estimate: {low if low == high else f'{low} to {high}'}, from {said.basis}")
    if answer.steps and answer.new_run_id is None:
        table(
            ("STEP", "ACTION", "COST", "TOOK", "WHY"),
            [
                (plain(it.step), it.action, cost(it.cost_usd), duration(it.duration_ms), plain(it.why))
                for it in answer.steps
            ],
        )
    if answer.new_run_id is None:
        known = cost(answer.cost_usd) if not answer.unknown else f"{cost(answer.cost_usd)} and what nobody knows"
        talk(f"{len(answer.rerun)} steps would run again, {len(answer.reused)} would be reused; {known}")
        start = f" --from {answer.from_step}" if answer.from_step else ""
        next_command(f"runfold retry {answer.retry_of}{start}")
        return
    click.echo(answer.new_run_id)
    talk(f"it reuses {len(answer.reused)} steps" if answer.reused else "everything runs again")
    next_command(f"runfold watch {answer.new_run_id}")
