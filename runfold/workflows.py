"""The workflows of a `runfold.toml`: what may be started by name, with which parameters, and when its work is done.

`parse_workflows` reads the text; every error names the file, the key and the line. `order_of` makes of a workflow and
what was asked the `run_queued` that a worker can carry out from the log alone.
"""

import re
import tomllib
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, TypeVar, cast

import msgspec

from runfold.budgets import BudgetRule
from runfold.errors import BadRequest, InvalidSetting, NotFound
from runfold.estimates import Estimate, Figure
from runfold.events import Json, RunQueued, StepSpec
from runfold.graph import check_graph
from runfold.limits import parse_limits, with_new
from runfold.toml_lines import line_of

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
FORMATS = ("codex", "claude", "gemini", "opencode", "plain")
_T = TypeVar("_T")
TURNS_MAX = 10_000
TIMEOUT_SECONDS_MAX = 7 * 86_400.0
VALUE_CHARACTERS_MAX = 4_000  # One argument of a command line; longer things go into the prompt or a file.
_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_OWN_NAMES = frozenset({"prompt", "model", "turn"})


class Parameter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A typed hole in the command or the prompt; without a default it has to be given."""

    type: Literal["string", "integer", "number", "boolean"] = "string"
    default: str | int | float | bool | None = None
    choices: tuple[str | int | float, ...] = ()
    description: str = ""


class CompletionRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Any one that is fulfilled at a turn's end completes the run; with none, the last turn does."""

    pattern: str | None = None
    stop_file: str | None = None
    exit_code: int | None = None
    format_end: bool = False

    @property
    def is_empty(self) -> bool:
        return self == CompletionRules()


class Workflow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`environment` lists the variables that pass to the command beside the usual harmless ones.

    `watch_files` None watches where the agent's format tells no files; `ignore_files` are patterns of names.
    In `prompt` and in the prompt file `{turn}`, `{file:PATH}` and the parameters are filled in anew for each turn.
    """

    command: tuple[str, ...] = ()
    name: str = ""
    description: str = ""
    parameters: dict[str, Parameter] = {}
    prompt: str | None = None
    prompt_file: str | None = None
    format: str | None = None
    model: str | None = None
    max_turns: int = 1
    turn_timeout_seconds: float | None = None
    turn_retries: int = 0
    completion: CompletionRules = CompletionRules()
    watch_logs: tuple[str, ...] = ()
    watch_files: bool | None = None
    ignore_files: tuple[str, ...] = ()
    workspace: str = "."
    environment: tuple[str, ...] = ()
    resume: tuple[str, ...] | None = None
    limits: dict[str, Json] = {}
    labels: dict[str, str] = {}
    grace_seconds: float = 5.0
    on_lost: Literal["fail", "resume"] = "fail"
    estimate: Figure | None = None
    """What one run takes, where no past run tells it better."""
    approval: str | None = None
    """What a person is asked before a run of it starts."""
    approval_above_usd: float | None = None
    """Ask only where a run may cost more, or nobody knows what it costs."""
    steps: tuple[StepSpec, ...] = ()
    """The graph, in place of one command; a step without a command is driven by hand or by a program."""

    @property
    def is_by_hand(self) -> bool:
        """Nobody has to start anything: whoever does the steps says what happens."""
        return bool(self.steps) and not any(step.command for step in self.steps)


class _Step(StepSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As it stands in the file, where a mistyped key must not be lost."""


Workflows: TypeAlias = dict[str, Workflow]


class Registry(msgspec.Struct, frozen=True, kw_only=True):
    """What one file says, and the folder that its workspaces start from; `file` is empty where none is."""

    workflows: Workflows = {}
    budgets: tuple[BudgetRule, ...] = ()
    folder: str = "."
    file: str = ""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller may say about one run of a workflow; None and empty leave it as the workflow has it."""

    payload: Json = None
    title: str = ""
    prompt: str | None = None
    model: str | None = None
    max_turns: int | None = None
    completion: CompletionRules | None = None
    limits: dict[str, Json] = {}
    labels: dict[str, str] = {}
    cache: bool = True


def parse_workflows(text: str, *, file: str = "runfold.toml") -> Workflows:
    """The workflows by name. Raises InvalidSetting, which names the file, the key and the line."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidSetting(f"`{file}` is not TOML: {_lower(error)}", hint="correct that line") from error
    tables: object = document.get("workflow", {})
    if not isinstance(tables, dict):
        raise _invalid(file, text, ("workflow",), "is not a table", hint="write `[workflow.NAME]`")
    return {name: _workflow(file, text, name, table) for name, table in cast("dict[str, Any]", tables).items()}


