"""Events as items of the Responses API: the same facts, one for one, and none left out."""

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runfold import events as e
from runfold.envelope import Recorded
from runfold.items import item_json
from runner.formats.choosing import parser_of, recognise
from tests.served import note, serving

RECORDINGS = Path(__file__).parent / "recordings"
OURS = sorted(path for path in RECORDINGS.glob("*/*.jsonl") if "." not in path.stem)


def recorded(event: e.Event | e.Unknown, version: int = 1, data: bytes | None = None) -> Recorded:
    return Recorded(
        position=version, run_id="r_x", version=version, id=f"id-{version}", type=e.event_type(event), schema=1,
        at_us=0, recorded_at_us=0, tenant="default", actor="worker:w", cause=None, command=None, sent=None,
        correlation="r_x", hash=bytes(32), data=e.encode_data(event) if data is None else data,
    )  # fmt: skip


def item(event: e.Event | e.Unknown) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(item_json(recorded(event)))
    assert (found.pop("id"), found.pop("sequence_number")) == ("id-1", 1)
    return found


def items_of(path: Path) -> list[bytes]:
    """A whole run around a recording, as items."""
    lines = path.read_text().splitlines()
    parser = parser_of(recognise(lines))
    told = [*(event for line in lines for event in parser.line(line)), *parser.end()]
    opened: list[e.Event] = [e.RunQueued(driver="here", title="a run"), e.RunStarted(worker="w", pid=1)]
    turned = e.TurnStarted(turn=1), *told, e.TurnCompleted(turn=1, exit_code=0)
    ended = e.RunCompleted(reason_code="EXIT_ZERO", exit_code=0)
    return [item_json(recorded(event, version)) for version, event in enumerate((*opened, *turned, ended), 1)]


@pytest.mark.parametrize("path", OURS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_recording_becomes_exactly_the_items_that_are_kept_beside_it(path: Path) -> None:
    golden = path.with_suffix(".items.jsonl")

    content = b"".join(item + b"\n" for item in items_of(path))

    if os.environ.get("RUNFOLD_GOLDEN") == "write":
        golden.write_bytes(content)
    assert content == golden.read_bytes()


@pytest.mark.parametrize("path", OURS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_event_of_a_recording_is_one_item_that_says_the_same(path: Path) -> None:
    lines = path.read_text().splitlines()
    parser = parser_of(recognise(lines))
    events = [*(event for line in lines for event in parser.line(line)), *parser.end()]

    for version, event in enumerate(events, 1):
        found = json.loads(item_json(recorded(event, version)))
        assert found["sequence_number"] == version
        match event:
            case e.Message():
                assert (found["type"], found["content"][0]["text"]) == ("message", event.text)
            case e.Reasoning():
                assert (found["type"], found["summary"][0]["text"]) == ("reasoning", event.text)
            case e.ToolCalled():
                assert (found["type"], found["name"], found["call_id"]) == ("function_call", event.tool, event.call_id)
                assert json.loads(found["arguments"]) == event.arguments
            case e.ToolReturned():
                assert (found["type"], found["call_id"]) == ("function_call_output", event.call_id)
                assert found["output"] == (event.result or "")
            case _:
                assert (found["type"], found["event"]) == ("runfold.event", e.event_type(event))
                assert found["data"] == json.loads(e.encode_data(event))


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (e.RunQueued(), "response.queued"),
        (e.RunStarted(), "response.in_progress"),
        (e.RunResumed(), "response.in_progress"),
        (e.RunCompleted(reason_code="EXIT_ZERO"), "response.completed"),
        (e.RunFailed(reason_code="CRASHED"), "response.failed"),
        (e.RunStopped(reason_code="STUCK_LOOP"), "response.incomplete"),
        (e.RunCancelled(), "response.cancelled"),
    ],
)
def test_a_run_lives_as_a_response(event: e.Event, kind: str) -> None:
    found = item(event)

    assert found["type"] == kind
    assert found["response"]["id"] == "r_x"
    assert found["response"]["status"] == kind.partition(".")[2]


def test_a_failed_response_says_why() -> None:
    failed = e.RunFailed(reason_code="TURN_FAILED", error=e.Failure(code="DEP_API_REFUSED", message="no key"))

    assert item(failed)["response"]["error"] == {"code": "DEP_API_REFUSED", "message": "no key"}


def test_what_has_no_form_there_is_passed_on_whole() -> None:
    assert item(e.UnitsPlanned(total=3)) == {"type": "runfold.event", "event": "units_planned", "data": {"total": 3}}
    unknown = e.Unknown(type="brand_new", data=msgspec.Raw(b'{"a":1}'))
    assert item(unknown) == {"type": "runfold.event", "event": "brand_new", "data": {"a": 1}}


def test_data_that_no_longer_decodes_is_passed_on_whole() -> None:
    broken = recorded(e.Message(text="x"), data=b'{"text":5}')

    assert json.loads(item_json(broken))["data"] == {"text": 5}


def test_an_interrupted_tool_is_incomplete() -> None:
    found = item(e.ToolReturned(call_id="1", status="interrupted"))

    assert (found["type"], found["status"], found["output"]) == ("function_call_output", "incomplete", "")


def data_lines(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in content.splitlines() if line.startswith(b"data: {")]


async def test_the_list_and_the_stream_give_the_same_items(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        run_id = await served.open_run(title="a")
        await served.report(run_id, note(1), {"type": "reasoning", "data": {"text": "hm"}})
        await served.control(run_id, "complete")

        listed = await (await served.ask("GET", f"/api/runs/{run_id}/events?format=items")).json()
        stream = await served.ask("GET", f"/api/runs/{run_id}/stream?format=items")
        streamed = data_lines(await stream.read())
        wrong = await served.ask("GET", f"/api/runs/{run_id}/events?format=xml")

    assert [found["type"] for found in listed["items"]] == [
        *("response.queued", "response.in_progress", "message", "reasoning", "response.completed"),
    ]
    assert streamed == listed["items"]
    assert listed["total"] == 5
    assert wrong.status == 400
