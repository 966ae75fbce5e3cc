"""A run's output and artifacts over HTTP: whole, in parts, and harmless."""

import hashlib
import json
from collections.abc import AsyncIterator
from itertools import accumulate
from pathlib import Path

import pytest

from api import files
from eventstore.objects import blobs
from tests.served import ADMIN, OTHER, VIEWER, Served, serving


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as served:
        yield served


def write_output(tmp_path: Path, run_id: str, content: bytes) -> None:
    folder = tmp_path / "runs" / run_id
    folder.mkdir(parents=True)
    (folder / "output.log").write_bytes(content)


async def test_output_comes_whole_in_ranges_or_as_its_last_lines(served: Served, tmp_path: Path) -> None:
    run_id = await served.open_run()
    content = b"".join(b"line %d\n" % number for number in range(1, 101))
    write_output(tmp_path, run_id, content)
    address = f"/api/runs/{run_id}/output"

    whole = await served.ask("GET", address)
    part = await served.ask("GET", address, headers={"Range": "bytes=5-13"})
    tail = await served.ask("GET", address + "?tail=2")

    assert await whole.read() == content
    assert (part.status, await part.read()) == (206, content[5:14])
    assert await tail.read() == b"line 99\nline 100\n"
    assert content[int(tail.headers["Runfold-Offset"]) :] == b"line 99\nline 100\n"
    assert "sandbox" in whole.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("content", "lines", "tail"), [(b"", 5, b""), (b"a", 1, b"a"), (b"a\nb", 1, b"b"), (b"\n\n", 1, b"\n")]
)
async def test_a_tail_of_little_is_what_there_is(
    served: Served, tmp_path: Path, content: bytes, lines: int, tail: bytes
) -> None:
    run_id = await served.open_run()
    write_output(tmp_path, run_id, content)

    response = await served.ask("GET", f"/api/runs/{run_id}/output?tail={lines}")

    assert await response.read() == tail


async def test_who_follows_output_is_given_what_came_since_and_nothing_is_no_error(
    served: Served, tmp_path: Path
) -> None:
    run_id = await served.open_run()
    write_output(tmp_path, run_id, b"one\n")
    address = f"/api/runs/{run_id}/output?after="

    whole = await served.ask("GET", address + "0")
    nothing = await served.ask("GET", address + "4")
    with (tmp_path / "runs" / run_id / "output.log").open("ab") as output:
        output.write(b"two\n")
    more = await served.ask("GET", address + "4")
    beyond = await served.ask("GET", address + "400")

    assert [(it.status, await it.read()) for it in (whole, nothing, more)] == [
        (200, b"one\n"),
        (204, b""),
        (200, b"two\n"),
    ]
    assert (beyond.headers["Runfold-Offset"], await beyond.read()) == ("0", b"one\ntwo\n")
    assert (await served.ask("GET", address + "4&tail=3")).status == 400


async def test_output_is_told_as_it_was_at_an_event(served: Served, tmp_path: Path) -> None:
    run_id = await served.open_run()
    lines = [f"line {number} ✓\n".encode() for number in range(1_200)]
    write_output(tmp_path, run_id, b"".join(lines))
    offsets = list(accumulate((len(line) for line in lines), initial=0))
    for first in range(0, 1_200, 300):
        answer = await served.report(
            run_id,
            {"type": "message", "data": {"text": "on it goes"}},
            *({"type": "subprocess_output", "data": {"text": lines[n].decode(), "offset": offsets[n]}}
              for n in range(first, first + 300)),
        )  # fmt: skip
        assert answer.status == 200, await answer.text()

    async def ends_with(at: str) -> bytes:
        content: bytes = await (await served.ask("GET", f"/api/runs/{run_id}/output?tail=1&at={at}")).read()
        return content

    # Two events open the run, and each of the four reports begins with a message.
    assert [await ends_with(f"v{version}") for version in (2, 3)] == [b"", b""]
    assert await ends_with("v4") == lines[0]
    assert await ends_with("v303") == await ends_with("v304") == lines[299]
    assert await ends_with("v1206") == await ends_with("v9999") == lines[1_199]


async def test_a_run_without_output_says_so(served: Served) -> None:
    run_id = await served.open_run()

    response = await served.ask("GET", f"/api/runs/{run_id}/output")

    assert response.status == 404
    assert "no output" in (await response.json())["detail"]


async def test_an_artifact_is_stored_before_the_event_that_names_it(served: Served, tmp_path: Path) -> None:
    run_id = await served.open_run()
    content = bytes(range(256)) * 4_096
    headers = {"Idempotency-Key": "k", "Content-Type": "image/png"}
    address = f"/api/runs/{run_id}/artifacts/sheet%20one.png?step=export&media_type=image/png"

    first = await served.ask("PUT", address, data=content, headers=headers)
    again = await served.ask("PUT", address, data=content, headers=headers)
    other = await served.ask("PUT", address, data=b"other", headers=headers)

    answer = await first.json()
    assert first.status == 201
    assert answer == await again.json()
    assert other.status == 422
    assert answer["sha256"] == hashlib.sha256(content).hexdigest()
    assert blobs.get(tmp_path, answer["sha256"]) == content
    got = await served.ask("GET", first.headers["Location"])
    assert await got.read() == content
    assert got.headers["Content-Type"] == "image/png"
    assert got.headers["Content-Disposition"] == "attachment; filename*=UTF-8''sheet%20one.png"
    part = await served.ask("GET", first.headers["Location"], headers={"Range": "bytes=1-2"})
    assert (part.status, await part.read()) == (206, content[1:3])
    events = [event for page in [await served.events(run_id)] for event in page if event["type"] == "artifact_stored"]
    assert [event["data"]["name"] for event in events] == ["sheet one.png"]
    assert list((tmp_path / "blobs").glob(".new-*")) == []


async def test_an_artifact_that_is_too_large_leaves_nothing_behind(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "ARTIFACT_BYTES_MAX", 1_000)
    run_id = await served.open_run()

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 500

    said = await served.ask("PUT", f"/api/runs/{run_id}/artifacts/a", data=b"x" * 1_001)
    unsaid = await served.ask("PUT", f"/api/runs/{run_id}/artifacts/a", data=chunks())

    assert (said.status, unsaid.status) == (413, 413)
    assert not [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]


async def test_files_of_another_tenant_are_as_unknown_as_any(served: Served, tmp_path: Path) -> None:
    run_id = await served.open_run(token=ADMIN)
    write_output(tmp_path, run_id, b"secret")

    foreign = await served.ask("GET", f"/api/runs/{run_id}/output", token=OTHER)
    unknown = await served.ask("GET", f"/api/runs/{'r_' + 'a' * 26}/output", token=OTHER)
    artifact = await served.ask("GET", f"/api/runs/{run_id}/artifacts/a", token=OTHER)
    put = await served.ask("PUT", f"/api/runs/{run_id}/artifacts/a", token=OTHER, data=b"x")

    assert (foreign.status, artifact.status, put.status) == (404, 404, 404)
    assert json.loads((await foreign.text()).replace(run_id, "X")) == json.loads(
        (await unknown.text()).replace("r_" + "a" * 26, "X")
    )


async def test_a_viewer_stores_nothing(served: Served) -> None:
    run_id = await served.open_run()

    response = await served.ask("PUT", f"/api/runs/{run_id}/artifacts/a", token=VIEWER, data=b"x")

    assert response.status == 403
