"""What an event of the bulk of a log changes: counts of tools, commands, files, tests and tokens; no status moves."""

import zlib
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from runfold.events import (
    AgentError,
    CommandExecuted,
    Failure,
    FileRead,
    FileWritten,
    Message,
    Reasoning,
    SubprocessOutput,
    TestRunCompleted,
    TokenUsage,
    ToolCalled,
    ToolReturned,
)
from runfold.reasons import is_open_code
from runfold.state import ModelUse, Repeats, Run, Tests, Tokens
from runfold.step_states import use

OPEN_TOOLS_MAX = 200  # An agent whose calls never return must not make the state, or what ends the run, grow for ever.
REPEATED_CHARACTERS_MAX = 200
MODELS_MAX = 50  # Whoever names more of them has them added up as one.
MODEL_CHARACTERS_MAX = 200
OTHER_MODELS = "(others)"
_encode = msgspec.json.Encoder(order="deterministic").encode
Changes: TypeAlias = dict[str, Any]
"""By field of the run."""


def _tool_called(run: Run, event: ToolCalled) -> Changes:
    # A late report of a run that rests is kept in the log, and opens nothing.
    if run.is_resting:
        return {}
    call = _in_short(f"{event.tool} {_encode(event.arguments).decode()}")
    kept = run.open_tools
    if len(kept) >= OPEN_TOOLS_MAX:
        kept = dict(list(kept.items())[1:])
    return {
        "open_tools": {**kept, event.call_id: event.tool},
        "repeats": replace(run.repeats, call_id=event.call_id, call=call),
    }


def _tool_returned(run: Run, event: ToolReturned) -> Changes:
    if event.call_id not in run.open_tools:
        return {}
    left = run.open_tools.copy()
    del left[event.call_id]
    return {"open_tools": left, "repeats": _repeated_tool(run.repeats, event)}


def _command_executed(run: Run, event: CommandExecuted) -> Changes:
    command = _in_short(f"{event.command} {event.status} {event.exit_code} {event.output_tail}")
    commands = run.repeats.commands + 1 if command == run.repeats.command else 1
    return {"repeats": replace(run.repeats, command=command, commands=commands)}


def _agent_error(_: Run, event: AgentError) -> Changes:
    return {"last_agent_error": _failure(event)} if is_open_code(event.code) else {}


def _file_written(run: Run, _: FileWritten) -> Changes:
    return {"files": run.files + 1}


def _tested(run: Run, event: TestRunCompleted) -> Changes:
    tests = Tests(
        runs=run.tests.runs + 1,
        passed=run.tests.passed + event.passed,
        failed=run.tests.failed + event.failed,
        skipped=run.tests.skipped + event.skipped,
    )
    return {"tests": tests}


def _used(run: Run, event: TokenUsage) -> Changes:
    spent = event.input_tokens + event.output_tokens > 0 and event.semantics == "delta"
    step = event.step or _only_step(run)
    return {
        "tokens": _sum(run.tokens, event),
        "cost_micros": run.cost_micros if event.cost_micros is None else (run.cost_micros or 0) + event.cost_micros,
        "unpriced": run.unpriced + (spent and event.cost_micros is None),
        "models": _by_model(run.models, event, is_unpriced=spent and event.cost_micros is None),
        "step_states": run.step_states if step is None else use(run.step_states, step, event),
    }


def _sum(tokens: Tokens, usage: TokenUsage) -> Tokens:
    return Tokens(
        input_tokens=tokens.input_tokens + usage.input_tokens,
        cache_read_tokens=tokens.cache_read_tokens + usage.cache_read_tokens,
        cache_write_tokens=tokens.cache_write_tokens + usage.cache_write_tokens,
        output_tokens=tokens.output_tokens + usage.output_tokens,
        reasoning_tokens=tokens.reasoning_tokens + usage.reasoning_tokens,
    )


def _by_model(models: dict[str, ModelUse], usage: TokenUsage, *, is_unpriced: bool) -> dict[str, ModelUse]:
    name = (usage.model or "")[:MODEL_CHARACTERS_MAX]
    if name not in models and len(models) >= MODELS_MAX:
        name = OTHER_MODELS
    had = models.get(name, ModelUse())
    more = ModelUse(
        tokens=had.tokens + usage.input_tokens + usage.output_tokens,
        cost_micros=had.cost_micros if usage.cost_micros is None else (had.cost_micros or 0) + usage.cost_micros,
        unpriced=had.unpriced + is_unpriced,
    )
    return {**models, name: more}


def _failure(event: AgentError) -> Failure:
    code = event.code or ""
    kind: Literal["system", "dependency", "audit", "agent"] = "dependency" if code.startswith("DEP_") else "system"
    match event.error_type:
        case "system" | "dependency" | "audit" | "agent" as said:
            kind = said
        case _:
            pass
    return Failure(
        type=kind,
        code=code,
        message=event.message,
        retryable=event.retryable,
        diagnostic_path=event.diagnostic_path,
    )


def _only_step(run: Run) -> str | None:
    """The step whose tokens these are, where only one can be meant."""
    if len(run.open_turns) == 1:
        return run.open_turns[0].step
    return run.open_steps[0].step if len(run.open_steps) == 1 and not run.open_turns else None


def _repeated_tool(repeats: Repeats, event: ToolReturned) -> Repeats:
    if event.call_id != repeats.call_id:
        return repeats  # One of several calls at once, of which the last tells.
    tool = _in_short(f"{repeats.call} {event.status} {_encode(event.result).decode()}")
    return replace(repeats, tool=tool, tools=repeats.tools + 1 if tool == repeats.tool else 1)


def _in_short(text: str) -> str:
    if len(text) <= REPEATED_CHARACTERS_MAX:
        return text
    return f"{text[:REPEATED_CHARACTERS_MAX]}… {len(text)} {zlib.crc32(text.encode())}"


COUNTS: dict[type, Callable[[Run, Any], Changes]] = {
    **dict.fromkeys((SubprocessOutput, Message, Reasoning, FileRead), lambda _, __: {}),
    ToolCalled: _tool_called,
    ToolReturned: _tool_returned,
    CommandExecuted: _command_executed,
    AgentError: _agent_error,
    FileWritten: _file_written,
    TestRunCompleted: _tested,
    TokenUsage: _used,
}