def find_workflow(workflows: Workflows, name: str) -> Workflow:
    """Raises NotFound, which lists the known ones."""
    workflow = workflows.get(name)
    if workflow is None:
        known = ", ".join(sorted(workflows)[:10])
        hint = f"known are: {known}" if known else "`runfold init` writes a runfold.toml with some"
        raise NotFound(f"there is no workflow `{name[:80]}`", hint=hint)
    return workflow


def order_of(workflow: Workflow, asked: Asked, *, folder: str, estimate: Estimate | None = None) -> RunQueued:
    """The order for one run; `folder` is where the workflow's file is. Raises BadRequest for wrong parameters.

    `estimate` decides whether a person is asked first, where the workflow asks only above a sum.
    """
    model = asked.model if asked.model is not None else workflow.model
    values = values_of(workflow, asked.payload)
    known = {**values, **({"model": model} if model is not None else {})}
    command = tuple(fill(word, known) for word in workflow.command)
    if left := [name for word in command for name in _PLACEHOLDER.findall(word) if name == "model"]:
        raise BadRequest(
            f"workflow `{workflow.name}` needs a {left[0]}", hint="`--model NAME`, or `model` in its table"
        )
    steps = tuple(
        msgspec.structs.replace(
            step,
            command=tuple(fill(word, known) for word in step.command),
            prompt=None if step.prompt is None else fill(step.prompt, known),
        )
        for step in workflow.steps
    )
    prompt = asked.prompt
    if prompt is not None and prompt.startswith("-") and any("{prompt}" in word for word in command):
        raise BadRequest("the prompt begins with `-`", hint="it stands in the command line, where that is an option")
    if prompt is None and workflow.prompt is not None:
        prompt = fill(workflow.prompt, values)
    rules = asked.completion if asked.completion is not None else workflow.completion
    max_turns = workflow.max_turns if asked.max_turns is None else asked.max_turns
    if not 1 <= max_turns <= TURNS_MAX:
        raise BadRequest(f"max_turns is {max_turns}", hint=f"give 1 to {TURNS_MAX}")
    return RunQueued(
        driver="reported" if workflow.is_by_hand else "queue",
        workflow=workflow.name,
        title=asked.title or workflow.description or workflow.name,
        payload=asked.payload,
        labels={**workflow.labels, **asked.labels},
        command=command,
        cwd=folder if workflow.workspace == "." else f"{folder}/{workflow.workspace}",
        prompt=prompt,
        format=workflow.format,
        model=model,
        limits=with_new(workflow.limits, asked.limits),
        max_turns=max_turns,
        completion=None if rules.is_empty else msgspec.to_builtins(rules),
        grace_seconds=workflow.grace_seconds,
        on_lost=workflow.on_lost,
        steps=steps,
        cache=asked.cache,
        approval=_question(workflow, estimate),
    )


def _question(workflow: Workflow, estimate: Estimate | None) -> str | None:
    """What a person has to say yes to first."""
    above, known = workflow.approval_above_usd, None if estimate is None else estimate.cost_usd
    if above is None:
        return workflow.approval
    if known is not None and known.p90 <= above:
        return None
    return workflow.approval or f"Start a run of {workflow.name}? It may cost more than ${above:.2f}"


