"""The answer to a report leaves as one piece, and nobody who asks can tell."""

import asyncio
import json
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from tests.served import ADMIN, Served, note, serving


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as server:
        yield server


def report(served: Served, run_id: str, *, version: str = "1.1", more: str = "", text: int = 1) -> bytes:
    body = json.dumps({"events": [note(text)]}).encode()
    head = (
        f"POST /api/runs/{run_id}/events HTTP/{version}\r\nHost: 127.0.0.1:{served.client.port}\r\n"
        f"Authorization: Bearer {ADMIN}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    )
    return head.encode() + body


async def sent(served: Served, content: bytes) -> bytes:
    """What comes back until the server closes the connection."""
    assert served.client.port is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", served.client.port)
    writer.write(content)
    answer = await reader.read()
    writer.close()
    return answer


async def test_the_answer_to_a_report_has_the_headers_of_every_answer(served: Served) -> None:
    run_id = await served.open_run()

    reported = await served.report(run_id, note(1))
    other = await served.ask("POST", f"/api/runs/{run_id}/heartbeat", json={})

    own = {"Runfold-Status", "Content-Length", "Date"}
    assert {(k, v) for k, v in reported.headers.items() if k not in own} == {
        (k, v) for k, v in other.headers.items() if k not in own
    }
    assert reported.headers["Runfold-Status"] == "running"
    assert parsedate_to_datetime(reported.headers["Date"]).tzinfo is not None
    assert int(reported.headers["Content-Length"]) == len(await reported.read())


@pytest.mark.parametrize(("version", "more"), [("1.1", "Connection: close\r\n"), ("1.0", "")])
async def test_a_reporter_who_wants_the_connection_closed_gets_his_answer_and_its_end(
    served: Served, version: str, more: str
) -> None:
    run_id = await served.open_run()

    head, _, body = (await sent(served, report(served, run_id, version=version, more=more))).partition(b"\r\n\r\n")

    assert head.startswith(f"HTTP/{version} 200 OK\r\n".encode())
    assert json.loads(body)["version"] == 3


async def test_reports_sent_without_waiting_are_answered_in_their_order(served: Served) -> None:
    run_id = await served.open_run()
    content = b"".join(report(served, run_id, text=number) for number in range(20))

    answers = await sent(served, content + report(served, run_id, more="Connection: close\r\n"))

    bodies = [json.loads(part.partition(b"\r\n\r\n")[2]) for part in answers.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert [body["version"] for body in bodies] == list(range(3, 24))
