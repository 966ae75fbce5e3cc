"""What agents printed, recorded or written here, as the events that it becomes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from runfold.events import Event, TokenUsage, Unknown
from runner.formats.choosing import parser_of, recognise
from runner.formats.contract import Parser

RECORDINGS = Path(__file__).parent / "recordings"
SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
OURS = sorted(path for path in RECORDINGS.glob("*/*.jsonl") if "." not in path.stem)


def recording(name: str) -> Path:
    """A recording of the project's own, or one that stays outside of it because others wrote its words."""
    path = RECORDINGS / f"{name}.jsonl"
    if not path.exists():
        path = SHARED / "captured" / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"`{name}` is recorded outside of the project, and that folder is absent here")
    return path


def parse(parser: Parser, lines: Sequence[str]) -> list[Event | Unknown]:
    return [*(event for line in lines for event in parser.line(line)), *parser.end()]


def replay(name: str) -> tuple[Parser, list[Event | Unknown]]:
    lines = recording(name).read_text().splitlines(keepends=True)
    parser = parser_of(recognise(lines))
    return parser, parse(parser, lines)


def of_objects(name: str, *objects: object) -> tuple[Parser, list[Event | Unknown]]:
    parser = parser_of(name)
    return parser, parse(parser, [json.dumps(found) for found in objects])


def totals(events: Sequence[Event | Unknown]) -> tuple[int, int, int, int]:
    usages = [event for event in events if isinstance(event, TokenUsage)]
    return (
        sum(usage.input_tokens for usage in usages),
        sum(usage.cache_read_tokens for usage in usages),
        sum(usage.output_tokens for usage in usages),
        sum(usage.reasoning_tokens for usage in usages),
    )


def result(**fields: object) -> dict[str, object]:
    return {"type": "result", "subtype": "success", "is_error": False, "session_id": "s", **fields}


def assistant(message_id: str, tokens: int, model: str = "m", **more: object) -> dict[str, object]:
    message: dict[str, Any] = {
        "id": message_id,
        "model": model,
        "content": [],
        "usage": {"input_tokens": tokens, "output_tokens": 1},
    }
    return {"type": "assistant", "message": message, **more}


def tool_use(call_id: str, name: str, **given: object) -> dict[str, object]:
    return {
        "type": "assistant",
        "message": {"content": [{"type": "tool_use", "id": call_id, "name": name, "input": given}]},
    }


def tool_result(call_id: str, content: object, details: object = None, **more: object) -> dict[str, object]:
    block = {"type": "tool_result", "tool_use_id": call_id, "content": content, **more}
    return {"type": "user", "message": {"content": [block]}, "tool_use_result": details}
