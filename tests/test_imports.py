"""Recorded sessions of other programs become finished runs, once, with the times at which they happened."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from eventstore.objects import blobs
from eventstore.sqlite import SqliteLog
from runfold.commands import Resume
from runfold.envelope import time_text
from runfold.errors import NotAllowed
from runfold.events import Message, ToolReturned
from runner.imports.importing import import_file, read_file
from runner.imports.recognise import FORMATS
from tests.book import Book, write
from tests.import_samples import CLAUDE, CODEX, SAMPLES, claude, lines
from tests.terminal import runfold
from tests.working import working

ROOT = Path(__file__).parent.parent
MANY = 1000


@pytest.fixture
async def book(tmp_path: Path) -> AsyncIterator[Book]:
    log = await SqliteLog.open(tmp_path / "data")
    yield Book(log, tmp_path / "data")
    await log.close()


@pytest.fixture
async def other(tmp_path: Path) -> AsyncIterator[Book]:
    log = await SqliteLog.open(tmp_path / "other")
    yield Book(log, tmp_path / "other")
    await log.close()


def long_session(count: int = MANY) -> str:
    said = (claude(number % 60, "user", {"role": "user", "content": f"prompt {number}"}) for number in range(count))
    return lines(*said)


def steps_of(kinds: Counter[str]) -> tuple[int, int, int]:
    return kinds["step_completed"], kinds["step_failed"], kinds["step_cancelled"]


@pytest.mark.parametrize("name", sorted(SAMPLES))
async def test_each_format_is_recognised_by_its_content_and_becomes_a_run_that_is_over(
    name: str, book: Book, tmp_path: Path
) -> None:
    sample = SAMPLES[name]

    found = await book.bring(write(tmp_path, sample.content))

    assert len(found) == sample.runs
    assert found[0].format == sample.format
    run = await book.ledger.state(found[0].run_id)
    events = await book.events(found[0].run_id)
    kinds = Counter(event.type for event in events)
    tokens = run.tokens
    assert (run.driver, run.status, run.reason_code) == ("imported", sample.status, sample.reason)
    assert run.claim == 0
    assert (run.turns, kinds["tool_called"], kinds["command_executed"], run.files) == (
        sample.turns,
        sample.calls,
        sample.commands,
        sample.files,
    )
    assert steps_of(kinds) == sample.steps
    assert sample.tokens == (
        tokens.input_tokens,
        tokens.cache_read_tokens,
        tokens.output_tokens,
        tokens.reasoning_tokens,
    )
    assert run.cost_micros == sample.cost_micros
    assert (run.turn_open, run.open_tools, run.open_steps) == (False, {}, ())


def test_every_format_has_a_sample() -> None:
    assert {form.name for form in FORMATS} == {sample.format for sample in SAMPLES.values()}


@pytest.mark.parametrize("name", sorted(SAMPLES))
async def test_the_same_file_twice_adds_nothing_and_says_so(name: str, book: Book, tmp_path: Path) -> None:
    path = write(tmp_path, SAMPLES[name].content)
    first = await book.bring(path)
    head = await book.head()

    again = await book.bring(path.rename(tmp_path / "moved"))

    assert await book.head() == head
    assert [item.run_id for item in again] == [item.run_id for item in first]
    assert [item.events_new for item in again] == [0] * len(first)
    assert [item.events_known for item in again] == [item.events_new for item in first]
    assert not any(item.changed for item in again)


async def test_every_event_keeps_the_time_of_its_source(book: Book, tmp_path: Path) -> None:
    (found,) = await book.bring(write(tmp_path, CODEX))

    run = await book.ledger.state(found.run_id)
    events = await book.events(found.run_id)
    assert [time_text(us)[11:19] for us in (run.created_at_us, run.started_at_us or 0, run.completed_at_us or 0)] == [
        "03:04:00", "03:04:00", "03:04:10",
    ]  # fmt: skip
    called = next(event for event in events if event.type == "tool_called")
    assert time_text(called.at_us) == "2026-01-02T03:04:03.000000Z"
    assert all(event.recorded_at_us > called.at_us for event in events)


async def test_what_happens_before_the_first_time_of_a_source_takes_that_time(book: Book, tmp_path: Path) -> None:
    (found,) = await book.bring(write(tmp_path, SAMPLES["claude stream"].content))

    assert {time_text(event.at_us) for event in await book.events(found.run_id)} == {"2026-01-02T03:04:05.000000Z"}


async def test_a_source_without_times_takes_the_date_of_its_file(book: Book, tmp_path: Path) -> None:
    path = write(tmp_path, SAMPLES["swe-agent"].content)
    os.utime(path, (1_700_000_000, 1_700_000_000))

    (found,) = await book.bring(path)

    assert {event.at_us for event in await book.events(found.run_id)} == {1_700_000_000_000_000}


async def test_a_record_that_is_not_known_is_kept_whole_as_telemetry(book: Book, tmp_path: Path) -> None:
    (found,) = await book.bring(write(tmp_path, CODEX))

    (kept,) = [event for event in await book.events(found.run_id) if event.type == "telemetry"]
    data = json.loads(kept.data or b"")
    assert found.records_unknown == 1
    assert data["name"] == "codex-rollout.never_seen_before"
    assert data["data"]["payload"]["detail"] == 1


async def test_what_a_sub_agent_said_is_marked(book: Book, tmp_path: Path) -> None:
    (found,) = await book.bring(write(tmp_path, CLAUDE))

    events = [event.event() for event in await book.events(found.run_id)]
    told = {event.text: event.role for event in events if isinstance(event, Message)}
    assert told["I looked"] == "subagent"
    assert told["Done"] == "assistant"
    assert "Look closely" not in told


async def test_a_call_that_never_returned_is_closed_as_interrupted(book: Book, tmp_path: Path) -> None:
    whole = CLAUDE.splitlines(keepends=True)

    (found,) = await book.bring(write(tmp_path, "".join(whole[:3])))

    events = [event.event() for event in await book.events(found.run_id)]
    assert [event.status for event in events if isinstance(event, ToolReturned)] == ["interrupted"]
    assert (found.status, found.reason_code) == ("failed", "NO_TERMINAL_EVENT")


async def test_an_import_that_was_cut_is_completed_by_the_next_one(book: Book, other: Book, tmp_path: Path) -> None:
    path = write(tmp_path, long_session())
    (expected,) = await other.bring(path)

    def fail(events: int) -> None:
        if events >= MANY:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await import_file(book.ledger, read_file(path), tenant="default", actor="user:a", progress=fail)
    half = await book.ledger.state(expected.run_id)
    (found,) = await book.bring(path)

    assert half.status == "running"
    assert 0 < half.version < found.events_known + found.events_new
    assert found.events_known == half.version
    assert [(event.id, event.at_us, event.data) for event in await book.events(found.run_id)] == [
        (event.id, event.at_us, event.data) for event in await other.events(expected.run_id)
    ]


async def test_a_file_that_grew_is_not_added_to_a_finished_run_but_can_be_imported_again(
    book: Book, tmp_path: Path
) -> None:
    whole = CLAUDE.splitlines(keepends=True)
    path = write(tmp_path, "".join(whole[:4]))
    (first,) = await book.bring(path)
    path.write_text(CLAUDE)

    (known,) = await book.bring(path)
    (again,) = await book.bring(path, again=True)
    (twice,) = await book.bring(path, again=True)

    assert (known.run_id, known.events_new, known.changed) == (first.run_id, 0, True)
    assert (again.run_id == first.run_id, again.status) == (False, "completed")
    assert (twice.run_id, twice.events_new) == (again.run_id, 0)


async def test_tenants_that_import_the_same_file_each_get_a_run(book: Book, tmp_path: Path) -> None:
    path = write(tmp_path, CODEX)

    (ours,) = await book.bring(path)
    (theirs,) = await import_file(book.ledger, read_file(path), tenant="other", actor="user:b")

    assert ours.run_id != theirs.run_id
    assert theirs.events_new == ours.events_new


async def test_a_session_that_was_recorded_twice_in_two_ways_is_one_run(book: Book, tmp_path: Path) -> None:
    (first,) = await book.bring(write(tmp_path, CODEX))

    (printed,) = await book.bring(write(tmp_path, SAMPLES["codex exec"].content.replace("c-2", "c-1")))

    assert (printed.run_id, printed.events_new, printed.changed) == (first.run_id, 0, True)


async def test_an_imported_run_cannot_go_on_here(book: Book, tmp_path: Path) -> None:
    (found,) = await book.bring(write(tmp_path, SAMPLES["swe-agent out of money"].content))

    with pytest.raises(NotAllowed, match="cannot be resumed"):
        await book.ledger.execute(
            found.run_id, Resume(), command_id="01a1fbd7-45cb-7512-b63c-b5efbc448354", actor="user:a", tenant="default"
        )


async def test_a_text_longer_than_an_event_can_hold_is_kept_whole_beside_it(book: Book, tmp_path: Path) -> None:
    said = "word " * 100_000
    path = write(tmp_path, lines(claude(0, "user", {"role": "user", "content": said})))

    (found,) = await book.bring(path)

    (message,) = [event for event in await book.events(found.run_id) if event.type == "message"]
    kept = json.loads(message.data or b"")["text"]
    assert blobs.get(book.data, kept["blob"]) == said.encode()
    assert found.title.startswith("word word")


async def test_a_record_too_large_without_any_long_text_is_cut_and_does_not_stop_the_import(
    book: Book, tmp_path: Path
) -> None:
    called = {"type": "tool_use", "id": "t", "name": "Many", "input": {"numbers": list(range(50_000))}}
    path = write(tmp_path, lines(claude(0, "assistant", {"content": [called]})))

    (found,) = await book.bring(path)

    assert [event.type for event in await book.events(found.run_id)][2] in ("tool_called", "telemetry")


@pytest.mark.slow
def test_a_long_file_is_read_in_bounded_memory(tmp_path: Path) -> None:
    path = write(tmp_path, long_session(64_000))
    program = (
        "import resource, sys; from pathlib import Path; from runner.imports.recognise import Telling;"
        "from runner.imports.source import Source;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "told = sum(1 for _ in Telling(Source(Path(sys.argv[1])), fallback_us=0).events());"
        "print(told, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=100, check=True
    )

    told, grown_kib = map(int, done.stdout.split())
    assert told > 120_000
    assert path.stat().st_size > 8_000_000
    assert grown_kib < 4_000


@pytest.mark.slow
def test_an_import_of_files_at_fault_alone_makes_nothing(tmp_path: Path) -> None:
    data, folder, missing = tmp_path / "data", tmp_path / "folder", tmp_path / "missing"
    folder.mkdir()
    cut = write(tmp_path, CODEX + "{", "cut")

    done = runfold(data, "import", str(missing), str(folder), str(cut))

    assert done.returncode == 1
    assert f"error: there is no file `{missing}`\n\nhint: check the name" in done.stderr
    assert not data.exists()


@pytest.mark.slow
def test_one_bad_file_does_not_stop_the_others_and_the_command_says_which(tmp_path: Path) -> None:
    good, bad = write(tmp_path, CODEX, "good"), write(tmp_path, "oops", "bad")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RUNFOLD_")}

    def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "runfold", "--data", str(tmp_path / "data"), *arguments],
            cwd=ROOT, env=kept, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    first = command("import", str(bad), str(good), "--json")
    second = command("import", str(good))
    shown = command("ps", "--all", "--json")

    answer = json.loads(first.stdout)
    assert first.returncode == 1
    assert [item["file"] for item in answer["imported"]] == [str(good)]
    assert [item["file"] for item in answer["refused"]] == [str(bad)]
    assert f"`{bad}` line 1" in first.stderr
    assert second.returncode == 0
    assert "nothing new" in second.stdout
    assert [item["id"] for item in json.loads(shown.stdout)["items"]] == [answer["imported"][0]["run_id"]]


@pytest.mark.slow
async def test_a_session_that_a_run_here_drove_is_not_counted_again(tmp_path: Path) -> None:
    recording = ROOT / "tests" / "recordings" / "codex" / "work.jsonl"
    path = write(tmp_path, recording.read_text())
    async with working(tmp_path, f"[workflow.w]\nformat = 'codex'\ncommand = ['cat', '{recording}']\n") as worker:
        run_id = await worker.queue("w")
        await worker.wait_rest(run_id)
        head = (await worker.log.bounds()).last
        who: dict[str, Any] = {"tenant": "default", "actor": "user:a", "data": worker.data}

        (known,) = await import_file(worker.ledger, read_file(path), **who)
        after = (await worker.log.bounds()).last
        (anew,) = await import_file(worker.ledger, read_file(path), again=True, **who)
        who["tenant"] = "other"
        (foreign,) = await import_file(worker.ledger, read_file(path), **who)

    assert (known.run_id, known.driven, known.events_new, after) == (run_id, True, 0, head)
    assert (anew.driven, anew.run_id == run_id, anew.events_new > 0) == (False, False, True)
    assert (foreign.driven, foreign.events_new) == (False, anew.events_new)


async def test_a_session_that_was_only_imported_is_known_by_its_own_run(book: Book, tmp_path: Path) -> None:
    path = write(tmp_path, CODEX)

    (first,) = await import_file(book.ledger, read_file(path), tenant="default", actor="user:a", data=book.data)
    (second,) = await import_file(book.ledger, read_file(path), tenant="default", actor="user:a", data=book.data)

    assert (second.run_id, second.driven, second.events_new) == (first.run_id, False, 0)
