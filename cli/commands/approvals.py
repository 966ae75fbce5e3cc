"""`runfold approvals`, `approve` and `deny`: the questions that runs wait with, and their one answer."""

from typing import Any

import click

from cli.reading import RunId, json_option, open_runs, print_json, remote_of, run_argument, settings_of
from cli.runs import Runs, find_run
from cli.screen import cost, next_command, plain, short_ids, table, talk
from cli.settings import Settings
from cli.wishing import execute, finished
from projections.approvals import LIMIT_MAX, ApprovalFilter, ApprovalItem
from runfold.commands import Command, Deny, Grant
from runfold.errors import BadRequest, NotAllowed
from runfold.limits import parse_pairs
from runfold.snapshot import Snapshot


@click.command()
@click.argument("run_text", metavar="[RUN]", type=RunId(), required=False)
@click.option("-a", "--all", "everything", is_flag=True, help="Also those that are answered.")
@json_option
@click.pass_context
def approvals(context: click.Context, *, run_text: str | None, everything: bool, as_json: bool) -> None:
    """List the questions that runs wait with, newest first."""
    with open_runs(settings_of(context)) as runs:
        run_id = find_run(runs, run_text).id if run_text else None
        status = () if everything else ("pending",)
        found = runs.approvals(ApprovalFilter(tenant=None, run_id=run_id, status=status, limit=LIMIT_MAX))
    if as_json:
        print_json(found)
        return
    if not found.items:
        talk("nobody waits for an answer")
        return
    ids = short_ids([item.run_id for item in found.items])
    table(
        ("RUN", "ID", "STATUS", "AMOUNT", "EXPIRES", "QUESTION"),
        [
            (ids[it.run_id], it.approval_id, it.status, cost(it.amount_usd), it.expires_at or "-", plain(it.summary))
            for it in found.items
        ],
        colour_column=2,
    )
    open_one = next((it for it in found.items if it.status == "pending"), None)
    if open_one is not None:
        next_command(f"runfold approve {open_one.run_id} {open_one.approval_id}")


@click.command()
@run_argument
@click.argument("approval_id", metavar="[ID]", required=False)
@click.option("--comment", default="", help="A word for the record.")
@click.option("--limit", "limits", multiple=True, metavar="KEY=VALUE", help="A new limit, as `cost=5`; repeatable.")
@click.pass_context
def approve(
    context: click.Context, *, run_text: str, approval_id: str | None, comment: str, limits: tuple[str, ...]
) -> None:
    """Grant what a run asks; it goes on. A limit that asked gets the amount it asked for, or the one given here."""
    given = parse_pairs(limits)
    settings = settings_of(context)
    with open_runs(settings) as runs:
        run = find_run(runs, run_text)
        asked = _asked(runs, run, approval_id)
        if (remote := remote_of(runs)) is not None:
            body = {"decision": "grant", "comment": comment, "limits": given, "digest": asked.digest}
            remote.answer_approval(run.id, asked.approval_id, body)
        else:
            grant = Grant(approval_id=asked.approval_id, comment=comment, limits=given, digest=asked.digest)
            _execute(settings, run, grant)
    talk(f"granted: {plain(asked.summary)}")
    # A terminal that still waits goes on by itself; where none does, this takes the run over.
    next_command(f"runfold {'resume' if run.driver == 'here' else 'watch'} {run.id}")


@click.command()
@run_argument
@click.argument("approval_id", metavar="[ID]", required=False)
@click.option("--comment", default="", help="Why, for the record.")
@click.pass_context
def deny(context: click.Context, *, run_text: str, approval_id: str | None, comment: str) -> None:
    """Deny what a run asks; it stops, and can be resumed."""
    settings = settings_of(context)
    with open_runs(settings) as runs:
        run = find_run(runs, run_text)
        asked = _asked(runs, run, approval_id)
        if (remote := remote_of(runs)) is not None:
            remote.answer_approval(run.id, asked.approval_id, {"decision": "deny", "comment": comment})
        else:
            _execute(settings, run, Deny(approval_id=asked.approval_id, comment=comment))
    talk(f"denied: {plain(asked.summary)}")
    next_command(f"runfold status {run.id}")


def _execute(settings: Settings, run: Snapshot, command: Command) -> Any:
    return finished(execute(settings, run.id, command, run.tenant))


def _asked(runs: Runs, run: Snapshot, approval_id: str | None) -> ApprovalItem:
    """The question that is meant: the named one, else the only open one."""
    known = runs.approvals(ApprovalFilter(tenant=None, run_id=run.id, limit=LIMIT_MAX)).items
    pending = [it for it in known if it.status == "pending"]
    if approval_id is not None:
        named = next((it for it in known if it.approval_id == approval_id), None)
        if named is None:
            open_ones = ", ".join(it.approval_id for it in pending) or "none"
            raise BadRequest(f"run `{run.id}` has no approval `{approval_id}`", hint=f"open are: {open_ones}")
        return named
    if len(pending) == 1:
        return pending[0]
    if not pending:
        raise NotAllowed(f"run `{run.id}` asks nothing", hint="`runfold approvals` lists who does", run_id=run.id)
    names = ", ".join(it.approval_id for it in pending)
    raise BadRequest(f"run `{run.id}` asks more than one thing: {names}", hint=f"say which: {pending[0].approval_id}")
