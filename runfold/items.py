"""The same events as items of the Responses API, for clients that speak it; nothing is left out.

What has no form there is a `runfold.event` with the envelope's data. One event is one item, so a position in one form
is a position in the other. Of a text that is stored apart, the item shows how it begins.
"""

from typing import Any

import msgspec

from runfold.envelope import Recorded
from runfold.errors import InvalidEvent
from runfold.events import (
    Event,
    Json,
    Message,
    Reasoning,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunQueued,
    RunResumed,
    RunStarted,
    RunStopped,
    ToolCalled,
    ToolReturned,
    Unknown,
)

_encode = msgspec.json.Encoder().encode
_NULL = msgspec.Raw(b"null")


def item_json(recorded: Recorded) -> bytes:
    """The public JSON of a recorded event as an item, one line."""
    try:
        event = recorded.event()
    except InvalidEvent:
        event = None
    item = None if event is None else _item(event, recorded.run_id)
    if item is None:
        data = _NULL if recorded.data is None else msgspec.Raw(recorded.data)
        item = {"type": "runfold.event", "event": recorded.type, "data": data}
    return _encode({**item, "id": recorded.id, "sequence_number": recorded.version})


def _item(event: Event | Unknown, run_id: str) -> dict[str, Any] | None:
    match event:
        case Message():
            kind = "output_text" if event.role == "assistant" else "input_text"
            content: dict[str, Json] = {"type": kind, "text": event.text}
            if kind == "output_text":
                content["annotations"] = []
            return {"type": "message", "role": event.role, "status": "completed", "content": [content]}
        case Reasoning():
            return {"type": "reasoning", "summary": [{"type": "summary_text", "text": event.text}]}
        case ToolCalled():
            return {
                "type": "function_call",
                "call_id": event.call_id,
                "name": event.tool,
                "arguments": _text({} if event.arguments is None else event.arguments),
                "status": "in_progress",
            }
        case ToolReturned():
            # Responses-API knows a call that was cut off, and leaves how one failed to its output.
            status = "incomplete" if event.status == "interrupted" else "completed"
            output = "" if event.result is None else _text(event.result)
            return {"type": "function_call_output", "call_id": event.call_id, "output": output, "status": status}
        case _:
            return _lifecycle(event, run_id)


def _lifecycle(event: Event | Unknown, run_id: str) -> dict[str, Any] | None:
    more: dict[str, Json] = {}
    match event:
        case RunQueued():
            status = "queued"
        case RunStarted() | RunResumed():
            status = "in_progress"
        case RunCompleted():
            status = "completed"
        case RunFailed():
            status = "failed"
            more = {"error": {"code": event.error.code or event.reason_code, "message": event.error.message}}
        case RunStopped():
            # It can go on, so it is neither a failure nor the end.
            status = "incomplete"
            more = {"incomplete_details": {"reason": event.reason_code}}
        case RunCancelled():
            status = "cancelled"
        case _:
            return None
    response = {"id": run_id, "object": "response", "status": status, **more}
    return {"type": f"response.{status}", "response": response}


def _text(value: Json) -> str:
    return value if isinstance(value, str) else _encode(value).decode()