def _workflow(file: str, text: str, name: str, table: Any) -> Workflow:
    path = ("workflow", name)
    if re.fullmatch(NAME_PATTERN.strip("^$"), name) is None:
        raise _invalid(file, text, path, "is not a name", hint="letters, digits, `_`, `.` and `-`, at most 64")
    if not isinstance(table, dict):
        raise _invalid(file, text, path, "is not a table", hint="write `[workflow.NAME]`")
    rest = cast("dict[str, Any]", table)
    given: object = rest.get("parameters", {})
    parameters: dict[str, Parameter] = {}
    # One by one, because a converter of the whole does not say which of them is wrong.
    for each, value in (cast("dict[str, Any]", given) if isinstance(given, dict) else {}).items():
        parameters[each] = _converted(file, text, (*path, "parameters", each), value, Parameter)
    listed: object = rest.get("steps", ())
    # What is no list is refused below, with everything else that is of another type.
    tables: list[Any] = [*listed] if isinstance(listed, list) else []
    steps = tuple(_step(file, text, path, value) for value in tables)
    told_apart = {name for name, found in (("parameters", parameters), ("steps", steps)) if found}
    others = {key: value for key, value in rest.items() if key not in told_apart}
    workflow = _converted(file, text, path, others, Workflow)
    workflow = msgspec.structs.replace(workflow, name=name, parameters=parameters, steps=steps)
    for key, said, hint in _wrong(workflow):
        raise _invalid(file, text, (*path, *key.split(".")), said, hint=hint)
    return workflow


def _step(file: str, text: str, path: tuple[str, ...], table: Any) -> StepSpec:
    step = _converted(file, text, (*path, "steps"), table, _Step)
    return StepSpec(**{name: getattr(step, name) for name in StepSpec.__struct_fields__})


def _wrong_steps(workflow: Workflow) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    if workflow.command:
        found.append(("command", "stands beside `steps`", "give one of the two"))
    try:
        check_graph(workflow.steps)
        for step in workflow.steps:
            parse_limits(step.limits, scope=f"step:{step.id}")
    except BadRequest as error:
        found.append(("steps", f"cannot be carried out: {error.message}", error.hint))
    for step in workflow.steps:
        if not 0 <= step.backoff_seconds <= TIMEOUT_SECONDS_MAX or not 1 <= step.attempts_max <= 100:
            said = "has a back-off or a number of attempts that is not possible"
            found.append(
                ("steps", f"{said}: step `{step.id}`", "attempts_max 1 to 100, backoff_seconds at most a week")
            )
        if step.timeout_seconds is not None and not 0 < step.timeout_seconds <= TIMEOUT_SECONDS_MAX:
            found.append(("steps", f"has a timeout that is not possible: step `{step.id}`", "at most a week"))
    return found


def _converted(file: str, text: str, path: tuple[str, ...], value: Any, kind: type[_T]) -> _T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        where, said = _located(str(error))
        known = ", ".join(name for name in getattr(kind, "__struct_fields__", ()) if name != "name")
        hint = f"known are {known}" if "unknown field" in said else ""
        raise _invalid(file, text, (*path, *where), said, hint=hint) from error


def _wrong(workflow: Workflow) -> list[tuple[str, str, str]]:
    """Key, what is wrong with it, and a hint; what no type can say."""
    found: list[tuple[str, str, str]] = []
    if workflow.steps:
        found += _wrong_steps(workflow)
    elif not workflow.command or not workflow.command[0]:
        found.append(("command", "is empty", 'write it as a list: `command = ["codex", "exec", "--json", "-"]`'))
    if workflow.prompt is not None and workflow.prompt_file is not None:
        found.append(("prompt_file", "stands beside `prompt`", "give one of the two"))
    if workflow.format is not None and workflow.format not in FORMATS:
        found.append(("format", f"is `{workflow.format}`", f"known are {', '.join(FORMATS)}"))
    if not 1 <= workflow.max_turns <= TURNS_MAX:
        found.append(("max_turns", f"is {workflow.max_turns}", f"give 1 to {TURNS_MAX}"))
    if not 0 <= workflow.grace_seconds <= 300:
        found.append(("grace_seconds", f"is {workflow.grace_seconds}", "give 0 to 300"))
    if workflow.turn_timeout_seconds is not None and not 0 < workflow.turn_timeout_seconds <= TIMEOUT_SECONDS_MAX:
        found.append(
            ("turn_timeout_seconds", f"is {workflow.turn_timeout_seconds}", "give more than 0, at most a week")
        )
    if workflow.approval_above_usd is not None and not 0 <= workflow.approval_above_usd <= 1e9:
        found.append(("approval_above_usd", f"is {workflow.approval_above_usd}", "give dollars, 0 or more"))
    if not 0 <= workflow.turn_retries <= 100:
        found.append(("turn_retries", f"is {workflow.turn_retries}", "give 0 to 100"))
    for name, parameter in workflow.parameters.items():
        if name in _OWN_NAMES:
            found.append((f"parameters.{name}", "has a name of runfold's own", f"not {', '.join(sorted(_OWN_NAMES))}"))
        if parameter.default is not None and (said := _misfit(parameter, parameter.default)):
            found.append((f"parameters.{name}.default", said, ""))
    known = _OWN_NAMES | set(workflow.parameters)
    for word in (*workflow.command, *(word for step in workflow.steps for word in step.command)):
        for name in _PLACEHOLDER.findall(word):
            if name not in known:
                hint = f"declare it: `[workflow.{workflow.name}.parameters.{name}]`"
                found.append(("command", f"has `{{{name}}}`, which is no parameter", hint))
    return found


