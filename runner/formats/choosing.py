"""The formats there are: by name, as a workflow gives it, or recognised from the first lines of an output."""

from collections.abc import Callable, Mapping, Sequence

from runfold.errors import BadRequest
from runfold.events import Json
from runner.formats import claude, codex, gemini, opencode, plain
from runner.formats.contract import Format, Parser
from runner.formats.values import Object, name_of, parse_object

LINES_LOOKED_AT_MAX = 20  # Warnings and banners may come first.

_MAKERS: Mapping[str, tuple[Format, Callable[[Mapping[str, Json]], Parser]]] = {
    "codex": (codex.FORMAT, codex.CodexParser),
    "claude": (claude.FORMAT, claude.ClaudeParser),
    "gemini": (gemini.FORMAT, gemini.GeminiParser),
    "opencode": (opencode.FORMAT, opencode.OpencodeParser),
    "plain": (plain.FORMAT, plain.PlainParser),
}
FORMATS: tuple[Format, ...] = tuple(known for known, _ in _MAKERS.values())


def parser_of(name: str, *, counted: Mapping[str, Json] | None = None) -> Parser:
    """A parser for one turn. `counted` is the `Parser.counted` of the turn before. Raises BadRequest."""
    format_of(name)
    return _MAKERS[name][1](counted or {})


def format_of(name: str) -> Format:
    """Raises BadRequest for a name that is none of the formats'."""
    if name not in _MAKERS:
        known = ", ".join(_MAKERS)
        raise BadRequest(f"format `{name[:100]}` is not known", hint=f"the formats are: {known}")
    return _MAKERS[name][0]


def format_of_command(argv: Sequence[str], name: str | None) -> Format | None:
    """The format that is named, or that of the program; None where only its output will tell. Raises BadRequest."""
    if name is not None:
        return format_of(name)
    program = argv[0].rpartition("/")[2] if argv else ""
    return next((known for known in FORMATS if program in known.programs), None)


def recognise(first_lines: Sequence[str | bytes]) -> str:
    """The name of the format that these lines are in; `plain` where no line shows another."""
    for line in first_lines[:LINES_LOOKED_AT_MAX]:
        found = parse_object(line)
        name = None if found is None else _recognised(name_of(found.get("type")), found)
        if name is not None:
            return name
    return "plain"


def _recognised(kind: str, found: Object) -> str | None:
    if kind in ("thread.started", "turn.started", "item.started", "item.completed"):
        return "codex"
    if kind == "system" and "subtype" in found and "session_id" in found:
        return "claude"
    if kind == "init" and "session_id" in found and "model" in found:
        return "gemini"
    if kind in ("step_start", "text", "tool_use", "error") and "sessionID" in found:
        return "opencode"
    return None
