"""`runfold step …`: drive the steps of a run by hand, and see everything that each wish changes."""

from typing import Any, get_args

import click
import msgspec

from cli.main import Usage
from cli.reading import RunId, open_runs, print_json, settings_of
from cli.runs import find_run
from cli.screen import next_command, plain, talk
from cli.settings import Settings
from cli.wishing import execute, finished
from runfold.commands import Command, StartStep
from runfold.events import Failure
from runfold.snapshot import Snapshot
from runfold.step_wishes import StepAction, StepAnswer, StepsWish, StepWish, step_answer, step_command, steps_command

SHOWN_MAX = 20
_HELP: dict[str, str] = {
    "start": "Start a step whose needs are completed.",
    "complete": "Complete a running step.",
    "fail": "Fail a running step.",
    "skip": "Skip a step; what needs it may start.",
    "rerun": "Mark a step to run again, and every completed step that rests on it.",
    "reset": "Put a step back as if it had not run; what it did stays readable.",
}
_NEXT = {"start": "complete", "rerun": "start", "reset": "start", "fail": "start"}


@click.group()
def step() -> None:
    """Start, complete, fail, skip, rerun or reset a step of a run."""


def _command(action: StepAction) -> click.Command:
    @click.pass_context
    def act(context: click.Context, /, *, run_text: str, as_json: bool, **said: Any) -> None:
        name: str | None = said.pop("step")
        everything: bool = said.pop("everything", False)
        if everything == (name is not None):
            raise Usage(
                "give a step, or `--all`", hint="`runfold step reset RUN STEP` or `runfold step reset RUN --all`"
            )
        settings = settings_of(context)
        with open_runs(settings) as runs:
            run = find_run(runs, run_text)
            if name is None:
                wish: StepWish | StepsWish = StepsWish(action="reset", reason=said["reason"])
            else:
                wish = _wish(action, said)
            answer = _act(settings, runs, run, name, wish)
        if as_json:
            print_json(answer)
        else:
            _tell(answer, action, name)

    parameters: list[click.Parameter] = [
        click.Argument(["run_text"], metavar="RUN", type=RunId()),
        click.Argument(["step"], metavar="STEP", required=action != "reset"),
        click.Option(["--json", "as_json"], is_flag=True, help="Print what the API would print."),
    ]
    if action == "reset":
        parameters.append(click.Option(["--all", "everything"], is_flag=True, help="Every step of the run."))
    if action not in ("start", "complete"):
        parameters.append(click.Option(["--reason"], default="", help="Why, for the record."))
    if action == "start":
        parameters.append(click.Option(["--input"], metavar="JSON", help="What it works on: JSON, or a text."))
    if action in ("complete", "fail"):
        parameters.append(click.Option(["--output"], metavar="JSON", help="What came of it: JSON, or a text."))
    if action in ("start", "complete", "fail"):
        meta = click.Option(["--metadata"], multiple=True, metavar="KEY=VALUE", help="Kept with the step; repeatable.")
        parameters.append(meta)
    return click.Command(action, callback=act, params=parameters, help=_HELP[action])


for _action in get_args(StepAction):
    step.add_command(_command(_action))


def _wish(action: StepAction, said: dict[str, Any]) -> StepWish:
    reason = said.get("reason") or ""
    return StepWish(
        action=action,
        reason="" if action == "fail" else reason,
        error=Failure(code="STEP_FAILED", message=reason) if action == "fail" else None,
        input=_value(said.get("input")),
        output=_value(said.get("output")),
        metadata=dict(_pair(text) for text in said.get("metadata") or ()),
    )


def _act(settings: Settings, runs: Any, run: Snapshot, name: str | None, wish: StepWish | StepsWish) -> StepAnswer:
    if settings.url:
        answer: StepAnswer = runs.change_steps(run.id, name, wish)
        return answer
    command: Command = steps_command(wish) if isinstance(wish, StepsWish) else step_command(name or "", wish)
    if isinstance(command, StartStep):
        from cli.budgets import budgets_now

        command = msgspec.structs.replace(command, budgets=budgets_now(settings.data, run))
    executed = finished(execute(settings, run.id, command, run.tenant))
    position = max((event.position for event in executed.events), default=run.position)
    return step_answer(executed.run, [event.event() for event in executed.events], position=position)


def _tell(answer: StepAnswer, action: str, name: str | None) -> None:
    if not answer.changed:
        talk("nothing changed: it was so already")
    for change in answer.changed[:SHOWN_MAX]:
        cause = f", because of {change.because_of}" if change.because_of else ""
        reason = f": {plain(change.reason)}" if change.reason else ""
        talk(f"step {plain(change.step)} is {change.status.replace('_', ' ')}{cause}{reason}")
    if len(answer.changed) > SHOWN_MAX:
        talk(f"and {len(answer.changed) - SHOWN_MAX} more; --json lists them")
    if name is not None and action in _NEXT:
        next_command(f"runfold step {_NEXT[action]} {answer.run_id} {name}")
    else:
        next_command(f"runfold status {answer.run_id}")


def _value(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise Usage(f"metadata `{text}` has no value", hint="write it as `--metadata key=value`")
    return key, _value(value)