def values_of(workflow: Workflow, payload: Json) -> dict[str, str]:
    """The parameters as text, from the payload or their defaults."""
    if not workflow.parameters:
        return {}
    if not isinstance(payload, dict | None):
        raise BadRequest("the payload is not an object", hint=f"its keys are {', '.join(workflow.parameters)}")
    given = cast("dict[str, Any]", payload or {})
    values: dict[str, str] = {}
    for name, parameter in workflow.parameters.items():
        value: Any = given.get(name, parameter.default)
        if value is None:
            raise BadRequest(f"workflow `{workflow.name}` needs the parameter `{name}`", hint=_hint_of(parameter))
        if said := _misfit(parameter, value):
            raise BadRequest(f"parameter `{name}` {said}", hint=_hint_of(parameter))
        values[name] = ("true" if value else "false") if isinstance(value, bool) else str(value)
    return values


def _misfit(parameter: Parameter, value: Any) -> str:
    kinds: dict[str, tuple[type, ...]] = {
        "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,)
    }  # fmt: skip
    if not isinstance(value, kinds[parameter.type]) or (isinstance(value, bool) and parameter.type != "boolean"):
        return "is not an integer" if parameter.type == "integer" else f"is not a {parameter.type}"
    if isinstance(value, str) and (len(value) > VALUE_CHARACTERS_MAX or "\0" in value):
        return f"is longer than {VALUE_CHARACTERS_MAX} characters, or has a zero byte"
    if isinstance(value, str) and _OWN_NAMES & set(_PLACEHOLDER.findall(value)):
        return "holds a placeholder of runfold's own"
    if isinstance(value, str) and value.startswith("-") and not parameter.choices:
        # A value that looks like an option would be taken for one.
        return "begins with `-`"
    if parameter.choices and value not in parameter.choices:
        return f"is not one of {', '.join(map(str, parameter.choices))}"
    return ""


def _hint_of(parameter: Parameter) -> str:
    choices = f": one of {', '.join(map(str, parameter.choices))}" if parameter.choices else ""
    return f"{parameter.description or 'it'} ({parameter.type}){choices}"


def fill(text: str, values: Mapping[str, str]) -> str:
    """The text with its holes filled, in one pass: what fills a hole is never looked at again."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), text)


def _located(message: str) -> tuple[tuple[str, ...], str]:
    """msgspec's `… - at `$.a[0].b`` as the keys and the rest."""
    said, _, where = message.partition(" - at `")
    keys = re.findall(r"[A-Za-z_][A-Za-z0-9_-]*", where.replace("key in ", ""))
    if unknown := re.search(r"unknown field `([^`]+)`", said):
        keys.append(unknown[1])
    return tuple(keys), said[:1].lower() + said[1:]


def _invalid(file: str, text: str, path: tuple[str, ...], said: str, *, hint: str) -> InvalidSetting:
    line = line_of(text, path)
    return InvalidSetting(
        f"`{file}` line {line}: `{'.'.join(path)}` {said}", hint=hint or "`runfold check` says when it is right"
    )


def _lower(error: Exception) -> str:
    return str(error)[:1].lower() + str(error)[1:]
